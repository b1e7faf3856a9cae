import { type Matrix, matrixOf } from "../../numbers/matrix.ts";

// What the ops are to compute, in float64.

export function softmaxRows({ rows, columns, data }: Matrix): Matrix {
  const result = new Float64Array(rows * columns);
  for (let start = 0; start < result.length; start += columns) {
    const row = Array.from(data.subarray(start, start + columns));
    const maximum = Math.max(...row);
    const weights = row.map((x) => Math.exp(x - maximum));
    const sum = weights.reduce((a, b) => a + b, 0);
    result.set(
      weights.map((weight) => weight / sum),
      start,
    );
  }
  return { rows, columns, data: Float32Array.from(result) };
}

export function product(a: Matrix, b: Matrix): Matrix {
  return matrixOf(a.rows, b.columns, (row, column) => {
    let sum = 0;
    for (let i = 0; i < a.columns; i++)
      sum += a.data[row * a.columns + i]! * b.data[i * b.columns + column]!;
    return sum;
  });
}
