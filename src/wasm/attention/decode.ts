// Attention of a few query rows (decoding): each key and each value is read once, a block at a time, for
// all the rows of the tile that share it; lanes run along the depth. Four keys are in flight: 4 × 1 or 4 × 2 sums of
// products in registers, turned into scores by shuffles. Values are added four at a time to sums that stay
// in the first-level cache.

import * as at from "../layout";
import { exp, fma, larger, largest, load1, round1, splat, sum, sums, tanh, widenRow } from "../simd";
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
  storePartial,
  valueAddress,
  valueStride,
  widenRows,
} from "./rows";

export function decodeTile(split: u32): void {
  const rowBytes = p.paddedDepth << 2;
  const sumBytes = p.paddedValueDepth << 2;
  const scoreBytes = (p.blockKeys + 8) << 2;
  const headRows = count / p.tileHeads;
  // Several heads take turns, so that memory is read nearly in the order in which it lies, as processors
  // fetch ahead: 2.5 to 1.8 ms for 33 MB in rows of 8 heads. Turns of 4 or 8 keys are too short.
  const step = p.tileHeads > 1 ? 16 : p.blockKeys;
  for (let r: u32 = 0; r < count; r++) {
    const to = p.queryRows + r * rowBytes;
    widenRow(to, queryAddress(r), p.depth, p.paddedDepth, p.dtype);
    const factor = splat(p.scale);
    for (let c: u32 = 0; c < rowBytes; c += 16)
      v128.store(to + c, f32x4.mul(v128.load(to + c), factor));
  }
  memory.fill(p.sumRows, 0, count * sumBytes);

  let next: u32 = 0;
  for (let j = first; j < end; j = next) {
    next = min(j + p.blockKeys, end);
    if (j < p.past && next > p.past) next = p.past; // past and new keys lie in different tensors
    const n = next - j;

    for (let i: u32 = 0; i < n; i += step) {
      const m = min(step, n - i);
      for (let r: u32 = 0, head = kvHead; r < count; head++) {
        let k = keyAddress(head, j + i);
        let stride = keyStride(j);
        if (p.dtype !== 0 || p.depth !== p.paddedDepth) {
          k = widenRows(p.keyBlock, k, stride, m, p.depth, p.paddedDepth);
          stride = rowBytes;
        }
        const last = r + headRows;
        for (; r + 2 <= last; r += 2) {
          const to = p.weights + r * scoreBytes + (i << 2);
          scoresOfTwo(p.queryRows + r * rowBytes, k, stride, m, to, scoreBytes);
        }
        if (r < last) {
          scoresOfOne(p.queryRows + r * rowBytes, k, stride, m, p.weights + r * scoreBytes + (i << 2));
          r++;
        }
      }
    }

    for (let r: u32 = 0; r < count; r++) softmaxRow(r, j, n, p.weights + r * scoreBytes);

    for (let i: u32 = 0; i < n; i += step) {
      const m = min(step, n - i);
      for (let r: u32 = 0, head = kvHead; r < count; head++) {
        let v = valueAddress(head, j + i);
        let stride = valueStride(j);
        if (p.dtype !== 0 || p.valueDepth !== p.paddedValueDepth) {
          v = widenRows(p.valueBlock, v, stride, m, p.valueDepth, p.paddedValueDepth);
          stride = sumBytes;
        }
        const last = r + headRows;
        for (; r + 2 <= last; r += 2) {
          const w = p.weights + r * scoreBytes + (i << 2);
          addValuesToTwo(w, scoreBytes, v, stride, m, p.sumRows + r * sumBytes);
        }
        if (r < last) {
          addValues(p.weights + r * scoreBytes + (i << 2), v, stride, m, p.sumRows + r * sumBytes);
          r++;
        }
      }
    }
  }

  for (let r: u32 = 0; r < count; r++) {
    const line = p.sumRows + r * sumBytes;
    if (p.splits > 1) storePartial(split, r, line);
    else
      finishRow(r, line, load<f32>(p.maxima + (r << 2)), load<f32>(p.totals + (r << 2)));
  }
  if (p.splits > 1) arrive();
}

