import type { AttentionProblem } from "./problem.ts";

// The one place that says which keys a query row may see by position: causal, window, lengths, and the
// keys that a short mask covers. A row's allowed keys are always one range [firstKey, endKey); only the
// elements of a mask can make holes in it.

/**
 * The position of a batch's query row 0; row `i` sits at this plus `i`. Negative where there are fewer
 * keys than queries.
 *
 * @param kvLength The batch's entry of `kvLengths`, where the problem has them.
 */
export function positionOffset(problem: AttentionProblem, kvLength = problem.keys): number {
  if (problem.past > 0) return problem.past;
  return problem.kvLengths ? kvLength - problem.queries : 0;
}

/** The first key that a query at `position` may see. */
export function firstKey(problem: AttentionProblem, position: number): number {
  const left = problem.window[0];
  return left < 0 ? 0 : Math.max(0, position - left);
}

/**
 * One past the last key that a query at `position` may see. The row is empty where this is not above
 * {@link firstKey}.
 *
 * @param kvLength The batch's entry of `kvLengths`, where the problem has them.
 */
export function endKey(
  problem: AttentionProblem,
  position: number,
  kvLength = problem.keys,
): number {
  const right = problem.window[1];
  let end = Math.min(problem.keys, kvLength, problem.mask?.keys ?? problem.keys);
  if (problem.causal) end = Math.min(end, position + 1);
  if (right >= 0) end = Math.min(end, position + right + 1);
  return Math.max(0, end);
}
