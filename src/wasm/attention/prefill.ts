// Attention of many query rows, in panels of eight: lane l of a panel's two vectors is its query l.
//
//   queries  [panel][depth][8]       packed once a tile
//   scores   Sᵀ = K·Qᵀ, [key][8]     for one panel and one block of keys
//   sums     Oᵀ = Vᵀ·Pᵀ, [valueDepth][8]
//
// So softmax runs down the lanes with no shuffle, and both products broadcast elements of K and V, as they
// lie in memory, against vectors of a packed panel. A micro-kernel makes 6 × 8 sums: 12 registers, 2 for
// the panel's vectors, 1 for the broadcast element, of x86's 16; each step is 8 loads and 12 fused
// multiply-adds. A block of K and V stays in the nearest caches while all panels of the tile use it.

import * as at from "../layout";
import { exp, fma, larger, load1, round1, splat, tanh, transpose4, widenRow } from "../simd";
import * as p from "./problem";
import {
  arrive,
  count,
  end,
  finishRow,
  first,
  keyAddress,
  keyStride,
  kvHead,
  maskIndex,
  queryAddress,
  sameMask,
  storePartial,
  valueAddress,
  valueStride,
  widenRows,
} from "./rows";

export function prefillTile(split: u32): void {
  const panels = (count + 7) >>> 3;
  const sumPanel = p.paddedValueDepth << 5;
  packQueries(panels);
  memory.fill(p.sumRows, 0, panels * sumPanel);

  let next: u32 = 0;
  for (let j = first; j < end; j = next) {
    next = min(j + p.blockKeys, end);
    if (j < p.past && next > p.past) next = p.past; // past and new keys lie in different tensors
    const n = next - j;
    let k: usize = 0;
    let v: usize = 0;
    let vStride: u32 = 0;
    for (let panel: u32 = 0; panel < panels; panel++) {
      const all = limits(panel, j, next);
      if (all === 0) continue;
      if (p.maskDType !== 4 && !readMask(panel, j, n)) continue;
      if (k === 0) {
        k = keyRows(j, n);
        v = valueAddress(kvHead, j);
        vStride = valueStride(j);
        if (p.dtype !== 0 || vStride !== p.valueDepth << 2) {
          v = widenRows(p.valueBlock, v, vStride, n, p.valueDepth, p.paddedValueDepth);
          vStride = p.paddedValueDepth << 2;
        }
      }
      scores(panel, k, n, p.weights);
      softmax(panel, j, n, all === 2);
      addValues(v, vStride, n, p.sumRows + panel * sumPanel, p.rescales + (panel << 5));
    }
  }

  const lineBytes = p.paddedValueDepth << 2;
  for (let r: u32 = 0; r < count; r += 4) {
    // Four rows of the panel, turned back.
    const from = p.sumRows + (r >>> 3) * sumPanel + ((r & 4) << 2);
    for (let c: u32 = 0; c < p.paddedValueDepth; c += 4) {
      const at = from + (c << 5);
      transpose4(
        p.lines + (c << 2),
        lineBytes,
        v128.load(at),
        v128.load(at, 32),
        v128.load(at, 64),
        v128.load(at, 96),
      );
    }
    for (let i: u32 = 0; i < min(4, count - r); i++) {
      const line = p.lines + i * lineBytes;
      if (p.splits > 1) storePartial(split, r + i, line);
      else {
        const row = (r + i) << 2;
        finishRow(r + i, line, load<f32>(p.maxima + row), load<f32>(p.totals + row));
      }
    }
  }
  if (p.splits > 1) arrive();
}

/** Scales the tile's queries and turns them into panels. Rows past the last are like it. */
export function packQueries(panels: u32): void {
  const factor = splat(p.scale);
  const bytes = p.paddedDepth << 2;
  for (let r: u32 = 0; r < panels << 3; r += 4) {
    for (let i: u32 = 0; i < 4; i++)
      widenRow(p.keyBlock + i * bytes, queryAddress(r + i), p.depth, p.paddedDepth, p.dtype);
    const to = p.queryRows + (r >>> 3) * (p.paddedDepth << 5) + ((r & 4) << 2);
    for (let c: u32 = 0; c < bytes; c += 16) {
      const from = p.keyBlock + c;
      transpose4(
        to + (c << 3),
        32,
        f32x4.mul(v128.load(from), factor),
        f32x4.mul(v128.load(from + bytes), factor),
        f32x4.mul(v128.load(from + 2 * bytes), factor),
        f32x4.mul(v128.load(from + 3 * bytes), factor),
      );
    }
  }
}

