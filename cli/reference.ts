// The reference that results are checked against: attention by its definition, in float64.

/** The largest difference from the reference that a result may have. */
export const tolerance = 1e-4;
export const toleranceText = tolerance.toExponential();

/** Keys and values, row-major: `[keys, depth]` and `[keys, valueDepth]`. */
export interface KeysAndValues {
  readonly keys: number;
  readonly key: Float32Array;
  readonly value: Float32Array;
}

/**
 * softmax(query·Kᵀ)·V of one query, in float64; zeros where every score is −∞.
 *
 * @param weights Room for a number a key, so that many calls can share it.
 */
export function referenceRow(
  query: Float32Array,
  { keys, key, value }: KeysAndValues,
  weights: Float64Array,
): Float64Array {
  const depth = query.length;
  const valueDepth = value.length / keys;
  let maximum = Number.NEGATIVE_INFINITY;
  for (let j = 0; j < keys; j++) {
    let score = 0;
    for (let i = 0; i < depth; i++) score += query[i]! * key[j * depth + i]!;
    weights[j] = score;
    maximum = Math.max(maximum, score); // a NaN stays
  }
  if (maximum === Number.NEGATIVE_INFINITY) return new Float64Array(valueDepth);
  let sum = 0;
  const output = new Float64Array(valueDepth);
  for (let j = 0; j < keys; j++) {
    const weight = Math.exp(weights[j]! - maximum);
    sum += weight;
    for (let i = 0; i < valueDepth; i++) output[i]! += weight * value[j * valueDepth + i]!;
  }
  return output.map((element) => element / sum);
}

/** The largest difference between two arrays of one length; NaN and ∞ equal only themselves. */
export function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let largest = 0;
  for (let i = 0; i < a.length; i++) {
    if (Object.is(a[i], b[i])) continue;
    const difference = Math.abs(a[i]! - b[i]!);
    if (!(difference <= largest))
      largest = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference;
  }
  return largest;
}

/** The square root of the sum of squares. */
export function norm(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
}
