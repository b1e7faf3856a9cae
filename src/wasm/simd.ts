// Arithmetic on vectors of four floats.

/** a · b + c: fused where the build has relaxed SIMD. */
@inline
export function fma(a: v128, b: v128, c: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return f32x4.relaxed_madd(a, b, c);
  return f32x4.add(f32x4.mul(a, b), c);
}

@inline
export function splat(x: f32): v128 {
  return f32x4.splat(x);
}

/** The larger of each pair; `a` where either is NaN. One instruction on x86. */
@inline
export function larger(a: v128, b: v128): v128 {
  return f32x4.pmax(a, b);
}

// exp's constants, four of each: V8 makes a constant vector anew at each use, which takes longer than
// to load it.
const expConstants = memory.data<f32>([
  1.4426950408889634, 1.4426950408889634, 1.4426950408889634, 1.4426950408889634,
  -127, -127, -127, -127,
  12583039, 12583039, 12583039, 12583039,
  0.0013264738954603672, 0.0013264738954603672, 0.0013264738954603672, 0.0013264738954603672,
  0.009671516716480255, 0.009671516716480255, 0.009671516716480255, 0.009671516716480255,
  0.05550733581185341, 0.05550733581185341, 0.05550733581185341, 0.05550733581185341,
  0.24022242426872253, 0.24022242426872253, 0.24022242426872253, 0.24022242426872253,
  0.6931470036506653, 0.6931470036506653, 0.6931470036506653, 0.6931470036506653,
  1, 1, 1, 1,
]);

/**
 * exp(x) for x ≤ 0, to two units in the last place; 0 where that is below 2^-127. NaN stays.
 *
 * 2^n · 2^f with n = round(x / ln 2): n is read off the mantissa of n + 1.5 · 2^23, to which 127, the
 * exponent's bias, is added, so that shifting it gives the float 2^n, and 0 for n = −127. 2^f is a
 * polynomial of degree 5 (minimax of the relative error on [−½, ½], 9.2e-8).
 */
@inline
export function exp(x: v128): v128 {
  const c = expConstants;
  const t = f32x4.pmax(f32x4.mul(x, v128.load(c)), v128.load(c, 16));
  const magic = v128.load(c, 32);
  const shifted = f32x4.add(t, magic);
  const f = f32x4.sub(t, f32x4.sub(shifted, magic));
  let p = fma(v128.load(c, 48), f, v128.load(c, 64));
  p = fma(p, f, v128.load(c, 80));
  p = fma(p, f, v128.load(c, 96));
  p = fma(p, f, v128.load(c, 112));
  p = fma(p, f, v128.load(c, 128));
  return f32x4.mul(p, i32x4.shl(shifted, 23));
}

@inline
export function exp1(x: f32): f32 {
  return f32x4.extract_lane(exp(splat(x)), 0);
}

/** tanh, to a few units in the last place (S. L. Moshier, Cephes `tanhf`). */
@inline
export function tanh(x: v128): v128 {
  const magnitude = f32x4.abs(x);
  const z = f32x4.mul(x, x);
  let p = fma(splat(-5.70498872745e-3), z, splat(2.06390887954e-2));
  p = fma(p, z, splat(-5.37397155531e-2));
  p = fma(p, z, splat(1.33314422036e-1));
  p = fma(p, z, splat(-3.33332819422e-1));
  const small = fma(f32x4.mul(p, z), x, x);
  const e = exp(f32x4.mul(magnitude, splat(-2)));
  const large = f32x4.div(f32x4.sub(splat(1), e), f32x4.add(splat(1), e));
  const signed = v128.or(large, v128.and(x, i32x4.splat(0x80000000)));
  return v128.bitselect(small, signed, f32x4.lt(magnitude, splat(0.625)));
}

/** The natural logarithm of a positive, normal number: by atanh's series, to float32's precision. */
export function log(x: f32): f32 {
  const bits = reinterpret<u32>(x);
  let exponent = <i32>(bits >>> 23) - 127;
  let m = <f64>reinterpret<f32>((bits & 0x7fffff) | 0x3f800000);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    exponent++;
  }
  const s = (m - 1) / (m + 1);
  const z = s * s;
  const series = 1 + z * (1.0 / 3 + z * (1.0 / 5 + z * (1.0 / 7 + z * (1.0 / 9 + z * (1.0 / 11)))));
  return <f32>(2 * s * series + <f64>exponent * 0.6931471805599453);
}

/** The sums of four vectors' lanes. */
@inline
export function sums(a: v128, b: v128, c: v128, d: v128): v128 {
  const ab = f32x4.add(v128.shuffle<f32>(a, b, 0, 1, 4, 5), v128.shuffle<f32>(a, b, 2, 3, 6, 7));
  const cd = f32x4.add(v128.shuffle<f32>(c, d, 0, 1, 4, 5), v128.shuffle<f32>(c, d, 2, 3, 6, 7));
  return f32x4.add(v128.shuffle<f32>(ab, cd, 0, 2, 4, 6), v128.shuffle<f32>(ab, cd, 1, 3, 5, 7));
}

@inline
export function sum(a: v128): f32 {
  const pairs = f32x4.add(a, v128.shuffle<f32>(a, a, 2, 3, 0, 1));
  return f32x4.extract_lane(pairs, 0) + f32x4.extract_lane(pairs, 1);
}

