import { fromFloat32, toFloat32 } from "../../src/tensor/half.ts";
import type { BenchCase } from "./cases.ts";

// Test data, and what attention makes of it in float64.

/** Random numbers, the same in every run (xorshift, G. Marsaglia, "Xorshift RNGs"). */
class Random {
  #state = 0x9e3779b9;

  bits(): number {
    this.#state ^= this.#state << 13;
    this.#state ^= this.#state >>> 17;
    this.#state ^= this.#state << 5;
    return this.#state >>> 0;
  }

  /** Of the standard normal distribution. */
  normal(): number {
    const radius = Math.sqrt(-2 * Math.log((this.bits() + 1) / 2 ** 32));
    return radius * Math.cos((2 * Math.PI * this.bits()) / 2 ** 32);
  }
}

export type Elements = Float32Array | Uint16Array;

const random = new Random();
const normals = Float32Array.from({ length: 2 ** 16 }, () => random.normal());
const halfNormals = fromFloat32(normals, "float16");

/** Normally distributed elements. Drawn out of a table, which is enough here and takes no time. */
export function randomElements(dtype: BenchCase["dtype"], count: number): Elements {
  const table = dtype === "float32" ? normals : halfNormals;
  const result = dtype === "float32" ? new Float32Array(count) : new Uint16Array(count);
  for (let i = 0; i < count; i++) result[i] = table[random.bits() & 0xffff]!;
  return result;
}

const widened = (elements: Elements): Float32Array =>
  elements instanceof Float32Array ? elements : toFloat32(elements, "float16");

/** A row of the output, and its index among the rows of all heads. */
export interface ReferenceRow {
  readonly row: number;
  readonly values: Float64Array;
}

/** A few rows of the output, in float64: first, last and some between, of several heads. */
export function referenceRows(
  { batch, heads, kvHeads, queries, keys, depth, causal }: BenchCase,
  query: Elements,
  key: Elements,
  value: Elements,
): ReferenceRow[] {
  const last = batch * heads * queries - 1;
  const wanted = new Set([
    0,
    last,
    Math.floor(last / 2),
    Math.floor(last / 3),
    last - (last % 129),
  ]);
  return [...wanted].map((row) => {
    const head = Math.floor(row / queries);
    const kvHead =
      Math.floor(head / heads) * kvHeads + Math.floor(((head % heads) * kvHeads) / heads);
    const seen = causal ? (row % queries) + 1 : keys;
    const start = kvHead * keys * depth;
    const q = widened(query.subarray(row * depth, (row + 1) * depth));
    const k = widened(key.subarray(start, start + seen * depth));
    const v = widened(value.subarray(start, start + seen * depth));
    return { row, values: attend(q, k, v, seen, depth) };
  });
}

function attend(
  q: Float32Array,
  k: Float32Array,
  v: Float32Array,
  keys: number,
  depth: number,
): Float64Array {
  const scores = new Float64Array(keys);
  let maximum = -Infinity;
  for (let j = 0; j < keys; j++) {
    let dot = 0;
    for (let c = 0; c < depth; c++) dot += q[c]! * k[j * depth + c]!;
    scores[j] = dot / Math.sqrt(depth);
    maximum = Math.max(maximum, scores[j]!);
  }
  const values = new Float64Array(depth);
  let sum = 0;
  for (let j = 0; j < keys; j++) {
    const weight = Math.exp(scores[j]! - maximum);
    sum += weight;
    for (let c = 0; c < depth; c++) values[c]! += weight * v[j * depth + c]!;
  }
  return values.map((x) => x / sum);
}

/** The largest error over the rows, and whether all are within the documented tolerance. */
export function compareRows(
  { dtype, depth }: BenchCase,
  rows: readonly ReferenceRow[],
  output: Elements,
): { readonly worst: number; readonly correct: boolean } {
  const [absolute, relative] = dtype === "float32" ? [1e-5, 1e-4] : [2e-3, 2e-3];
  let worst = 0;
  let correct = true;
  for (const { row, values } of rows) {
    const got = widened(output.subarray(row * depth, (row + 1) * depth));
    for (let c = 0; c < depth; c++) {
      const error = Math.abs(got[c]! - values[c]!);
      if (!(error <= absolute + relative * Math.abs(values[c]!))) correct = false; // NaN too
      worst = Math.max(worst, error);
    }
  }
  return { worst, correct };
}
