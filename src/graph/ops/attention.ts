import type { PlannedTensor } from "../../devices/kernel.ts";
import { describe, refuse } from "../../errors.ts";
import { attentionCPU } from "../../kernels/attention/cpu-kernel.ts";
import { resolveAttention, unscaled } from "../../kernels/attention/spec.ts";
import { recordUnfused } from "../../kernels/attention/unfused.ts";
import type { Dimension } from "../dimension.ts";
import { defineOp, type RecordingOpContext } from "../op.ts";
import { TensorType } from "../tensor-type.ts";

/** Parameters of {@link attentionOp}: all optional, and checked against the inputs. */
export interface AttentionParameters {
  /** Number of keys: `k`'s and `v`'s first axis. */
  readonly seq_len?: Dimension;
  /** Length of a query and of a key. */
  readonly d?: Dimension;
  readonly dtype?: "float32";
}

const parameterNames: readonly string[] = [
  "seq_len",
  "d",
  "dtype",
] satisfies (keyof AttentionParameters)[];

function record(context: RecordingOpContext): void {
  const [query, key, value] = context.inputs as [PlannedTensor, PlannedTensor, PlannedTensor];
  const tensors = { query, key, value, output: context.outputs[0]! };
  if (context.capabilities) recordUnfused(context, tensors);
  else {
    const { problem } = resolveAttention("attention", query, key, value, {}, unscaled);
    context.enqueue(attentionCPU, tensors, { problem, operation: "attention" });
  }
}

/**
 * softmax(Q·Kᵀ)·V, unscaled, as a custom op of three small kernels
 * (on the CPU, of one): give it to a graph's
 * `customExtensions` and use it as `ops.custom("attention", { values: [q, k, v] })`.
 *
 * Inputs, float32: q `[d]` or `[queries, d]`, k `[seq_len, d]`, v `[seq_len, dv]`. Output: `[dv]` or
 * `[queries, dv]`.
 *
 * Source: A. Vaswani et al., "Attention Is All You Need", arXiv:1706.03762, section 3.2.1, without the
 * scale; composed as Modular's MAX Graph custom-op example.
 */
export const attentionOp = defineOp<AttentionParameters>({
  name: "attention",
  infer(inputs, parameters) {
    if (inputs.length !== 3) refuse("attention", "inputs must be q, k and v", inputs.length);
    const [q, k, v] = inputs as [TensorType, TensorType, TensorType];
    for (const [name, { dtype }] of Object.entries({ q, k, v }))
      if (dtype !== "float32") refuse("attention", `${name} must be float32`, dtype);
    if (q.shape.length !== 1 && q.shape.length !== 2)
      refuse("attention", "q must have shape [d] or [queries, d]", q);
    if (k.shape.length !== 2) refuse("attention", "k must have shape [seq_len, d]", k);
    if (v.shape.length !== 2) refuse("attention", "v must have shape [seq_len, dv]", v);
    const depth = q.shape.at(-1)!;
    if (k.shape[1] !== depth)
      refuse(
        "attention",
        `key depth must equal query depth, got ${describe(k.shape[1])} and ${describe(depth)}`,
      );
    if (k.shape[0] !== v.shape[0])
      refuse(
        "attention",
        `value length must equal key length, got ${describe(v.shape[0])} and ${describe(k.shape[0])}`,
      );
    const actual = { seq_len: k.shape[0], d: depth, dtype: q.dtype };
    for (const [name, value] of Object.entries(parameters)) {
      if (!parameterNames.includes(name))
        refuse("attention", `parameters must be among ${parameterNames.join(", ")}`, name);
      const is = actual[name as keyof AttentionParameters];
      if (value !== undefined && value !== is)
        refuse("attention", `${name} must be that of the inputs, ${describe(is)}`, value);
    }
    return [new TensorType("float32", [...q.shape.slice(0, -1), v.shape[1]!])];
  },
  record,
});