/** Keys `j` to `j + n` as floats, their rows padded: where they lie if they are so, else a copy. */
export function keyRows(j: u32, n: u32): usize {
  const from = keyAddress(kvHead, j);
  const stride = keyStride(j);
  if (p.dtype === 0 && p.depth === p.paddedDepth && stride === p.depth << 2) return from;
  return widenRows(p.keyBlock, from, stride, n, p.depth, p.paddedDepth);
}

/** Of the keys from `j` to `next`: 0 if no row of the panel may see any, 2 if every row sees all. */
export function limits(panel: u32, j: u32, next: u32): u32 {
  const rows = panel << 5;
  const from0 = v128.load(p.firstKeys + rows);
  const from1 = v128.load(p.firstKeys + rows, 16);
  const to0 = v128.load(p.endKeys + rows);
  const to1 = v128.load(p.endKeys + rows, 16);
  const start = i32x4.splat(j);
  const stop = i32x4.splat(next);
  const cut = v128.or(
    v128.or(i32x4.gt_s(from0, start), i32x4.lt_s(to0, stop)),
    v128.or(i32x4.gt_s(from1, start), i32x4.lt_s(to1, stop)),
  );
  if (!v128.any_true(cut)) return 2;
  const sees = v128.or(
    i32x4.gt_s(i32x4.min_s(to0, stop), i32x4.max_s(from0, start)),
    i32x4.gt_s(i32x4.min_s(to1, stop), i32x4.max_s(from1, start)),
  );
  return v128.any_true(sees) ? 1 : 0;
}

/** Writes what the mask adds to the panel's scores, and says whether it allows any key. */
export function readMask(panel: u32, j: u32, n: u32): bool {
  const step = load<u32>(p.job + at.maskKeyStride);
  const row = panel << 3;
  let allowed = false;
  const shared = sameMask(row, row + 7) && sameMask(row, row + 1);
  const masks: u32 = shared ? 1 : 8;
  for (let r: u32 = 0; r < masks; r++) {
    let m = maskIndex(row + r) + j * step;
    const end = p.biases + (n << 5);
    for (let to = p.biases; to < end; to += 32, m += step) {
      const bias = load1(p.mask, m, p.maskDType);
      if (bias !== -Infinity) allowed = true;
      if (shared) {
        v128.store(to, splat(bias));
        v128.store(to, splat(bias), 16);
      } else store<f32>(to + (r << 2), bias);
    }
  }
  return allowed;
}

/**
 * Sᵀ of one panel and `n` keys, to `to`; up to five more, like the last, are written past them. The
 * largest, or what was larger before, is left in the place of the panel's rescale factors: finding it here is free,
 * as the multiply-adds leave the units that compare idle.
 */
