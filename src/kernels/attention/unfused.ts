import type { KernelContext, PlannedTensor } from "../../devices/kernel.ts";
import { matmul } from "../matmul/kernel.ts";
import { softmaxInPlace } from "../softmax/kernel.ts";
import { transpose } from "../transpose/kernel.ts";

/** Query, key and value of one head, and the output. Query and output may be single rows, `[d]`, `[dv]`. */
export interface OneHead<Tensor> {
  readonly query: Tensor;
  readonly key: Tensor;
  readonly value: Tensor;
  readonly output: Tensor;
}

/**
 * softmax(Q·Kᵀ)·V in seven steps out of three small kernels and two temporaries, as Modular's MAX
 * composes it: the path to learn from, and a second opinion on the fused kernels.
 */
export function recordUnfused(
  context: KernelContext<PlannedTensor>,
  { query, key, value, output }: OneHead<PlannedTensor>,
): void {
  const [keys, depth] = key.shape as [number, number];
  const valueDepth = value.shape[1]!;
  const isVector = query.shape.length === 1;
  const queries = isVector ? 1 : query.shape[0]!;

  // 1. See the query as a matrix.
  const queryMatrix = query.reshape([queries, depth]);
  // 2. Kᵀ, so that the product runs along rows.
  const keyTransposed = context.allocate("float32", [depth, keys]);
  context.enqueue(transpose, { input: key, output: keyTransposed });
  // 3. Scores.
  const scores = context.allocate("float32", [queries, keys]);
  context.enqueue(matmul, { a: queryMatrix, b: keyTransposed, output: scores });
  // 4. See them as the rows to normalise.
  const rows = scores.reshape(isVector ? [keys] : [queries, keys]);
  // 5. Weights, in place of the scores.
  context.enqueue(softmaxInPlace, { values: rows });
  // 6. See the weights as a matrix again.
  const weights = rows.reshape([queries, keys]);
  // 7. The weighted sum of the values.
  context.enqueue(matmul, { a: weights, b: value, output: output.reshape([queries, valueDepth]) });
}
