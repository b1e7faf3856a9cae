// What query rows may see, where they lie, and what becomes of them in the end.

import * as at from "../layout";
import { exp1, load1, log, round1, storeRow, tanh, splat, widenRow } from "../simd";
import * as p from "./problem";

let batch: u32 = 0;
/** The first key/value head of the tile. */
export let kvHead: u32 = 0;
let tile: u32 = 0;
let tileStart: u32 = 0;
/** Rows of the tile. */
export let count: u32 = 0;
/** Keys that some row of the tile may see. */
export let first: u32 = 0;
export let end: u32 = 0;

@inline
function word(offset: usize): u32 {
  return load<u32>(p.job + offset);
}

/** Finds the rows of a tile and the keys that each may see. Rows past the last are like the last. */
export function beginTile(number: u32): void {
  tile = number;
  const head = (tile / p.tilesPerHead) * p.tileHeads;
  batch = head / p.kvHeads;
  kvHead = head % p.kvHeads;
  // The last tiles come first: where the mask is causal, they are the longest.
  tileStart = (p.tilesPerHead - 1 - (tile % p.tilesPerHead)) * p.tileRows;
  count = min(p.tileRows, p.tileHeads * p.group * p.queries - tileStart);

  let length = <i32>p.keys;
  if (p.kvLengths) length = min(max(load<i32>(p.kvLengths + (batch << 2)), 0), length);
  let offset: i32 = 0;
  if (p.past > 0) offset = <i32>p.past;
  else if (p.kvLengths) offset = length - <i32>p.queries;
  const left = <i32>word(at.windowLeft);
  const right = <i32>word(at.windowRight);
  const causal = word(at.causal);
  let limit = length;
  if (p.maskDType !== 4) limit = min(limit, <i32>word(at.maskKeys));

  first = p.keys;
  end = 0;
  const padded = (count + 7) & ~7;
  for (let r: u32 = 0; r < padded; r++) {
    const row = tileStart + min(r, count - 1);
    const i = row % p.queries;
    const position = offset + <i32>i;
    let from: i32 = 0;
    let to = limit;
    if (left >= 0) from = max(0, position - left);
    if (causal) to = min(to, position + 1);
    if (right >= 0) to = min(to, position + right + 1);
    if (to < from) to = from;
    store<i32>(p.firstKeys + (r << 2), from);
    store<i32>(p.endKeys + (r << 2), to);
    store<u32>(p.rowHeads + (r << 2), kvHead * p.group + row / p.queries);
    store<u32>(p.rowQueries + (r << 2), i);
    store<f32>(p.maxima + (r << 2), -Infinity);
    store<f32>(p.totals + (r << 2), 0);
    if (from < to) {
      first = min(first, <u32>from);
      end = max(end, <u32>to);
    }
  }
}

/** Limits the tile to one part of its keys. */
export function takeSplit(split: u32): void {
  first = max(first, split * p.splitKeys);
  end = min(end, (split + 1) * p.splitKeys);
}

@inline
function headOf(r: u32): u32 {
  return load<u32>(p.rowHeads + (r << 2));
}

@inline
function queryOf(r: u32): u32 {
  return load<u32>(p.rowQueries + (r << 2));
}

export function queryAddress(r: u32): usize {
  const element =
    batch * word(at.queryBatchStride) +
    headOf(r) * word(at.queryHeadStride) +
    queryOf(r) * word(at.queryRowStride);
  return p.query + (<usize>element << p.shift);
}

/** Copies `n` rows of keys or values, of the problem's dtype, as floats padded with zeros. Returns `to`. */
export function widenRows(to: usize, from: usize, stride: u32, n: u32, width: u32, padded: u32): usize {
  for (let i: u32 = 0; i < n; i++)
    widenRow(to + i * (padded << 2), from + i * stride, width, padded, p.dtype);
  return to;
}