export function scores(panel: u32, k: usize, n: u32, to: usize): void {
  const stride = p.paddedDepth << 2;
  const queries = p.queryRows + panel * (p.paddedDepth << 5);
  const last = k + (n - 1) * stride;
  const queriesEnd = queries + (p.paddedDepth << 5);
  const most = p.rescales + (panel << 5);
  v128.store(most, v128.load(p.maxima + (panel << 5)));
  v128.store(most, v128.load(p.maxima + (panel << 5), 16), 16);
  for (let j: u32 = 0; j < n; j += 6) {
    let k0 = k + j * stride;
    let k1 = min(k0 + stride, last);
    let k2 = min(k0 + 2 * stride, last);
    let k3 = min(k0 + 3 * stride, last);
    let k4 = min(k0 + 4 * stride, last);
    let k5 = min(k0 + 5 * stride, last);
    let a0 = splat(0);
    let b0 = splat(0);
    let a1 = splat(0);
    let b1 = splat(0);
    let a2 = splat(0);
    let b2 = splat(0);
    let a3 = splat(0);
    let b3 = splat(0);
    let a4 = splat(0);
    let b4 = splat(0);
    let a5 = splat(0);
    let b5 = splat(0);
    // Not unrolled: V8 does that, and keeps the sums in registers only if it does it itself.
    for (let q = queries; q < queriesEnd; q += 32) {
      const a = v128.load(q);
      const b = v128.load(q, 16);
      let x = v128.load32_splat(k0);
      a0 = fma(x, a, a0);
      b0 = fma(x, b, b0);
      x = v128.load32_splat(k1);
      a1 = fma(x, a, a1);
      b1 = fma(x, b, b1);
      x = v128.load32_splat(k2);
      a2 = fma(x, a, a2);
      b2 = fma(x, b, b2);
      x = v128.load32_splat(k3);
      a3 = fma(x, a, a3);
      b3 = fma(x, b, b3);
      x = v128.load32_splat(k4);
      a4 = fma(x, a, a4);
      b4 = fma(x, b, b4);
      x = v128.load32_splat(k5);
      a5 = fma(x, a, a5);
      b5 = fma(x, b, b5);
      k0 += 4;
      k1 += 4;
      k2 += 4;
      k3 += 4;
      k4 += 4;
      k5 += 4;
    }
    v128.store(to, a0);
    v128.store(to, b0, 16);
    v128.store(to, a1, 32);
    v128.store(to, b1, 48);
    v128.store(to, a2, 64);
    v128.store(to, b2, 80);
    v128.store(to, a3, 96);
    v128.store(to, b3, 112);
    v128.store(to, a4, 128);
    v128.store(to, b4, 144);
    v128.store(to, a5, 160);
    v128.store(to, b5, 176);
    to += 192;
    a0 = larger(larger(a0, a1), larger(larger(a2, a3), larger(a4, a5)));
    b0 = larger(larger(b0, b1), larger(larger(b2, b3), larger(b4, b5)));
    v128.store(most, larger(v128.load(most), a0));
    v128.store(most, larger(v128.load(most, 16), b0), 16);
  }
}

/** Caps the scores from `from` to `end`. */
export function cap(from: usize, end: usize): void {
  const most = splat(p.softcap);
  for (let s = from; s < end; s += 16)
    v128.store(s, f32x4.mul(tanh(f32x4.div(v128.load(s), most)), most));
}

/** Adds what {@link readMask} found; −∞ forbids whatever the score is. */
export function addMask(from: usize, end: usize): void {
  const forbidden = splat(-Infinity);
  for (let s = from, m = p.biases; s < end; s += 16, m += 16) {
    const bias = v128.load(m);
    const sum = f32x4.add(v128.load(s), bias);
    v128.store(s, v128.bitselect(forbidden, sum, f32x4.eq(bias, forbidden)));
  }
}

/** Puts −∞ where a row of the panel may not see the key, of which the first is `j`. */
export function forbid(panel: u32, j: u32, from: usize, end: usize): void {
  const rows = panel << 5;
  for (let half: u32 = 0; half < 32; half += 16) {
    const first = v128.load(p.firstKeys + rows + half);
    const stop = v128.load(p.endKeys + rows + half);
    let index = i32x4.splat(j);
    for (let s = from + half; s < end; s += 32) {
      const out = v128.or(i32x4.lt_s(index, first), i32x4.ge_s(index, stop));
      v128.store(s, v128.bitselect(splat(-Infinity), v128.load(s), out));
      index = i32x4.add(index, i32x4.splat(1));
    }
  }
}

/** Rounds scores to the softmax's dtype. */
export function round(from: usize, end: usize): void {
  for (let s = from; s < end; s += 4) store<f32>(s, round1(load<f32>(s), p.softmaxDType));
}

/**
 * Turns the panel's scores of keys `j` to `j + n` into weights.
 *
 * @param all Whether every row may see all of them, as far as positions go.
 */
