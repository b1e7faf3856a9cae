import { type Tensor, tensor } from "qkv";

/** A matrix on the host, row-major, in float32. */
export interface Matrix {
  readonly rows: number;
  readonly columns: number;
  readonly data: Float32Array;
}

export function matrix(rows: number, columns: number, data: ArrayLike<number>): Matrix {
  return { rows, columns, data: Float32Array.from(data) };
}

/** A matrix of what `at` gives for each place. */
export function matrixOf(
  rows: number,
  columns: number,
  at: (row: number, column: number) => number,
): Matrix {
  const data = new Float32Array(rows * columns);
  for (let i = 0; i < data.length; i++) data[i] = at(Math.floor(i / columns), i % columns);
  return { rows, columns, data };
}

/** The matrix as a host tensor `[rows, columns]`. */
export function asTensor({ rows, columns, data }: Matrix): Tensor {
  return tensor(data, [rows, columns]);
}

/** What a tensor's `read()` gave, as a matrix of its last two axes; `index` counts those before. */
export function asMatrix({ data, shape }: Tensor, index = 0): Matrix {
  const [rows = 1, columns = 1] = shape.length > 1 ? shape.slice(-2) : [1, shape[0] ?? 1];
  const length = rows * columns;
  return {
    rows,
    columns,
    data: (data as Float32Array).slice(index * length, (index + 1) * length),
  };
}

/** A copy with one element changed. */
export function withElement({ rows, columns, data }: Matrix, index: number, value: number): Matrix {
  const copy = data.slice();
  copy[index] = value;
  return { rows, columns, data: copy };
}

export function transposed({ rows, columns, data }: Matrix): Matrix {
  return matrixOf(columns, rows, (row, column) => data[column * columns + row]!);
}

/** |a − b|, element by element. Two of the same infinity do not differ. */
export function differences(a: Matrix, b: Matrix): Matrix {
  const at = (i: number) => (a.data[i] === b.data[i] ? 0 : Math.abs(a.data[i]! - b.data[i]!));
  return matrixOf(a.rows, a.columns, (row, column) => at(row * a.columns + column));
}

/** The largest element; NaN if there is one. */
export function largest(values: Iterable<number>): number {
  let result = Number.NEGATIVE_INFINITY;
  for (const value of values) if (!(value <= result)) result = value;
  return result;
}

/** The largest finite magnitude. */
export function largestMagnitude({ data }: Matrix): number {
  let result = 0;
  for (const value of data) if (Number.isFinite(value)) result = Math.max(result, Math.abs(value));
  return result;
}
