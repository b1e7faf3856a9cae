import { checkDeviceTensor, type Device, type DeviceTensor } from "./devices/device.ts";
import { requestDevice } from "./devices/request-device.ts";
import type { Model } from "./engine/model.ts";
import { InferenceSession } from "./engine/session.ts";
import { refuse } from "./errors.ts";
import { Graph } from "./graph/graph.ts";
import { custom } from "./graph/ops/custom.ts";
import {
  scaledDotProductAttentionOp,
  splitOptions,
} from "./graph/ops/scaled-dot-product-attention.ts";
import { TensorType } from "./graph/tensor-type.ts";
import { checkVariant } from "./kernels/attention/select.ts";
import {
  type AttentionOptions,
  type AttentionResults,
  attentionOutputs,
  checkKvLengths,
  inverseRootDepth,
  resolveAttention,
  unscaled,
} from "./kernels/attention/spec.ts";
import { checkTensor, isTensor, type Tensor } from "./tensor/tensor.ts";

/** Options of one call: those of the operator, and where to run. */
export interface AttentionCallOptions<T> extends AttentionOptions<T> {
  /** Default: that of the device tensors given; else one shared device, opened at the first such call. */
  readonly device?: Device | undefined;
}

type AnyTensor = Tensor | DeviceTensor;

/** What a call resolves to: the output alone, or with those asked for by name. */
type Result<T, Options> = Options extends { readonly outputs: readonly unknown[] }
  ? AttentionResults<T>
  : T;

/**
 * softmax(Q·Kᵀ)·V, unscaled: the canonical definition (A. Vaswani et al., "Attention Is All You Need",
 * arXiv:1706.03762, equation 1, without its 1/√d), in fused kernels, with every option of
 * {@link scaledDotProductAttention}. Behind it is a graph, kept for each set of shapes and options.
 *
 * @param q `[d]`, `[queries, d]`, `[batch, queryHeads, queries, d]` or packed
 *   `[batch, queries, queryHeads·d]`; float32, float16 or bfloat16.
 * @param k `[keys, d]`, `[batch, kvHeads, keys, d]` or `[batch, keys, kvHeads·d]`; as q.
 * @param v as k, with a depth of its own.
 * @returns As q, with v's depth: on the host if all tensors given are, else on the device. With
 *   `outputs`, an object of `output` and those named.
 * @throws QkvError, before anything is enqueued, naming the argument, the rule and what was got;
 *   DeviceLostError if the device is lost.
 */
export function attention<const Options extends AttentionCallOptions<Tensor>>(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options?: Options,
): Promise<Result<Tensor, Options>>;
export function attention<const Options extends AttentionCallOptions<AnyTensor>>(
  q: AnyTensor,
  k: AnyTensor,
  v: AnyTensor,
  options?: Options,
): Promise<Result<DeviceTensor, Options>>;
export function attention(q: AnyTensor, k: AnyTensor, v: AnyTensor, options = {}) {
  return call("attention", q, k, v, options);
}

/**
 * softmax(scale · Q·Kᵀ)·V with `scale` defaulting to 1/√d, in fused kernels, with every option of ONNX
 * `Attention` (opsets 23–25) and PyTorch's `scaled_dot_product_attention`. Shapes, result and errors as
 * for {@link attention}.
 *
 * @param options See `AttentionOptions`: scale, causal, window, mask, softcap, kvLengths, pastKey,
 *   pastValue, queryHeads, kvHeads, softmaxDtype, outputs; and `device`.
 */
export function scaledDotProductAttention<const Options extends AttentionCallOptions<Tensor>>(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options?: Options,
): Promise<Result<Tensor, Options>>;
export function scaledDotProductAttention<const Options extends AttentionCallOptions<AnyTensor>>(
  q: AnyTensor,
  k: AnyTensor,
  v: AnyTensor,
  options?: Options,
): Promise<Result<DeviceTensor, Options>>;
export function scaledDotProductAttention(q: AnyTensor, k: AnyTensor, v: AnyTensor, options = {}) {
  return call("scaledDotProductAttention", q, k, v, options);
}