function softmax(panel: u32, j: u32, n: u32, all: bool): void {
  const end = p.weights + (n << 5);
  const changed = !all || p.softcap > 0 || p.maskDType !== 4 || p.softmaxDType !== 0;
  if (p.softcap > 0) cap(p.weights, end);
  if (p.maskDType !== 4) addMask(p.weights, end);
  if (!all) forbid(panel, j, p.weights, end);
  if (p.softmaxDType !== 0) round(p.weights, end);

  const maxima = p.maxima + (panel << 5);
  const totals = p.totals + (panel << 5);
  const before0 = v128.load(maxima);
  const before1 = v128.load(maxima, 16);
  let most0 = v128.load(p.rescales + (panel << 5));
  let most1 = v128.load(p.rescales + (panel << 5), 16);
  if (changed) {
    most0 = before0;
    most1 = before1;
    for (let s = p.weights; s < end; s += 32) {
      most0 = larger(most0, v128.load(s));
      most1 = larger(most1, v128.load(s, 16));
    }
  }
  v128.store(maxima, most0);
  v128.store(maxima, most1, 16);
  // A row of −∞ so far: any finite number will do.
  const lowest = splat(-f32.MAX_VALUE);
  most0 = larger(most0, lowest);
  most1 = larger(most1, lowest);
  const rescale0 = exp(f32x4.sub(before0, most0));
  const rescale1 = exp(f32x4.sub(before1, most1));
  v128.store(p.rescales + (panel << 5), rescale0);
  v128.store(p.rescales + (panel << 5), rescale1, 16);
  let total0 = splat(0);
  let total1 = splat(0);
  for (let s = p.weights; s < end; s += 32) {
    const weight0 = exp(f32x4.sub(v128.load(s), most0));
    const weight1 = exp(f32x4.sub(v128.load(s, 16), most1));
    v128.store(s, weight0);
    v128.store(s, weight1, 16);
    total0 = f32x4.add(total0, weight0);
    total1 = f32x4.add(total1, weight1);
  }
  v128.store(totals, fma(v128.load(totals), rescale0, total0));
  v128.store(totals, fma(v128.load(totals, 16), rescale1, total1), 16);
}

/**
 * Oᵀ of one panel: what it was, rescaled, and the weighted values of `n` keys. These are summed up first:
 * one by one, small ones would be lost beside the sum of thousands.
 */
function addValues(v: usize, stride: u32, n: u32, to: usize, rescales: usize): void {
  let rest = p.valueDepth;
  for (; rest >= 6; rest -= 6) {
    addSix(v, stride, n, to, rescales);
    v += 24;
    to += 192;
  }
  if (rest & 4) {
    addFour(v, stride, n, to, rescales);
    v += 16;
    to += 128;
  }
  if (rest & 2) {
    addTwo(v, stride, n, to, rescales);
    v += 8;
    to += 64;
  }
  if (rest & 1) addOne(v, stride, n, to, rescales);
}

function addSix(v: usize, stride: u32, n: u32, to: usize, rescales: usize): void {
  let a0 = splat(0);
  let b0 = splat(0);
  let a1 = splat(0);
  let b1 = splat(0);
  let a2 = splat(0);
  let b2 = splat(0);
  let a3 = splat(0);
  let b3 = splat(0);
  let a4 = splat(0);
  let b4 = splat(0);
  let a5 = splat(0);
  let b5 = splat(0);
  const end = p.weights + (n << 5);
  for (let w = p.weights; w < end; w += 32, v += stride) {
    const a = v128.load(w);
    const b = v128.load(w, 16);
    let x = v128.load32_splat(v);
    a0 = fma(x, a, a0);
    b0 = fma(x, b, b0);
    x = v128.load32_splat(v, 4);
    a1 = fma(x, a, a1);
    b1 = fma(x, b, b1);
    x = v128.load32_splat(v, 8);
    a2 = fma(x, a, a2);
    b2 = fma(x, b, b2);
    x = v128.load32_splat(v, 12);
    a3 = fma(x, a, a3);
    b3 = fma(x, b, b3);
    x = v128.load32_splat(v, 16);
    a4 = fma(x, a, a4);
    b4 = fma(x, b, b4);
    x = v128.load32_splat(v, 20);
    a5 = fma(x, a, a5);
    b5 = fma(x, b, b5);
  }
  const r0 = v128.load(rescales);
  const r1 = v128.load(rescales, 16);
  v128.store(to, fma(v128.load(to), r0, a0));
  v128.store(to, fma(v128.load(to, 16), r1, b0), 16);
  v128.store(to, fma(v128.load(to, 32), r0, a1), 32);
  v128.store(to, fma(v128.load(to, 48), r1, b1), 48);
  v128.store(to, fma(v128.load(to, 64), r0, a2), 64);
  v128.store(to, fma(v128.load(to, 80), r1, b2), 80);
  v128.store(to, fma(v128.load(to, 96), r0, a3), 96);
  v128.store(to, fma(v128.load(to, 112), r1, b3), 112);
  v128.store(to, fma(v128.load(to, 128), r0, a4), 128);
  v128.store(to, fma(v128.load(to, 144), r1, b4), 144);
  v128.store(to, fma(v128.load(to, 160), r0, a5), 160);
  v128.store(to, fma(v128.load(to, 176), r1, b5), 176);
}

