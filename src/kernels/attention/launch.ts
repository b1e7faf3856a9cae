import type { Capabilities } from "../../devices/capabilities.ts";
import type { KernelContext, TensorShape } from "../../devices/kernel.ts";
import { attentionConcatenate } from "./concatenate.wgsl.ts";
import { attentionDecode } from "./decode.wgsl.ts";
import { attentionMerge } from "./merge.wgsl.ts";
import { attentionPrefill } from "./prefill.wgsl.ts";
import { attentionPrefillMatrix } from "./prefill-matrix.wgsl.ts";
import type { AttentionProblem } from "./problem.ts";
import { attentionScores, type ScoreStage } from "./scores.wgsl.ts";
import { type AttentionChoice, selectAttention, selectScoreTile } from "./select.ts";
import { type AttentionInputs, type AttentionResults, inputStrides } from "./spec.ts";

/** Where the kernels are recorded: an op's context on WebGPU, or a device itself. */
export interface AttentionContext<T extends TensorShape> extends KernelContext<T> {
  readonly capabilities: Capabilities;
}

const stages: readonly ScoreStage[] = ["scores", "softcappedScores", "biasedScores", "weights"];

/**
 * Records the kernels of one attention call: the past put before the keys where there is one, the
 * fused kernel, a merge where the keys were split, and a kernel for each asked-for matrix of
 * scores.
 *
 * What is allocated: partial results, where the keys are split; a past's concatenation, where
 * `presentKey` or `presentValue` is not asked for; for `weights`, two floats a row.
 *
 * @param tensors Inputs, and those outputs that are wanted, `output` always.
 * @param variant The kernel to use; default, by {@link selectAttention}.
 * @returns The choice that was made.
 * @throws QkvError if the variant does not exist or cannot take the problem.
 */
export function recordAttention<T extends TensorShape>(
  context: AttentionContext<T>,
  problem: AttentionProblem,
  tensors: AttentionInputs<T> & AttentionResults<T>,
  variant?: string,
): AttentionChoice {
  const choice = selectAttention(problem, context.capabilities, variant);
  recordChoice(context, problem, tensors, choice);
  return choice;
}

/** {@link recordAttention} with the choice made: for tests and benchmarks of tiles and splits. */
export function recordChoice<T extends TensorShape>(
  context: AttentionContext<T>,
  problem: AttentionProblem,
  tensors: AttentionInputs<T> & AttentionResults<T>,
  choice: AttentionChoice,
): void {
  const { batch, queryHeads, kvHeads, queries, keys, depth, valueDepth, past, dtype } = problem;
  const { query, mask, kvLengths, output, lse } = tensors;

  const withPast = (
    before: T | undefined,
    current: T,
    present: T | undefined,
    width: number,
  ): T => {
    if (!before && !present) return current;
    const result = present ?? context.allocate(dtype, [batch, kvHeads, keys, width]);
    const strides = inputStrides(current.shape, kvHeads);
    context.enqueue(
      attentionConcatenate,
      { ...(before && { past: before }), current, output: result },
      { batch, heads: kvHeads, past, rows: keys - past, width, strides },
    );
    // Without a past the strides of the problem are those of the tensor as it was given.
    return before ? result : current;
  };
  const key = withPast(tensors.pastKey, tensors.key, tensors.presentKey, depth);
  const value = withPast(tensors.pastValue, tensors.value, tensors.presentValue, valueDepth);

  const variant = `${choice.variant} (${choice.reason})`;
  const rows = batch * queryHeads * queries;
  const rules = { ...(mask && { mask }), ...(kvLengths && { kvLengths }) };
  // What `weights` are computed from.
  const statistics = tensors.weights && context.allocate("float32", [rows, 1, 2]);
  const extras = statistics && { statistics };
  const results = { output, ...(lse && { lse }) };

  const { splits } = choice;
  const parts =
    splits > 1
      ? {
          partials: context.allocate("float32", [rows, splits, 4 * Math.ceil(valueDepth / 4)]),
          statistics: context.allocate("float32", [rows, splits, 2]),
        }
      : undefined;
  const inputs = { query, key, value, ...rules };
  const leaves = parts ?? { ...results, ...extras };
  if (choice.kernel === "prefill-matrix")
    context.enqueue(
      attentionPrefillMatrix,
      { query, key, value, ...(kvLengths && { kvLengths }), ...leaves },
      { problem, tile: choice.tile, splits, variant },
    );
  else if (choice.kernel === "prefill")
    context.enqueue(
      attentionPrefill,
      { ...inputs, ...leaves },
      { problem, tile: choice.tile, splits, variant },
    );
  else
    context.enqueue(
      attentionDecode,
      { ...inputs, ...leaves },
      { problem, tile: choice.tile, splits, variant },
    );
  if (parts)
    context.enqueue(
      attentionMerge,
      { ...parts, ...results, ...(statistics && { merged: statistics }) },
      { problem, splits, variant },
    );

  for (const stage of stages) {
    const result = tensors[stage];
    if (!result) continue;
    const forbids = stage === "biasedScores" || stage === "weights";
    context.enqueue(
      attentionScores,
      {
        query,
        key,
        ...(forbids && rules),
        ...(stage === "weights" && extras),
        result,
      },
      { problem, stage, tile: selectScoreTile(problem) },
    );
  }
}
