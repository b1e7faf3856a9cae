import type { TensorShape } from "../../devices/kernel.ts";
import { refuse } from "../../errors.ts";
import { attentionCPU } from "../../kernels/attention/cpu-kernel.ts";
import { recordAttention } from "../../kernels/attention/launch.ts";
import type { AttentionOutput } from "../../kernels/attention/problem.ts";
import {
  type AttentionInputs,
  type AttentionOptions,
  type AttentionResults,
  attentionOutputs,
  inverseRootDepth,
  type ResolvedAttention,
  resolveAttention,
  unscaled,
} from "../../kernels/attention/spec.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import {
  addDimensions,
  type Dimension,
  divideDimensions,
  multiplyDimensions,
} from "../dimension.ts";
import { graphOf } from "../graph.ts";
import { defineOp, type RecordingOpContext } from "../op.ts";
import { TensorType } from "../tensor-type.ts";
import type { Value } from "../value.ts";

/** The options that are tensors, in the order in which the op takes them after q, k and v. */
export const tensorOptions = ["mask", "kvLengths", "pastKey", "pastValue"] as const;

type TensorOption = (typeof tensorOptions)[number];

/** Parameters of {@link scaledDotProductAttentionOp}: the options that are not tensors. */
export interface FusedAttentionParameters extends Omit<AttentionOptions<never>, TensorOption> {
  /** Which tensor options follow q, k and v among the op's inputs. Default: none. */
  readonly tensors?: readonly TensorOption[];
  /** Default: `scaled_dot_product_attention`'s 1/√depth; `unscaled`: 1. */
  readonly defaultScale?: "unscaled";
}

const operation = ({ defaultScale }: FusedAttentionParameters) =>
  defaultScale === "unscaled" ? "attention" : "scaledDotProductAttention";

/** Names an op's inputs. */
function nameInputs<T>(
  inputs: readonly T[],
  parameters: FusedAttentionParameters,
): AttentionInputs<T> {
  const { tensors = [] } = parameters;
  const names = ["query", "key", "value", ...tensors];
  if (inputs.length !== names.length)
    refuse(operation(parameters), `inputs must be ${names.join(", ")}`, inputs.length);
  return Object.fromEntries(
    names.map((name, i) => [name, inputs[i]]),
  ) as unknown as AttentionInputs<T>;
}

function resolve(
  inputs: AttentionInputs<TensorShape>,
  parameters: FusedAttentionParameters,
): ResolvedAttention {
  const { tensors, defaultScale, ...options } = parameters;
  const { query, key, value, ...tensorOptions } = inputs;
  const scale = defaultScale === "unscaled" ? unscaled : inverseRootDepth;
  return resolveAttention(
    operation(parameters),
    query,
    key,
    value,
    { ...options, ...tensorOptions },
    scale,
  );
}

/** The outputs asked for, in order. */
const wanted = ({ outputs = [] }: FusedAttentionParameters): AttentionOutput[] =>
  attentionOutputs.filter((name) => name === "output" || outputs.includes(name));

/** Types of the outputs where shapes have names; what numbers will have to satisfy is checked with them. */
function symbolicTypes(
  { query, key, value, pastKey }: AttentionInputs<TensorType>,
  parameters: FusedAttentionParameters,
): TensorType[] {
  const name = operation(parameters);
  const rank = query.shape.length;
  const packed = rank === 3;
  if (
    rank < 1 ||
    rank > 4 ||
    key.shape.length !== Math.max(rank, 2) ||
    value.shape.length !== key.shape.length
  )
    refuse(name, "query, key and value must be of the vector, matrix, packed or 4-D layout", [
      query,
      key,
      value,
    ]);
  const { queryHeads = 1, kvHeads = queryHeads } = packed ? parameters : {};
  const perHead = (width: Dimension, heads: number): Dimension =>
    divideDimensions(width, heads) ??
    refuse(name, `an axis of ${heads} heads must be a multiple of them`, width);
  const depth = perHead(query.shape.at(-1)!, queryHeads);
  const keyDepth = perHead(key.shape.at(-1)!, kvHeads);
  const valueDepth = perHead(value.shape.at(-1)!, kvHeads);
  if (keyDepth !== depth)
    refuse(name, `key depth must equal query depth, got ${keyDepth} and ${depth}`);
  if (value.shape.at(-2) !== key.shape.at(-2))
    refuse(
      name,
      `value sequence length must equal key sequence length, got ${value.shape.at(-2)} and ${key.shape.at(-2)}`,
    );
  const kv = key.shape.at(-2)!;
  const keys = pastKey ? addDimensions(pastKey.shape[2]!, kv) : kv;
  const rows = packed ? [query.shape[0]!, queryHeads, query.shape[1]!] : query.shape.slice(0, -1);
  const present = rank === 4 ? key.shape.slice(0, 2) : [key.shape[0]!, kvHeads];
  const shapes: Record<AttentionOutput, readonly Dimension[]> = {
    output: packed
      ? [...query.shape.slice(0, 2), multiplyDimensions(queryHeads, valueDepth)]
      : [...rows, valueDepth],
    lse: rows,
    scores: [...rows, keys],
    softcappedScores: [...rows, keys],
    biasedScores: [...rows, keys],
    weights: [...rows, keys],
    presentKey: [...present, keys, depth],
    presentValue: [...present, keys, valueDepth],
  };
  return wanted(parameters).map(
    (output) => new TensorType(output === "lse" ? "float32" : query.dtype, shapes[output]),
  );
}

