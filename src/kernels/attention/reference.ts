import type { HostView } from "../../devices/kernel.ts";
import { fromFloat32, toFloat32 } from "../../tensor/half.ts";
import { endKey, firstKey, positionOffset } from "./positions.ts";
import type { AttentionDType, AttentionOutput, AttentionProblem, RowStrides } from "./problem.ts";
import { type AttentionInputs, inputStrides } from "./spec.ts";

/** The inputs of {@link attentionReference}, laid out as `problem.strides` and `problem.mask` say. */
export interface ReferenceInputs {
  readonly query: Float64Array;
  /** With the past in front. */
  readonly key: Float64Array;
  /** With the past in front. */
  readonly value: Float64Array;
  readonly mask?: Float64Array | Uint8Array | undefined;
  readonly kvLengths?: ArrayLike<number> | undefined;
}

/** Every output, in the layout of its output shape. */
export type ReferenceOutputs = Readonly<Record<AttentionOutput, Float64Array>>;

/**
 * Attention in float64 loops, plainly written: the definition that every kernel is tested against.
 * It computes every output, whatever `problem.outputs` says.
 *
 * A key whose biased score is −∞ contributes nothing to its row, even where its key or value is NaN
 * or ±∞. NaN at an allowed key makes the row NaN.
 */
export function attentionReference(
  problem: AttentionProblem,
  inputs: ReferenceInputs,
): ReferenceOutputs {
  const { batch, queryHeads, kvHeads, queries, keys, depth, valueDepth, strides } = problem;
  const rows = batch * queryHeads * queries;
  const output = new Float64Array(rows * valueDepth);
  const lse = new Float64Array(rows);
  const scores = new Float64Array(rows * keys);
  const softcappedScores = new Float64Array(rows * keys);
  const biasedScores = new Float64Array(rows * keys);
  const weights = new Float64Array(rows * keys);

  for (let b = 0; b < batch; b++) {
    const kvLength = inputs.kvLengths?.[b] ?? keys;
    const offset = positionOffset(problem, kvLength);
    for (let h = 0; h < queryHeads; h++) {
      const kvHead = Math.floor(h / (queryHeads / kvHeads));
      for (let i = 0; i < queries; i++) {
        const row = (b * queryHeads + h) * queries + i;
        const first = firstKey(problem, offset + i);
        const end = endKey(problem, offset + i, kvLength);

        for (let j = 0; j < keys; j++) {
          let dot = 0;
          for (let c = 0; c < depth; c++)
            dot +=
              inputs.query[at(strides.query, b, h, i) + c]! *
              inputs.key[at(strides.key, b, kvHead, j) + c]!;
          const score = problem.scale * dot;
          const softcapped =
            problem.softcap > 0 ? problem.softcap * Math.tanh(score / problem.softcap) : score;
          const bias =
            j >= first && j < end ? maskBias(problem, inputs.mask, b, h, i, j) : -Infinity;
          scores[row * keys + j] = score;
          softcappedScores[row * keys + j] = softcapped;
          biasedScores[row * keys + j] = bias === -Infinity ? -Infinity : softcapped + bias;
        }

        const logits = rounded(
          biasedScores.subarray(row * keys, (row + 1) * keys),
          problem.softmaxDtype,
        );
        const maximum = logits.reduce((a, b) => Math.max(a, b), -Infinity); // NaN wins
        lse[row] = -Infinity;
        if (maximum === -Infinity) continue; // no key: output and weights stay zeros

        let sum = 0;
        for (const logit of logits) if (logit !== -Infinity) sum += Math.exp(logit - maximum);
        lse[row] = maximum + Math.log(sum);
        for (let j = 0; j < keys; j++) {
          if (logits[j] === -Infinity) continue;
          const weight = Math.exp(logits[j]! - maximum) / sum;
          weights[row * keys + j] = weight;
          for (let c = 0; c < valueDepth; c++)
            output[at(strides.output, b, h, i) + c]! +=
              weight * inputs.value[at(strides.value, b, kvHead, j) + c]!;
        }
      }
    }
  }
  return {
    output,
    lse,
    scores,
    softcappedScores,
    biasedScores,
    weights,
    presentKey: contiguous(inputs.key, strides.key, batch, kvHeads, keys, depth),
    presentValue: contiguous(inputs.value, strides.value, batch, kvHeads, keys, valueDepth),
  };
}

/** {@link attentionReference} of host tensors of any dtype, the past still apart. */
export function attentionReferenceOf(
  problem: AttentionProblem,
  tensors: AttentionInputs<HostView>,
): ReferenceOutputs {
  const { query, mask, kvLengths } = tensors;
  return attentionReference(problem, {
    query: toFloat64(query),
    key: withPast(problem, tensors.pastKey, tensors.key, problem.depth),
    value: withPast(problem, tensors.pastValue, tensors.value, problem.valueDepth),
    mask: mask && toFloat64(mask),
    kvLengths: kvLengths?.data,
  });
}

/** A host tensor's elements as numbers, exactly. */
export function toFloat64({ data, dtype }: HostView): Float64Array {
  return new Float64Array(
    dtype === "float16" || dtype === "bfloat16" ? toFloat32(data, dtype) : data,
  );
}

function at(strides: RowStrides, batch: number, head: number, row: number): number {
  return batch * strides.batch + head * strides.head + row * strides.row;
}

/** What the mask adds to a score: −∞ where it forbids the key. */
function maskBias(
  problem: AttentionProblem,
  mask: ReferenceInputs["mask"],
  b: number,
  h: number,
  i: number,
  j: number,
): number {
  if (problem.mask === undefined || mask === undefined) return 0;
  const { dtype, strides } = problem.mask;
  const element = mask[b * strides.batch + h * strides.head + i * strides.query + j * strides.key]!;
  if (dtype === "bool") return element ? 0 : -Infinity;
  return element;
}

function rounded(scores: Float64Array, dtype: AttentionDType | undefined): Float64Array {
  if (dtype === undefined) return scores;
  if (dtype === "float32") return scores.map(Math.fround);
  return new Float64Array(toFloat32(fromFloat32(scores, dtype), dtype));
}

function withPast(
  problem: AttentionProblem,
  past: HostView | undefined,
  tensor: HostView,
  width: number,
): Float64Array {
  if (past === undefined) return toFloat64(tensor);
  const { batch, kvHeads, keys } = problem;
  const strides = inputStrides(tensor.shape, kvHeads);
  const before = toFloat64(past);
  const after = toFloat64(tensor);
  const result = new Float64Array(batch * kvHeads * keys * width);
  for (let b = 0; b < batch; b++)
    for (let h = 0; h < kvHeads; h++)
      for (let j = 0; j < keys; j++)
        for (let c = 0; c < width; c++)
          result[((b * kvHeads + h) * keys + j) * width + c] =
            j < problem.past
              ? before[((b * kvHeads + h) * problem.past + j) * width + c]!
              : after[at(strides, b, h, j - problem.past) + c]!;
  return result;
}

function contiguous(
  data: Float64Array,
  strides: RowStrides,
  batch: number,
  heads: number,
  rows: number,
  width: number,
): Float64Array {
  const result = new Float64Array(batch * heads * rows * width);
  for (let b = 0; b < batch; b++)
    for (let h = 0; h < heads; h++)
      for (let row = 0; row < rows; row++)
        for (let c = 0; c < width; c++)
          result[((b * heads + h) * rows + row) * width + c] = data[at(strides, b, h, row) + c]!;
  return result;
}