/** Row `r` among all rows of all batches and heads. */
export function rowIndex(r: u32): u32 {
  return (batch * p.queryHeads + headOf(r)) * p.queries + queryOf(r);
}

/** Where key `j` of a key/value head lies: in the past, or among the new ones. */
export function keyAddress(kvHead: u32, j: u32): usize {
  let element: u32;
  if (j < p.past) {
    element = ((batch * p.kvHeads + kvHead) * p.past + j) * p.depth;
    return p.pastKey + (<usize>element << p.shift);
  }
  element =
    batch * word(at.keyBatchStride) +
    kvHead * word(at.keyHeadStride) +
    (j - p.past) * word(at.keyRowStride);
  return p.key + (<usize>element << p.shift);
}

export function valueAddress(kvHead: u32, j: u32): usize {
  let element: u32;
  if (j < p.past) {
    element = ((batch * p.kvHeads + kvHead) * p.past + j) * p.valueDepth;
    return p.pastValue + (<usize>element << p.shift);
  }
  element =
    batch * word(at.valueBatchStride) +
    kvHead * word(at.valueHeadStride) +
    (j - p.past) * word(at.valueRowStride);
  return p.value + (<usize>element << p.shift);
}

/** Bytes from one key, or value, to the next. */
export function keyStride(j: u32): u32 {
  return (j < p.past ? p.depth : word(at.keyRowStride)) << p.shift;
}

export function valueStride(j: u32): u32 {
  return (j < p.past ? p.valueDepth : word(at.valueRowStride)) << p.shift;
}

/** The mask's element for row `r` and key 0; later keys lie `maskKeyStride` apart. */
export function maskIndex(r: u32): usize {
  return (
    batch * word(at.maskBatchStride) +
    headOf(r) * word(at.maskHeadStride) +
    queryOf(r) * word(at.maskQueryStride)
  );
}

/** Whether rows `a` and `b` share their row of the mask. */
@inline
export function sameMask(a: u32, b: u32): bool {
  return maskIndex(a) === maskIndex(b);
}

function hasNaN(line: usize): bool {
  let differs = i32x4.splat(0);
  let c: u32 = 0;
  for (; c + 4 <= p.valueDepth; c += 4) {
    const x = v128.load(line + (c << 2));
    differs = v128.or(differs, f32x4.ne(x, x));
  }
  if (v128.any_true(differs)) return true;
  for (; c < p.valueDepth; c++) {
    const x = load<f32>(line + (c << 2));
    if (x !== x) return true;
  }
  return false;
}

/** Writes row `r`: its sum of weighted values at `line`, their maximum and total. */
export function finishRow(r: u32, line: usize, maximum: f32, total: f32): void {
  // A NaN may come of a forbidden key's NaN or ±∞, times its weight of 0: then again, without those.
  if (hasNaN(line)) {
    maximum = redoMaximum(r);
    total = redoSums(r, line, maximum);
  }
  const factor: f32 = total === 0 ? 0 : 1 / total;
  const four = splat(factor);
  for (let c: u32 = 0; c < p.valueDepth; c += 4)
    v128.store(line + (c << 2), f32x4.mul(v128.load(line + (c << 2)), four));
  const head = headOf(r);
  const i = queryOf(r);
  const element =
    batch * word(at.outputBatchStride) + head * word(at.outputHeadStride) + i * word(at.outputRowStride);
  storeRow(p.output + (<usize>element << p.shift), line, p.valueDepth, p.dtype);
  if (p.lse) {
    // Of a total of 0 or NaN there is no logarithm.
    const logTotal: f32 = total > 0 ? log(total) : total === 0 ? -Infinity : total;
    store<f32>(p.lse + (rowIndex(r) << 2), total === 0 ? -Infinity : maximum + logTotal);
  }
}