function record(context: RecordingOpContext<FusedAttentionParameters>): void {
  const { parameters, capabilities } = context;
  const inputs = nameInputs(context.inputs, parameters);
  const { problem, variant } = resolve(inputs, parameters);
  const tensors = { ...inputs, ...nameOutputs(context.outputs, parameters) };
  if (capabilities) recordAttention({ ...context, capabilities }, problem, tensors, variant);
  else context.enqueue(attentionCPU, tensors, { problem, operation: operation(parameters) });
}

/**
 * Attention in fused kernels, with every option: the op behind {@link scaledDotProductAttention}. As a
 * custom op its inputs are q, k, v and then the tensors named by `parameters.tensors`; its outputs are
 * `output` and then those of `parameters.outputs`, in the order of the documentation.
 */
export const scaledDotProductAttentionOp = defineOp<FusedAttentionParameters>({
  name: "scaled_dot_product_attention",
  infer(types, parameters) {
    const inputs = nameInputs(types, parameters);
    if (types.some(({ names }) => names.length > 0)) return symbolicTypes(inputs, parameters);
    const { outputShapes } = resolve(inputs as AttentionInputs<TensorShape>, parameters);
    return wanted(parameters).map((name) => {
      const { dtype, shape } = outputShapes[name]!;
      return new TensorType(dtype, shape);
    });
  },
  record,
});

function nameOutputs<T>(
  outputs: readonly T[],
  parameters: FusedAttentionParameters,
): AttentionResults<T> {
  return Object.fromEntries(
    wanted(parameters).map((name, i) => [name, outputs[i]]),
  ) as unknown as AttentionResults<T>;
}

/**
 * Attention in fused kernels: `softmax(scale · Q·Kᵀ)·V` with every option of `AttentionOptions`, over
 * values of a graph.
 *
 * @returns The output; or, where `options.outputs` is given, an object with `output` and those named.
 * @throws QkvError naming the argument, the rule and what was got.
 */
export function scaledDotProductAttention(
  q: Value | Tensor,
  k: Value | Tensor,
  v: Value | Tensor,
  options?: AttentionOptions<Value | Tensor> & { readonly outputs?: undefined },
): Value;
export function scaledDotProductAttention(
  q: Value | Tensor,
  k: Value | Tensor,
  v: Value | Tensor,
  options: AttentionOptions<Value | Tensor>,
): AttentionResults<Value>;
export function scaledDotProductAttention(
  q: Value | Tensor,
  k: Value | Tensor,
  v: Value | Tensor,
  options: AttentionOptions<Value | Tensor> = {},
): Value | AttentionResults<Value> {
  const { tensors, given, parameters } = splitOptions(options);
  const all = [q, k, v, ...given];
  const graph = graphOf("scaledDotProductAttention", all);
  const names = ["q", "k", "v", ...tensors];
  const values = all.map((value, i) => graph.value("scaledDotProductAttention", names[i]!, value));
  const outputs = graph.add(scaledDotProductAttentionOp, values, parameters);
  return options.outputs ? nameOutputs(outputs, parameters) : outputs[0]!;
}

/** Options as the op takes them: the tensors, in order, and the rest. */
export function splitOptions<T>(options: AttentionOptions<T>): {
  readonly tensors: readonly TensorOption[];
  readonly given: readonly T[];
  readonly parameters: FusedAttentionParameters;
} {
  const tensors = tensorOptions.filter((name) => options[name] !== undefined);
  const { mask, kvLengths, pastKey, pastValue, ...rest } = options;
  return {
    tensors,
    given: tensors.map((name) => options[name]!),
    parameters: { ...rest, ...(tensors.length > 0 && { tensors }) },
  };
}
