import { refuse } from "../errors.ts";

/** The 16-bit floating-point dtypes. */
export type HalfDType = "float16" | "bfloat16";

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

/** Rounds to the nearest half of IEEE 754 binary16, ties to even, and returns its 16 bits. */
function float16Bits(value: number): number {
  float[0] = value;
  const f = bits[0]!;
  const sign = (f >>> 16) & 0x8000;
  const magnitude = f & 0x7fffffff;
  if (magnitude >= 0x47800000)
    // 65536 and up: infinity, or a quiet NaN with the upper bits of its payload.
    return sign | (magnitude > 0x7f800000 ? 0x7e00 | ((magnitude >>> 13) & 0x1ff) : 0x7c00);
  if (magnitude < 0x38800000) {
    // Below 2^-14 a half counts in steps of 2^-24: scale exactly, then round to an integer.
    const steps = Math.abs(float[0]!) * 2 ** 24;
    const down = Math.floor(steps);
    const rest = steps - down;
    return sign | (rest > 0.5 || (rest === 0.5 && (down & 1) === 1) ? down + 1 : down);
  }
  const rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1);
  return sign | ((rounded - 0x38000000) >>> 13);
}

/** Rounds to the nearest bfloat16 (float32's upper half), ties to even, and returns its 16 bits. */
function bfloat16Bits(value: number): number {
  float[0] = value;
  const f = bits[0]!;
  if ((f & 0x7fffffff) > 0x7f800000) return (f >>> 16) | 0x40; // NaN stays NaN
  return ((f + 0x7fff + ((f >>> 16) & 1)) >>> 16) & 0xffff;
}

function checkHalf(operation: string, dtype: unknown): void {
  if (dtype !== "float16" && dtype !== "bfloat16")
    refuse(operation, 'dtype must be "float16" or "bfloat16"', dtype);
}

/**
 * Rounds numbers to half-precision bits, to nearest with ties to even. Numbers that round beyond
 * float16's ±65504 become ±∞; NaN stays NaN.
 *
 * @param values Any number of float32 values (float64 input is rounded to float32 first).
 * @returns The 16-bit patterns, one an element.
 * @throws QkvError if `dtype` is not a half type.
 */
export function fromFloat32(values: ArrayLike<number>, dtype: HalfDType): Uint16Array {
  checkHalf("fromFloat32", dtype);
  const result = new Uint16Array(values.length);
  narrow(values, 0, values.length, dtype, result, 0);
  return result;
}

/**
 * Widens half-precision bits to float32, exactly.
 *
 * @throws QkvError if `dtype` is not a half type.
 */
export function toFloat32(halves: ArrayLike<number>, dtype: HalfDType): Float32Array {
  checkHalf("toFloat32", dtype);
  const result = new Float32Array(halves.length);
  widen(halves, 0, halves.length, dtype, result, 0);
  return result;
}

/** {@link toFloat32} of `count` elements from `start` on, into `result` from `resultStart` on. */
export function widen(
  halves: ArrayLike<number>,
  start: number,
  count: number,
  dtype: HalfDType,
  result: Float32Array,
  resultStart: number,
): void {
  const resultBits = new Uint32Array(result.buffer, result.byteOffset + 4 * resultStart, count);
  if (dtype === "bfloat16") {
    for (let i = 0; i < count; i++) resultBits[i] = halves[start + i]! << 16;
    return;
  }
  for (let i = 0; i < count; i++) {
    const half = halves[start + i]!;
    const sign = (half & 0x8000) << 16;
    const magnitude = half & 0x7fff;
    // The exponent moves from bias 15 to bias 127, and stays all ones for infinities and NaN.
    if (magnitude >= 0x7c00) resultBits[i] = sign | 0x7f800000 | (magnitude << 13);
    else if (magnitude >= 0x400) resultBits[i] = sign | ((magnitude << 13) + 0x38000000);
    else result[resultStart + i] = (sign ? -magnitude : magnitude) * 2 ** -24; // zero or subnormal
  }
}

/** {@link fromFloat32} of `count` elements from `start` on, into `result` from `resultStart` on. */
export function narrow(
  values: ArrayLike<number>,
  start: number,
  count: number,
  dtype: HalfDType,
  result: Uint16Array,
  resultStart: number,
): void {
  if (dtype === "float16")
    for (let i = 0; i < count; i++) result[resultStart + i] = float16Bits(values[start + i]!);
  else for (let i = 0; i < count; i++) result[resultStart + i] = bfloat16Bits(values[start + i]!);
}