function score(r: u32, j: u32, q: usize, maskRow: usize): f32 {
  let bias: f32 = 0;
  if (p.maskDType !== 4) {
    bias = load1(p.mask, maskRow + j * word(at.maskKeyStride), p.maskDType);
    if (bias === -Infinity) return bias;
  }
  const k = keyAddress(headOf(r) / p.group, j);
  let dot: f64 = 0;
  for (let c: u32 = 0; c < p.depth; c++) dot += <f64>load1(q, c, p.dtype) * load1(k, c, p.dtype);
  let s = <f32>(dot * p.scale);
  if (p.softcap > 0) s = p.softcap * f32x4.extract_lane(tanh(splat(s / p.softcap)), 0);
  return round1(s + bias, p.softmaxDType);
}

/** The row's maximum, computed key by key. */
function redoMaximum(r: u32): f32 {
  const q = queryAddress(r);
  const maskRow = maskIndex(r);
  const to = load<u32>(p.endKeys + (r << 2));
  let maximum: f32 = -Infinity;
  for (let j = load<u32>(p.firstKeys + (r << 2)); j < to; j++) {
    const s = score(r, j, q, maskRow);
    if (s > maximum) maximum = s;
  }
  return maximum;
}

/** The row's total and sums, computed key by key, forbidden ones left out. */
function redoSums(r: u32, line: usize, maximum: f32): f32 {
  const q = queryAddress(r);
  const maskRow = maskIndex(r);
  const to = load<u32>(p.endKeys + (r << 2));
  const head = headOf(r) / p.group;
  memory.fill(line, 0, p.valueDepth << 2);
  let total: f32 = 0;
  for (let j = load<u32>(p.firstKeys + (r << 2)); j < to; j++) {
    const s = score(r, j, q, maskRow);
    if (s === -Infinity) continue;
    const weight = exp1(s - maximum);
    total += weight;
    const v = valueAddress(head, j);
    for (let c: u32 = 0; c < p.valueDepth; c++) {
      const to = line + (c << 2);
      store<f32>(to, load<f32>(to) + weight * load1(v, c, p.dtype));
    }
  }
  return total;
}

// Parts of a tile's keys: each leaves, for every row, its maximum, its total (16 bytes) and its sums. The
// thread that leaves the last one merges them by log-sum-exp.

function partial(split: u32, r: u32): usize {
  const record = (tile * p.splits + split) * p.tileRows + r;
  return p.partials + <usize>record * (16 + 4 * p.paddedValueDepth);
}

export function storePartial(split: u32, r: u32, line: usize): void {
  const to = partial(split, r);
  store<f32>(to, load<f32>(p.maxima + (r << 2)));
  store<f32>(to + 4, load<f32>(p.totals + (r << 2)));
  memory.copy(to + 16, line, p.valueDepth << 2);
}

/** Counts a part as done, and merges them all if it was the last. */
export function arrive(): void {
  const before = atomic.add<u32>(p.arrivals + (tile << 2), 1);
  if (before + 1 < p.splits) return;
  const line = p.lines;
  for (let r: u32 = 0; r < count; r++) {
    let maximum: f32 = -Infinity;
    for (let split: u32 = 0; split < p.splits; split++)
      maximum = max(maximum, load<f32>(partial(split, r)));
    let total: f32 = 0;
    memory.fill(line, 0, p.valueDepth << 2);
    for (let split: u32 = 0; split < p.splits; split++) {
      const from = partial(split, r);
      const own = load<f32>(from);
      // An empty part has nothing to add; one of NaN has, whatever its maximum.
      if (load<f32>(from + 4) === 0) continue;
      const factor = own === maximum ? <f32>1 : exp1(own - maximum);
      total += factor * load<f32>(from + 4);
      for (let c: u32 = 0; c < p.valueDepth; c++) {
        const to = line + (c << 2);
        store<f32>(to, load<f32>(to) + factor * load<f32>(from + 16 + (c << 2)));
      }
    }
    finishRow(r, line, maximum, total);
  }
}