/** Products of one query with `n` keys; up to three more are written past them. */
function scoresOfOne(q: usize, k: usize, stride: u32, n: u32, to: usize): void {
  const bytes = p.paddedDepth << 2;
  const pairs = bytes & ~31;
  const last = k + (n - 1) * stride;
  for (let j: u32 = 0; j < n; j += 4) {
    const k0 = k + j * stride;
    const k1 = min(k0 + stride, last);
    const k2 = min(k0 + 2 * stride, last);
    const k3 = min(k0 + 3 * stride, last);
    // Two sums a key: one would wait for its last addition.
    let a = splat(0);
    let b = splat(0);
    let c = splat(0);
    let d = splat(0);
    let e = splat(0);
    let f = splat(0);
    let g = splat(0);
    let h = splat(0);
    for (let i: u32 = 0; i < pairs; i += 32) {
      const x = v128.load(q + i);
      const y = v128.load(q + i, 16);
      a = fma(x, v128.load(k0 + i), a);
      e = fma(y, v128.load(k0 + i, 16), e);
      b = fma(x, v128.load(k1 + i), b);
      f = fma(y, v128.load(k1 + i, 16), f);
      c = fma(x, v128.load(k2 + i), c);
      g = fma(y, v128.load(k2 + i, 16), g);
      d = fma(x, v128.load(k3 + i), d);
      h = fma(y, v128.load(k3 + i, 16), h);
    }
    if (pairs < bytes) {
      const x = v128.load(q + pairs);
      a = fma(x, v128.load(k0 + pairs), a);
      b = fma(x, v128.load(k1 + pairs), b);
      c = fma(x, v128.load(k2 + pairs), c);
      d = fma(x, v128.load(k3 + pairs), d);
    }
    v128.store(
      to + (j << 2),
      sums(f32x4.add(a, e), f32x4.add(b, f), f32x4.add(c, g), f32x4.add(d, h)),
    );
  }
}

function scoresOfTwo(q: usize, k: usize, stride: u32, n: u32, to: usize, toStride: u32): void {
  const bytes = p.paddedDepth << 2;
  const last = k + (n - 1) * stride;
  const q1 = q + bytes;
  for (let j: u32 = 0; j < n; j += 4) {
    const k0 = k + j * stride;
    const k1 = min(k0 + stride, last);
    const k2 = min(k0 + 2 * stride, last);
    const k3 = min(k0 + 3 * stride, last);
    let a = splat(0);
    let b = splat(0);
    let c = splat(0);
    let d = splat(0);
    let e = splat(0);
    let f = splat(0);
    let g = splat(0);
    let h = splat(0);
    for (let i: u32 = 0; i < bytes; i += 16) {
      const x = v128.load(q + i);
      const y = v128.load(q1 + i);
      let z = v128.load(k0 + i);
      a = fma(x, z, a);
      e = fma(y, z, e);
      z = v128.load(k1 + i);
      b = fma(x, z, b);
      f = fma(y, z, f);
      z = v128.load(k2 + i);
      c = fma(x, z, c);
      g = fma(y, z, g);
      z = v128.load(k3 + i);
      d = fma(x, z, d);
      h = fma(y, z, h);
    }
    v128.store(to + (j << 2), sums(a, b, c, d));
    v128.store(to + toStride + (j << 2), sums(e, f, g, h));
  }
}

/** Turns row `r`'s scores of keys `j` to `j + n` into weights, and rescales its sums so far. */
function softmaxRow(r: u32, j: u32, n: u32, s: usize): void {
  const bytes = n << 2;
  if (p.softcap > 0) {
    const cap = splat(p.softcap);
    for (let i: u32 = 0; i < bytes; i += 16)
      v128.store(s + i, f32x4.mul(tanh(f32x4.div(v128.load(s + i), cap)), cap));
  }
  // Past the last key, up to a whole vector: forbidden.
  for (let i = n; i < ((n + 3) & ~3); i++) store<f32>(s + (i << 2), -Infinity);
  const from = min(max(load<u32>(p.firstKeys + (r << 2)), j) - j, n);
  const to = max(min(load<u32>(p.endKeys + (r << 2)), j + n), j) - j;
  for (let i: u32 = 0; i < from; i++) store<f32>(s + (i << 2), -Infinity);
  for (let i = to; i < n; i++) store<f32>(s + (i << 2), -Infinity);
  if (p.maskDType !== 4) {
    const keyStep = load<u32>(p.job + at.maskKeyStride);
    let m = maskIndex(r) + (j + from) * keyStep;
    for (let i = from; i < to; i++, m += keyStep) {
      const bias = load1(p.mask, m, p.maskDType);
      const x = load<f32>(s + (i << 2));
      store<f32>(s + (i << 2), bias === -Infinity ? bias : x + bias);
    }
  }
  if (p.softmaxDType !== 0)
    for (let i: u32 = 0; i < n; i++)
      store<f32>(s + (i << 2), round1(load<f32>(s + (i << 2)), p.softmaxDType));

  let most = splat(-Infinity);
  for (let i: u32 = 0; i < bytes; i += 16) most = larger(most, v128.load(s + i));
  const before = load<f32>(p.maxima + (r << 2));
  const now = largest(most);
  const maximum: f32 = now > before ? now : before;
  store<f32>(p.maxima + (r << 2), maximum);
  // A row of −∞ so far: any finite number will do.
  const subtract = splat(max(maximum, -f32.MAX_VALUE));
  let total = splat(0);
  for (let i: u32 = 0; i < bytes; i += 16) {
    const weight = exp(f32x4.sub(v128.load(s + i), subtract));
    v128.store(s + i, weight);
    total = f32x4.add(total, weight);
  }
  let factor: f32 = 1;
  if (maximum > before) {
    const rescale = exp(f32x4.sub(splat(before), subtract));
    factor = f32x4.extract_lane(rescale, 0);
    const row = p.sumRows + r * (p.paddedValueDepth << 2);
    for (let c: u32 = 0; c < p.paddedValueDepth << 2; c += 16)
      v128.store(row + c, f32x4.mul(v128.load(row + c), rescale));
  }
  store<f32>(p.totals + (r << 2), load<f32>(p.totals + (r << 2)) * factor + sum(total));
}