async function call(
  operation: "attention" | "scaledDotProductAttention",
  q: AnyTensor,
  k: AnyTensor,
  v: AnyTensor,
  callOptions: AttentionCallOptions<AnyTensor>,
): Promise<AnyTensor | AttentionResults<AnyTensor>> {
  if (typeof callOptions !== "object" || callOptions === null)
    refuse(operation, "options must be an object", callOptions);
  const { device: wantedDevice, ...options } = callOptions;
  if (wantedDevice !== undefined && !wantedDevice?.prepare)
    refuse(operation, "device must be a device (see requestDevice)", wantedDevice);
  const { tensors, given, parameters } = splitOptions(options);
  const inputs = [q, k, v, ...given];
  const names = ["q", "k", "v", ...tensors];
  let device = wantedDevice;
  for (const [i, input] of inputs.entries()) {
    if (isTensor(input)) checkTensor(operation, names[i]!, input);
    else if (input?.device) device ??= input.device;
    else refuse(operation, `${names[i]} must be a tensor`, input);
  }
  for (const [i, input] of inputs.entries())
    if (!isTensor(input)) checkDeviceTensor(operation, names[i]!, input, device!);
  const defaultScale = operation === "attention" ? unscaled : inverseRootDepth;
  const { problem, variant } = resolveAttention(operation, q, k, v, options, defaultScale);
  checkVariant(operation, variant);
  if (options.kvLengths && isTensor(options.kvLengths))
    checkKvLengths(operation, problem, options.kvLengths);
  device ??= await sharedDevice();

  const types = inputs.map(({ dtype, shape }) => new TensorType(dtype, shape));
  const opParameters = {
    ...parameters,
    ...(operation === "attention" && { defaultScale: "unscaled" as const }),
  };
  const model = await cachedModel(
    device,
    `${types.join()} ${JSON.stringify(opParameters)}`,
    () =>
      new Graph(operation, {
        inputTypes: types,
        customExtensions: [scaledDotProductAttentionOp],
        forward: (...values) =>
          custom(scaledDotProductAttentionOp.name, { values, parameters: opParameters }),
      }),
  );
  const results = model.execute(...inputs);
  const onHost = inputs.every(isTensor);
  const returned = onHost ? await readAll(results) : results;
  if (!options.outputs) return returned[0]!;
  const outputNames = attentionOutputs.filter((name) => problem.outputs.includes(name));
  return Object.fromEntries(
    outputNames.map((name, i) => [name, returned[i]]),
  ) as unknown as AttentionResults<AnyTensor>;
}

async function readAll(results: readonly DeviceTensor[]): Promise<Tensor[]> {
  try {
    return await Promise.all(results.map((result) => result.read()));
  } finally {
    for (const result of results) result.destroy();
  }
}

let shared: Promise<Device> | undefined;

/** The device of calls that name none; a new one after a failure or a loss. */
async function sharedDevice(): Promise<Device> {
  const opened = shared ?? requestDevice();
  shared = opened;
  try {
    const device = await opened;
    if (!device.lost) return device;
  } catch (error) {
    if (shared === opened) shared = undefined;
    throw error;
  }
  if (shared === opened) shared = undefined;
  return sharedDevice();
}

/** Models kept for each device. */
const modelsKept = 32;
const models = new WeakMap<Device, Map<string, Promise<Model>>>();

/** The model for `key` on a device, loaded at its first use. */
function cachedModel(device: Device, key: string, build: () => Graph): Promise<Model> {
  let kept = models.get(device);
  if (!kept) {
    kept = new Map();
    models.set(device, kept);
  }
  let model = kept.get(key);
  kept.delete(key); // and put back last: a map keeps the order of insertion
  model ??= new InferenceSession({ device }).load(build());
  kept.set(key, model);
  model.catch(() => kept.delete(key));
  if (kept.size > modelsKept) {
    const [oldestKey, oldest] = kept.entries().next().value!;
    kept.delete(oldestKey);
    oldest.then(
      (evicted) => evicted.destroy(),
      () => {},
    );
  }
  return model;
}