function addFour(v: usize, stride: u32, n: u32, to: usize, rescales: usize): void {
  let a0 = splat(0);
  let b0 = splat(0);
  let a1 = splat(0);
  let b1 = splat(0);
  let a2 = splat(0);
  let b2 = splat(0);
  let a3 = splat(0);
  let b3 = splat(0);
  const end = p.weights + (n << 5);
  for (let w = p.weights; w < end; w += 32, v += stride) {
    const a = v128.load(w);
    const b = v128.load(w, 16);
    let x = v128.load32_splat(v);
    a0 = fma(x, a, a0);
    b0 = fma(x, b, b0);
    x = v128.load32_splat(v, 4);
    a1 = fma(x, a, a1);
    b1 = fma(x, b, b1);
    x = v128.load32_splat(v, 8);
    a2 = fma(x, a, a2);
    b2 = fma(x, b, b2);
    x = v128.load32_splat(v, 12);
    a3 = fma(x, a, a3);
    b3 = fma(x, b, b3);
  }
  const r0 = v128.load(rescales);
  const r1 = v128.load(rescales, 16);
  v128.store(to, fma(v128.load(to), r0, a0));
  v128.store(to, fma(v128.load(to, 16), r1, b0), 16);
  v128.store(to, fma(v128.load(to, 32), r0, a1), 32);
  v128.store(to, fma(v128.load(to, 48), r1, b1), 48);
  v128.store(to, fma(v128.load(to, 64), r0, a2), 64);
  v128.store(to, fma(v128.load(to, 80), r1, b2), 80);
  v128.store(to, fma(v128.load(to, 96), r0, a3), 96);
  v128.store(to, fma(v128.load(to, 112), r1, b3), 112);
}

function addTwo(v: usize, stride: u32, n: u32, to: usize, rescales: usize): void {
  let a0 = splat(0);
  let b0 = splat(0);
  let a1 = splat(0);
  let b1 = splat(0);
  const end = p.weights + (n << 5);
  for (let w = p.weights; w < end; w += 32, v += stride) {
    const a = v128.load(w);
    const b = v128.load(w, 16);
    let x = v128.load32_splat(v);
    a0 = fma(x, a, a0);
    b0 = fma(x, b, b0);
    x = v128.load32_splat(v, 4);
    a1 = fma(x, a, a1);
    b1 = fma(x, b, b1);
  }
  const r0 = v128.load(rescales);
  const r1 = v128.load(rescales, 16);
  v128.store(to, fma(v128.load(to), r0, a0));
  v128.store(to, fma(v128.load(to, 16), r1, b0), 16);
  v128.store(to, fma(v128.load(to, 32), r0, a1), 32);
  v128.store(to, fma(v128.load(to, 48), r1, b1), 48);
}

function addOne(v: usize, stride: u32, n: u32, to: usize, rescales: usize): void {
  let a0 = splat(0);
  let b0 = splat(0);
  const end = p.weights + (n << 5);
  for (let w = p.weights; w < end; w += 32, v += stride) {
    const x = v128.load32_splat(v);
    a0 = fma(x, v128.load(w), a0);
    b0 = fma(x, v128.load(w, 16), b0);
  }
  v128.store(to, fma(v128.load(to), v128.load(rescales), a0));
  v128.store(to, fma(v128.load(to, 16), v128.load(rescales, 16), b0), 16);
}
