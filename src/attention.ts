import type { Device, DeviceTensor } from "./devices/device.ts";
import { requestDevice } from "./devices/request-device.ts";
import type { Model } from "./engine/model.ts";
import { InferenceSession } from "./engine/session.ts";
import { refuse } from "./errors.ts";
import { Graph } from "./graph/graph.ts";
import { attentionOp } from "./graph/ops/attention.ts";
import { custom } from "./graph/ops/custom.ts";
import { TensorType } from "./graph/tensor-type.ts";
import { checkTensor, isTensor, type Tensor } from "./tensor/tensor.ts";

/** Options of {@link attention}. */
export interface AttentionCall {
  /** Where to run. Default: one device for all such calls, opened at the first. */
  readonly device?: Device;
}

/**
 * softmax(Q·Kᵀ)·V, unscaled: the canonical definition (A. Vaswani et al., "Attention Is All You Need",
 * arXiv:1706.03762, equation 1, without its 1/√d). Behind it is a graph with {@link attentionOp}, kept for
 * each set of shapes.
 *
 * @param q float32 `[d]` or `[queries, d]`.
 * @param k float32 `[keys, d]`.
 * @param v float32 `[keys, dv]`.
 * @returns float32 `[dv]` or `[queries, dv]`: on the host if q, k and v all are, else on the device.
 * @throws QkvError, before anything is enqueued, on other dtypes or shapes, released tensors, tensors of
 *   different devices, and sizes over the device's limits; DeviceLostError if the device is lost.
 */
export function attention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options?: AttentionCall,
): Promise<Tensor>;
export function attention(
  q: Tensor | DeviceTensor,
  k: Tensor | DeviceTensor,
  v: Tensor | DeviceTensor,
  options?: AttentionCall,
): Promise<Tensor | DeviceTensor>;
export async function attention(
  q: Tensor | DeviceTensor,
  k: Tensor | DeviceTensor,
  v: Tensor | DeviceTensor,
  options: AttentionCall = {},
): Promise<Tensor | DeviceTensor> {
  const inputs = { q, k, v };
  for (const name of Object.keys(options))
    if (name !== "device") refuse("attention", "options must be among device", name);
  let device = options.device;
  for (const [name, input] of Object.entries(inputs)) {
    if (isTensor(input)) checkTensor("attention", name, input);
    else if (input?.device) device ??= input.device;
    else refuse("attention", `${name} must be a tensor`, input);
  }
  device ??= await sharedDevice();
  const types = Object.values(inputs).map(({ dtype, shape }) => new TensorType(dtype, shape));
  const model = await cachedModel(
    device,
    types.join(),
    () =>
      new Graph("attention", {
        inputTypes: types,
        customExtensions: [attentionOp],
        forward: (...values) => custom("attention", { values }),
      }),
  );
  const [output] = model.execute(q, k, v) as [DeviceTensor];
  if (!Object.values(inputs).every(isTensor)) return output;
  try {
    return await output.read();
  } finally {
    output.destroy();
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
