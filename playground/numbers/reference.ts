import { type Matrix, matrixOf } from "./matrix.ts";

// Attention by its definition, in float64: what the page holds results against.

export interface ReferenceOptions {
  readonly scale?: number;
  /** Whether query row `i` may see key `j`. */
  readonly allowed?: (i: number, j: number) => boolean;
  readonly softcap?: number;
}

/** softmax(scale · Q·Kᵀ)·V, and the weights. A row that may see nothing is zeros. */
export function referenceAttention(
  q: Matrix,
  k: Matrix,
  v: Matrix,
  { scale = 1, allowed = () => true, softcap = 0 }: ReferenceOptions = {},
): { readonly output: Matrix; readonly weights: Matrix } {
  const weights = new Float64Array(q.rows * k.rows);
  for (let i = 0; i < q.rows; i++) {
    const row = weights.subarray(i * k.rows, (i + 1) * k.rows);
    for (let j = 0; j < k.rows; j++) {
      let dot = 0;
      for (let c = 0; c < q.columns; c++)
        dot += q.data[i * q.columns + c]! * k.data[j * q.columns + c]!;
      const score = softcap > 0 ? softcap * Math.tanh((scale * dot) / softcap) : scale * dot;
      row[j] = allowed(i, j) ? score : Number.NEGATIVE_INFINITY;
    }
    const maximum = row.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
    let sum = 0;
    for (let j = 0; j < k.rows; j++) {
      row[j] = maximum === Number.NEGATIVE_INFINITY ? 0 : Math.exp(row[j]! - maximum);
      sum += row[j]!;
    }
    if (sum > 0) for (let j = 0; j < k.rows; j++) row[j]! /= sum;
  }
  const output = matrixOf(q.rows, v.columns, (i, c) => {
    let sum = 0;
    for (let j = 0; j < k.rows; j++) sum += weights[i * k.rows + j]! * v.data[j * v.columns + c]!;
    return sum;
  });
  return { output, weights: { rows: q.rows, columns: k.rows, data: Float32Array.from(weights) } };
}