/** Adds `n` weighted values to the sums of one row. */
function addValues(w: usize, v: usize, stride: u32, n: u32, to: usize): void {
  const bytes = p.paddedValueDepth << 2;
  let j: u32 = 0;
  for (; j + 4 <= n; j += 4) {
    const v0 = v + j * stride;
    const v1 = v0 + stride;
    const v2 = v1 + stride;
    const v3 = v2 + stride;
    const a = v128.load32_splat(w + (j << 2));
    const b = v128.load32_splat(w + (j << 2), 4);
    const c = v128.load32_splat(w + (j << 2), 8);
    const d = v128.load32_splat(w + (j << 2), 12);
    for (let i: u32 = 0; i < bytes; i += 16) {
      // Two chains, to halve the wait.
      const x = fma(b, v128.load(v1 + i), fma(a, v128.load(v0 + i), v128.load(to + i)));
      const y = fma(d, v128.load(v3 + i), f32x4.mul(c, v128.load(v2 + i)));
      v128.store(to + i, f32x4.add(x, y));
    }
  }
  for (; j < n; j++) {
    const v0 = v + j * stride;
    const a = v128.load32_splat(w + (j << 2));
    for (let i: u32 = 0; i < bytes; i += 16)
      v128.store(to + i, fma(a, v128.load(v0 + i), v128.load(to + i)));
  }
}

function addValuesToTwo(w: usize, wStride: u32, v: usize, stride: u32, n: u32, to: usize): void {
  const bytes = p.paddedValueDepth << 2;
  const to1 = to + bytes;
  const w1 = w + wStride;
  let j: u32 = 0;
  for (; j + 4 <= n; j += 4) {
    const v0 = v + j * stride;
    const v1 = v0 + stride;
    const v2 = v1 + stride;
    const v3 = v2 + stride;
    const a = v128.load32_splat(w + (j << 2));
    const b = v128.load32_splat(w + (j << 2), 4);
    const c = v128.load32_splat(w + (j << 2), 8);
    const d = v128.load32_splat(w + (j << 2), 12);
    const e = v128.load32_splat(w1 + (j << 2));
    const f = v128.load32_splat(w1 + (j << 2), 4);
    const g = v128.load32_splat(w1 + (j << 2), 8);
    const h = v128.load32_splat(w1 + (j << 2), 12);
    for (let i: u32 = 0; i < bytes; i += 16) {
      let z = v128.load(v0 + i);
      let x = fma(a, z, v128.load(to + i));
      let y = fma(e, z, v128.load(to1 + i));
      z = v128.load(v1 + i);
      x = fma(b, z, x);
      y = fma(f, z, y);
      z = v128.load(v2 + i);
      x = fma(c, z, x);
      y = fma(g, z, y);
      z = v128.load(v3 + i);
      v128.store(to + i, fma(d, z, x));
      v128.store(to1 + i, fma(h, z, y));
    }
  }
  for (; j < n; j++) {
    const v0 = v + j * stride;
    const a = v128.load32_splat(w + (j << 2));
    const e = v128.load32_splat(w1 + (j << 2));
    for (let i: u32 = 0; i < bytes; i += 16) {
      const z = v128.load(v0 + i);
      v128.store(to + i, fma(a, z, v128.load(to + i)));
      v128.store(to1 + i, fma(e, z, v128.load(to1 + i)));
    }
  }
}