@inline
export function largest(a: v128): f32 {
  const pairs = f32x4.pmax(a, v128.shuffle<f32>(a, a, 2, 3, 0, 1));
  return f32x4.extract_lane(f32x4.pmax(pairs, v128.shuffle<f32>(pairs, pairs, 1, 0, 3, 2)), 0);
}

/** Four halves, zero-extended to 32 bits each, as float32. */
@inline
export function widen16(halves: v128): v128 {
  const magnitude = v128.and(halves, i32x4.splat(0x7fff));
  const sign = i32x4.shl(v128.xor(halves, magnitude), 16);
  // The exponent moves from bias 15 to bias 127 by a factor of 2^112, subnormals too; those of
  // infinities and NaN become all ones.
  const finite = f32x4.mul(i32x4.shl(magnitude, 13), splat(reinterpret<f32>(0x77800000)));
  const special = v128.and(i32x4.gt_s(magnitude, i32x4.splat(0x7bff)), i32x4.splat(0x7f800000));
  return v128.or(v128.or(finite, special), sign);
}

/** Four elements of a dtype as float32. */
@inline
export function load4(from: usize, dtype: u32): v128 {
  if (dtype === 0) return v128.load(from);
  const halves = v128.load16x4_u(from);
  return dtype === 1 ? widen16(halves) : i32x4.shl(halves, 16);
}

/** Element `index` of a dtype as float32; of bool, 0 and −∞ as a mask adds them. */
export function load1(array: usize, index: usize, dtype: u32): f32 {
  if (dtype === 0) return load<f32>(array + (index << 2));
  if (dtype === 3) return load<u8>(array + index) ? 0 : -Infinity;
  const half = <u32>load<u16>(array + (index << 1));
  if (dtype === 2) return reinterpret<f32>(half << 16);
  return f32x4.extract_lane(widen16(i32x4.splat(half)), 0);
}

/** The bits of the nearest half, ties to even. */
export function narrow1(x: f32, dtype: u32): u32 {
  const bits = reinterpret<u32>(x);
  const magnitude = bits & 0x7fffffff;
  if (dtype === 2) {
    if (magnitude > 0x7f800000) return (bits >>> 16) | 0x40;
    return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
  }
  const sign = (bits >>> 16) & 0x8000;
  if (magnitude >= 0x47800000)
    return sign | (magnitude > 0x7f800000 ? 0x7e00 | ((magnitude >>> 13) & 0x1ff) : 0x7c00);
  // Below 2^-14 halves are 2^-24 apart, as floats are from ½ on.
  if (magnitude < 0x38800000)
    return sign | (reinterpret<u32>(reinterpret<f32>(magnitude) + 0.5) - 0x3f000000);
  return sign | ((magnitude + 0xfff + ((magnitude >>> 13) & 1) - 0x38000000) >>> 13);
}

/** `x` rounded to a dtype. */
export function round1(x: f32, dtype: u32): f32 {
  if (dtype === 0) return x;
  const half = narrow1(x, dtype);
  if (dtype === 2) return reinterpret<f32>(half << 16);
  return f32x4.extract_lane(widen16(i32x4.splat(half)), 0);
}

/** Writes `count` floats as elements of a dtype. */
export function storeRow(to: usize, from: usize, count: u32, dtype: u32): void {
  if (dtype === 0) memory.copy(to, from, count << 2);
  else
    for (let i: u32 = 0; i < count; i++)
      store<u16>(to + (i << 1), narrow1(load<f32>(from + (i << 2)), dtype));
}

/** Writes `count` elements of a dtype as floats, and zeros up to `padded`, a multiple of 4. */
export function widenRow(to: usize, from: usize, count: u32, padded: u32, dtype: u32): void {
  const bytes: u32 = dtype === 0 ? 4 : 2;
  let i: u32 = 0;
  if (dtype === 0)
    for (; i + 4 <= count; i += 4) v128.store(to + (i << 2), v128.load(from + (i << 2)));
  else if (dtype === 1)
    for (; i + 4 <= count; i += 4)
      v128.store(to + (i << 2), widen16(v128.load16x4_u(from + (i << 1))));
  else
    for (; i + 4 <= count; i += 4)
      v128.store(to + (i << 2), i32x4.shl(v128.load16x4_u(from + (i << 1)), 16));
  for (; i < count; i++) store<f32>(to + (i << 2), load1(from, i, dtype));
  for (; i < padded; i++) store<f32>(to + (i << 2), 0);
}

/** Writes the columns of the matrix whose rows are four vectors, `toStride` bytes apart. */
@inline
export function transpose4(to: usize, toStride: usize, a: v128, b: v128, c: v128, d: v128): void {
  const ab0 = v128.shuffle<f32>(a, b, 0, 4, 1, 5);
  const ab1 = v128.shuffle<f32>(a, b, 2, 6, 3, 7);
  const cd0 = v128.shuffle<f32>(c, d, 0, 4, 1, 5);
  const cd1 = v128.shuffle<f32>(c, d, 2, 6, 3, 7);
  v128.store(to, v128.shuffle<f32>(ab0, cd0, 0, 1, 4, 5));
  v128.store(to + toStride, v128.shuffle<f32>(ab0, cd0, 2, 3, 6, 7));
  v128.store(to + 2 * toStride, v128.shuffle<f32>(ab1, cd1, 0, 1, 4, 5));
  v128.store(to + 3 * toStride, v128.shuffle<f32>(ab1, cd1, 2, 3, 6, 7));
}
