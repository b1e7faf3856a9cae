import type { HostView } from "../../devices/kernel.ts";
import { type HalfDType, narrow, widen } from "../../tensor/half.ts";
import { endKey, firstKey, positionOffset } from "./positions.ts";
import type { AttentionProblem, MaskLayout, RowStrides } from "./problem.ts";
import { type AttentionInputs, type AttentionResults, inputStrides } from "./spec.ts";

// Blocked attention with an online softmax (FlashAttention's, https://arxiv.org/abs/2205.14135) in plain
// TypeScript: float64 arithmetic over tiles that stay in the first-level cache.
//
// A tile is up to 32 query rows that read one key/value head: the queries of all the query heads in its
// group, one after another, so that decoding reads K and V once. Keys go by in blocks of 64. Rows are
// worked on four at a time (a quad), and the scratch arrays interleave the rows of a quad: element e of
// row r lies at `lane(r, length) + 4 · e`. A tile of one row has loops of its own.

const tileRows = 32;
const blockKeys = 64;

/** Where element 0 of row `r` lies in a scratch array of `length` elements a row. */
const lane = (r: number, length: number): number => (r >> 2) * 4 * length + (r & 3);

/**
 * Attention on the CPU: every layout, option and dtype of an {@link AttentionProblem}. Forbidden key
 * ranges are not computed; K and V of half dtypes are widened a block at a time; a past is read where
 * it lies, and copied only for `presentKey` and `presentValue`.
 *
 * @param tensors Inputs, and the outputs in `problem.outputs`, which are overwritten.
 */
export function attentionOnCpu(
  problem: AttentionProblem,
  tensors: AttentionInputs<HostView> & AttentionResults<HostView>,
): void {
  const { batch, kvHeads, queryHeads, queries, past, depth, valueDepth } = problem;
  const rows = (queryHeads / kvHeads) * queries;
  const keySource = new RowSource(tensors.key, tensors.pastKey, kvHeads, past, depth);
  const valueSource = new RowSource(tensors.value, tensors.pastValue, kvHeads, past, valueDepth);
  const tile = new Tile(problem, tensors, keySource, valueSource);
  for (let b = 0; b < batch; b++)
    for (let h = 0; h < kvHeads; h++) {
      keySource.select(b, h);
      valueSource.select(b, h);
      for (let row = 0; row < rows; row += tile.capacity)
        tile.run(b, h, row, Math.min(tile.capacity, rows - row));
      if (tensors.presentKey) keySource.copyHead(tensors.presentKey, b * kvHeads + h);
      if (tensors.presentValue) valueSource.copyHead(tensors.presentValue, b * kvHeads + h);
    }
}

/** The rows of one key or value head as float32: in place where they are, widened where they are halves. */
class RowSource {
  /** Row 0 of the block last loaded begins at `offset` of `array`; row j lies `stride · j` further on. */
  array: Float32Array;
  offset = 0;
  stride: number;

  readonly view: HostView;
  readonly past: HostView | undefined;
  readonly strides: RowStrides;
  readonly pastLength: number;
  readonly width: number;
  base = 0;
  pastBase = 0;

  constructor(
    view: HostView,
    past: HostView | undefined,
    heads: number,
    pastLength: number,
    width: number,
  ) {
    this.view = view;
    this.past = past;
    this.strides = inputStrides(view.shape, heads);
    this.pastLength = pastLength;
    this.width = width;
    this.array = new Float32Array(view.dtype === "float32" ? 0 : blockKeys * width);
    this.stride = width;
  }

  select(batch: number, head: number): void {
    const pastHeads = this.past?.shape[1] ?? 0;
    this.base = batch * this.strides.batch + head * this.strides.head;
    this.pastBase = (batch * pastHeads + head) * this.pastLength * this.width;
  }

  /** Makes rows `first` to `first + count` readable: all of the past, or none, and no more than a block. */
  load(first: number, count: number): void {
    const inPast = first < this.pastLength;
    const view = inPast ? this.past! : this.view;
    const stride = inPast ? this.width : this.strides.row;
    const start = inPast
      ? this.pastBase + first * stride
      : this.base + (first - this.pastLength) * stride;
    if (view.data instanceof Float32Array) {
      this.array = view.data;
      this.offset = start;
      this.stride = stride;
    } else {
      const dtype = view.dtype === "float16" ? "float16" : "bfloat16";
      if (stride === this.width) widen(view.data, start, count * stride, dtype, this.array, 0);
      else
        for (let row = 0; row < count; row++)
          widen(view.data, start + row * stride, this.width, dtype, this.array, row * this.width);
    }
  }

  /** Writes the past and the new rows of the selected head to head `index` of a contiguous tensor. */
  copyHead(present: HostView, index: number): void {
    const width = this.width;
    const [keys] = present.shape.slice(-2) as [number];
    let at = index * keys * width;
    if (this.past) {
      const length = this.pastLength * width;
      present.data.set(this.past.data.subarray(this.pastBase, this.pastBase + length), at);
      at += length;
    }
    for (let row = 0; row < keys - this.pastLength; row++, at += width) {
      const start = this.base + row * this.strides.row;
      present.data.set(this.view.data.subarray(start, start + width), at);
    }
  }
}

/** Scratch for a tile of query rows, and the work on it. */
class Tile {
  readonly capacity: number;
  readonly problem: AttentionProblem;
  readonly tensors: AttentionInputs<HostView> & AttentionResults<HostView>;
  readonly keys: RowSource;
  readonly values: RowSource;
  /** Whether scores are wanted of forbidden keys too. */
  readonly allScores: boolean;

  // Interleaved by quads.
  readonly query: Float64Array;
  readonly scores = new Float64Array(tileRows * blockKeys);
  readonly weights = new Float64Array(tileRows * blockKeys);
  readonly sums: Float64Array;
  // One row after another.
  /** The softmax's input over all keys, kept only where `weights` is wanted. */
  readonly logits: Float64Array;
  // One element a row.
  readonly maximum = new Float64Array(tileRows);
  readonly total = new Float64Array(tileRows);
  readonly rescale = new Float64Array(tileRows);
  readonly first = new Int32Array(tileRows);
  readonly end = new Int32Array(tileRows);
  readonly head = new Int32Array(tileRows);
  readonly queryIndex = new Int32Array(tileRows);

  /** Contiguous, on the way from or to halves. */
  readonly line: Float32Array;
  readonly finalWeights = new Float64Array(blockKeys);

  constructor(
    problem: AttentionProblem,
    tensors: AttentionInputs<HostView> & AttentionResults<HostView>,
    keys: RowSource,
    values: RowSource,
  ) {
    // With weights wanted, a tile keeps its scores over all keys: fewer rows then.
    this.capacity = tensors.weights ? 4 : tileRows;
    this.problem = problem;
    this.tensors = tensors;
    this.keys = keys;
    this.values = values;
    this.allScores = Boolean(tensors.scores ?? tensors.softcappedScores);
    this.query = new Float64Array(tileRows * problem.depth);
    this.sums = new Float64Array(tileRows * problem.valueDepth);
    this.logits = new Float64Array(tensors.weights ? this.capacity * problem.keys : 0);
    this.line = new Float32Array(Math.max(problem.depth, problem.valueDepth, blockKeys));
  }

  /** Rows `start` to `start + count` of the group that reads key/value head `kvHead`. */
  run(batch: number, kvHead: number, start: number, count: number): void {
    const problem = this.problem;
    const { keys, past } = problem;
    this.begin(batch, kvHead, start, count);

    let first = keys;
    let end = 0;
    for (let r = 0; r < count; r++) {
      if (this.first[r]! >= this.end[r]!) continue;
      first = Math.min(first, this.first[r]!);
      end = Math.max(end, this.end[r]!);
    }
    if (this.allScores) [first, end] = [0, keys];
    if (this.tensors.biasedScores)
      for (let r = 0; r < count; r++) {
        const row = this.scoreRow(batch, r);
        fillForbidden(this.tensors.biasedScores, row, row + Math.min(first, keys));
        fillForbidden(this.tensors.biasedScores, row + end, row + keys);
      }

    for (let block = first, next: number; block < end; block = next) {
      next = Math.min(block + blockKeys, end);
      if (block < past && next > past) next = past; // past and new rows lie in different tensors
      this.step(batch, count, block, next - block);
    }
    this.finish(batch, count);
  }

  /** Loads the queries, scaled, and finds which keys each row may see. */
  begin(batch: number, kvHead: number, start: number, count: number): void {
    const { problem, tensors } = this;
    const { depth, queries, strides, scale } = problem;
    const kvLength = problem.kvLengths ? tensors.kvLengths!.data[batch]! : problem.keys;
    const offset = positionOffset(problem, kvLength);
    this.query.fill(0);
    this.sums.fill(0);
    this.weights.fill(0);
    this.maximum.fill(-Infinity);
    this.total.fill(0);
    this.rescale.fill(1);
    this.logits.fill(-Infinity);
    this.first.fill(0);
    this.end.fill(0);
    for (let r = 0; r < count; r++) {
      const row = start + r;
      const i = row % queries;
      const head = (kvHead * problem.queryHeads) / problem.kvHeads + Math.floor(row / queries);
      this.head[r] = head;
      this.queryIndex[r] = i;
      this.first[r] = firstKey(problem, offset + i);
      this.end[r] = endKey(problem, offset + i, kvLength);
      const at = batch * strides.query.batch + head * strides.query.head + i * strides.query.row;
      const from = lane(r, depth);
      const { data, dtype } = tensors.query;
      if (dtype === "float16" || dtype === "bfloat16") {
        widen(data, at, depth, dtype, this.line, 0);
        for (let c = 0; c < depth; c++) this.query[from + 4 * c] = scale * this.line[c]!;
      } else for (let c = 0; c < depth; c++) this.query[from + 4 * c] = scale * data[at + c]!;
    }
  }

  /** One block of keys: scores, softmax so far, and the weighted sum of values so far. */
  step(batch: number, count: number, block: number, size: number): void {
    const { depth, valueDepth } = this.problem;
    const keys = this.keys;
    keys.load(block, size);
    for (let quad = 0; quad < count; quad += 4) {
      if (!this.allScores && !this.sees(quad, block, size)) continue;
      const query = lane(quad, depth);
      const scores = lane(quad, blockKeys);
      if (count - quad === 1)
        dotsOfOne(
          this.query,
          query,
          keys.array,
          keys.offset,
          keys.stride,
          depth,
          size,
          this.scores,
          scores,
        );
      else
        dotsOfFour(
          this.query,
          query,
          keys.array,
          keys.offset,
          keys.stride,
          depth,
          size,
          this.scores,
          scores,
        );
    }
    for (let r = 0; r < count; r++) this.softmax(batch, r, block, size);

    const values = this.values;
    values.load(block, size);
    for (let quad = 0; quad < count; quad += 4) {
      if (!this.sees(quad, block, size)) continue;
      const weights = lane(quad, blockKeys);
      const sums = lane(quad, valueDepth);
      const args = [this.weights, weights, this.scores, this.rescale, quad] as const;
      if (count - quad === 1)
        sumOfOne(
          ...args,
          values.array,
          values.offset,
          values.stride,
          valueDepth,
          size,
          this.sums,
          sums,
        );
      else
        sumOfFour(
          ...args,
          values.array,
          values.offset,
          values.stride,
          valueDepth,
          size,
          this.sums,
          sums,
        );
    }
  }

  /** Whether a row of the quad may see a key of the block. */
  sees(quad: number, block: number, size: number): boolean {
    for (let r = quad; r < quad + 4; r++)
      if (Math.max(this.first[r]!, block) < Math.min(this.end[r]!, block + size)) return true;
    return false;
  }

  /** Turns row `r`'s dot products with the block into weights relative to the row's maximum so far. */
  softmax(batch: number, r: number, block: number, size: number): void {
    const { problem, tensors } = this;
    const { softcap, softmaxDtype } = problem;
    const scores = this.scores;
    const weights = this.weights;
    const from = lane(r, blockKeys);
    const to = from + 4 * size;
    const outputAt = this.scoreRow(batch, r) + block;

    const first = Math.min(Math.max(this.first[r]! - block, 0), size);
    const end = Math.min(Math.max(this.end[r]! - block, first), size);
    if (first >= end && !this.allScores) {
      for (let s = from; s < to; s += 4) {
        scores[s] = -Infinity;
        weights[s] = 0;
      }
      this.rescale[r] = 1;
      if (tensors.biasedScores) this.store(tensors.biasedScores, outputAt, scores, from, size);
      return;
    }

    if (tensors.scores) this.store(tensors.scores, outputAt, scores, from, size);
    if (softcap > 0)
      for (let s = from; s < to; s += 4) scores[s] = softcap * Math.tanh(scores[s]! / softcap);
    if (tensors.softcappedScores)
      this.store(tensors.softcappedScores, outputAt, scores, from, size);

    for (let s = from; s < from + 4 * first; s += 4) scores[s] = -Infinity;
    for (let s = from + 4 * end; s < to; s += 4) scores[s] = -Infinity;
    if (problem.mask && first < end) {
      const { batch: b, head, query, key } = problem.mask.strides;
      const at =
        batch * b + this.head[r]! * head + this.queryIndex[r]! * query + (block + first) * key;
      addMask(tensors.mask!, problem.mask, at, scores, from + 4 * first, end - first);
    }
    if (tensors.biasedScores) this.store(tensors.biasedScores, outputAt, scores, from, size);
    if (softmaxDtype === "float32")
      for (let s = from; s < to; s += 4) scores[s] = Math.fround(scores[s]!);
    else if (softmaxDtype) roundScores(scores, from, size, softmaxDtype);
    if (tensors.weights) {
      const logits = r * problem.keys + block;
      for (let j = 0; j < size; j++) this.logits[logits + j] = scores[from + 4 * j]!;
    }

    const before = this.maximum[r]!;
    let maximum = before;
    for (let s = from; s < to; s += 4) maximum = Math.max(maximum, scores[s]!); // NaN wins
    if (maximum === -Infinity) {
      for (let s = from; s < to; s += 4) weights[s] = 0;
      return;
    }
    let total = 0;
    for (let s = from; s < to; s += 4) {
      const weight = Math.exp(scores[s]! - maximum);
      weights[s] = weight;
      total += weight;
    }
    const rescale = Math.exp(before - maximum);
    this.rescale[r] = rescale;
    this.total[r] = this.total[r]! * rescale + total;
    this.maximum[r] = maximum;
  }

  /** Writes the outputs that need the whole row. */
  finish(batch: number, count: number): void {
    const { problem, tensors } = this;
    const { keys, valueDepth, strides } = problem;
    for (let r = 0; r < count; r++) {
      const maximum = this.maximum[r]!;
      const empty = maximum === -Infinity;
      const total = this.total[r]!;
      const sums = lane(r, valueDepth);
      for (let c = 0; c < valueDepth; c++)
        this.sums[sums + 4 * c] = empty ? 0 : this.sums[sums + 4 * c]! / total;
      const { batch: b, head, row } = strides.output;
      const at = batch * b + this.head[r]! * head + this.queryIndex[r]! * row;
      this.store(tensors.output, at, this.sums, sums, valueDepth);

      const scoreRow = this.scoreRow(batch, r);
      if (tensors.lse)
        tensors.lse.data[scoreRow / keys] = empty ? -Infinity : maximum + Math.log(total);
      if (tensors.weights)
        for (let block = 0; block < keys; block += blockKeys) {
          const size = Math.min(blockKeys, keys - block);
          for (let j = 0; j < size; j++) {
            const logit = this.logits[r * keys + block + j]!;
            this.finalWeights[j] = logit === -Infinity ? 0 : Math.exp(logit - maximum) / total;
          }
          this.store(tensors.weights, scoreRow + block, this.finalWeights, 0, size, 1);
        }
    }
  }

  /** Where row `r` begins in `scores` and its like. */
  scoreRow(batch: number, r: number): number {
    const { queryHeads, queries, keys } = this.problem;
    return ((batch * queryHeads + this.head[r]!) * queries + this.queryIndex[r]!) * keys;
  }

  /** Writes `count` elements of scratch, `step` apart, to `view` from element `at` on, in its dtype. */
  store(
    view: HostView,
    at: number,
    values: Float64Array,
    from: number,
    count: number,
    step = 4,
  ): void {
    const { data, dtype } = view;
    if (data instanceof Uint16Array) {
      for (let i = 0; i < count; i++) this.line[i] = values[from + step * i]!;
      narrow(this.line, 0, count, dtype === "float16" ? "float16" : "bfloat16", data, at);
    } else for (let i = 0; i < count; i++) data[at + i] = values[from + step * i]!;
  }
}

/** Writes −∞ to elements `start` to `end`. */
function fillForbidden({ data, dtype }: HostView, start: number, end: number): void {
  data.fill({ float16: 0xfc00, bfloat16: 0xff80 }[dtype as string] ?? -Infinity, start, end);
}

/** Adds `count` elements of a mask row to the scores from `from` on; −∞ forbids whatever the score is. */
function addMask(
  { data, dtype }: HostView,
  layout: MaskLayout,
  at: number,
  scores: Float64Array,
  from: number,
  count: number,
): void {
  const stride = layout.strides.key;
  const element = new Float32Array(1);
  for (let j = 0, m = at, s = from; j < count; j++, m += stride, s += 4) {
    let bias: number;
    if (dtype === "bool") bias = data[m] ? 0 : -Infinity;
    else if (dtype === "float16" || dtype === "bfloat16") {
      widen(data, m, 1, dtype, element, 0);
      bias = element[0]!;
    } else bias = data[m]!;
    scores[s] = bias === -Infinity ? bias : scores[s]! + bias;
  }
}

function roundScores(scores: Float64Array, from: number, count: number, dtype: HalfDType): void {
  const wide = new Float32Array(1);
  const half = new Uint16Array(1);
  for (let s = from; s < from + 4 * count; s += 4) {
    narrow(scores, s, 1, dtype, half, 0);
    widen(half, 0, 1, dtype, wide, 0);
    scores[s] = wide[0]!;
  }
}

// The four inner loops. Each keeps its sums in registers: 8 of them, and 6 operands, fit x86's 16.

/** `scores[key] = query · key` for the four queries of a quad, two keys at a time. */
function dotsOfFour(
  query: Float64Array,
  queryAt: number,
  keys: Float32Array,
  keysAt: number,
  stride: number,
  depth: number,
  size: number,
  scores: Float64Array,
  scoresAt: number,
): void {
  const end = queryAt + 4 * depth;
  for (let j = 0; j < size; j += 2) {
    // An odd last key is computed twice.
    let x = keysAt + j * stride;
    let y = j + 1 < size ? x + stride : x;
    let x0 = 0;
    let x1 = 0;
    let x2 = 0;
    let x3 = 0;
    let y0 = 0;
    let y1 = 0;
    let y2 = 0;
    let y3 = 0;
    for (let q = queryAt; q < end; q += 4, x++, y++) {
      const kx = keys[x]!;
      const ky = keys[y]!;
      const q0 = query[q]!;
      const q1 = query[q + 1]!;
      const q2 = query[q + 2]!;
      const q3 = query[q + 3]!;
      x0 += q0 * kx;
      x1 += q1 * kx;
      x2 += q2 * kx;
      x3 += q3 * kx;
      y0 += q0 * ky;
      y1 += q1 * ky;
      y2 += q2 * ky;
      y3 += q3 * ky;
    }
    const s = scoresAt + 4 * j;
    scores[s] = x0;
    scores[s + 1] = x1;
    scores[s + 2] = x2;
    scores[s + 3] = x3;
    if (j + 1 === size) break;
    scores[s + 4] = y0;
    scores[s + 5] = y1;
    scores[s + 6] = y2;
    scores[s + 7] = y3;
  }
}

/** {@link dotsOfFour} for the first query of the quad alone, four keys at a time. */
function dotsOfOne(
  query: Float64Array,
  queryAt: number,
  keys: Float32Array,
  keysAt: number,
  stride: number,
  depth: number,
  size: number,
  scores: Float64Array,
  scoresAt: number,
): void {
  const end = queryAt + 4 * depth;
  const last = keysAt + (size - 1) * stride;
  for (let j = 0; j < size; j += 4) {
    let a = keysAt + j * stride;
    let b = Math.min(a + stride, last); // past the end, the last key again
    let c = Math.min(a + 2 * stride, last);
    let d = Math.min(a + 3 * stride, last);
    let a0 = 0;
    let b0 = 0;
    let c0 = 0;
    let d0 = 0;
    for (let q = queryAt; q < end; q += 4, a++, b++, c++, d++) {
      const q0 = query[q]!;
      a0 += q0 * keys[a]!;
      b0 += q0 * keys[b]!;
      c0 += q0 * keys[c]!;
      d0 += q0 * keys[d]!;
    }
    const s = scoresAt + 4 * j;
    scores[s] = a0;
    if (j + 1 < size) scores[s + 4] = b0;
    if (j + 2 < size) scores[s + 8] = c0;
    if (j + 3 < size) scores[s + 12] = d0;
  }
}

/**
 * `sums = sums · rescale + Σ weight · value` for the four rows of a quad, two columns at a time.
 *
 * A weight of 0 does not keep a NaN or ±∞ of a forbidden key out of a sum, but such a sum is NaN: only
 * then is it done again over the allowed keys.
 */
function sumOfFour(
  weights: Float64Array,
  weightsAt: number,
  scores: Float64Array,
  rescale: Float64Array,
  row: number,
  values: Float32Array,
  valuesAt: number,
  stride: number,
  width: number,
  size: number,
  sums: Float64Array,
  sumsAt: number,
): void {
  const end = weightsAt + 4 * size;
  for (let column = 0; column < width; column += 2) {
    const x = valuesAt + column;
    const next = column + 1 < width ? 1 : 0; // an odd last column is computed twice
    let x0 = 0;
    let x1 = 0;
    let x2 = 0;
    let x3 = 0;
    let y0 = 0;
    let y1 = 0;
    let y2 = 0;
    let y3 = 0;
    for (let w = weightsAt, v = x; w < end; w += 4, v += stride) {
      const vx = values[v]!;
      const vy = values[v + next]!;
      const w0 = weights[w]!;
      const w1 = weights[w + 1]!;
      const w2 = weights[w + 2]!;
      const w3 = weights[w + 3]!;
      x0 += w0 * vx;
      x1 += w1 * vx;
      x2 += w2 * vx;
      x3 += w3 * vx;
      y0 += w0 * vy;
      y1 += w1 * vy;
      y2 += w2 * vy;
      y3 += w3 * vy;
    }
    if (Number.isNaN(x0 + x1 + x2 + x3 + y0 + y1 + y2 + y3)) {
      const y = x + next;
      x0 = sumAllowed(weights, scores, weightsAt, values, x, stride, size);
      x1 = sumAllowed(weights, scores, weightsAt + 1, values, x, stride, size);
      x2 = sumAllowed(weights, scores, weightsAt + 2, values, x, stride, size);
      x3 = sumAllowed(weights, scores, weightsAt + 3, values, x, stride, size);
      y0 = sumAllowed(weights, scores, weightsAt, values, y, stride, size);
      y1 = sumAllowed(weights, scores, weightsAt + 1, values, y, stride, size);
      y2 = sumAllowed(weights, scores, weightsAt + 2, values, y, stride, size);
      y3 = sumAllowed(weights, scores, weightsAt + 3, values, y, stride, size);
    }
    const s = sumsAt + 4 * column;
    sums[s] = sums[s]! * rescale[row]! + x0;
    sums[s + 1] = sums[s + 1]! * rescale[row + 1]! + x1;
    sums[s + 2] = sums[s + 2]! * rescale[row + 2]! + x2;
    sums[s + 3] = sums[s + 3]! * rescale[row + 3]! + x3;
    if (next === 0) break;
    sums[s + 4] = sums[s + 4]! * rescale[row]! + y0;
    sums[s + 5] = sums[s + 5]! * rescale[row + 1]! + y1;
    sums[s + 6] = sums[s + 6]! * rescale[row + 2]! + y2;
    sums[s + 7] = sums[s + 7]! * rescale[row + 3]! + y3;
  }
}

/** {@link sumOfFour} for the first row of the quad alone, four columns at a time. */
function sumOfOne(
  weights: Float64Array,
  weightsAt: number,
  scores: Float64Array,
  rescale: Float64Array,
  row: number,
  values: Float32Array,
  valuesAt: number,
  stride: number,
  width: number,
  size: number,
  sums: Float64Array,
  sumsAt: number,
): void {
  const end = weightsAt + 4 * size;
  const scale = rescale[row]!;
  for (let column = 0; column < width; column += 4) {
    const a = valuesAt + column;
    const b = Math.min(column + 1, width - 1) - column; // past the end, the last column again
    const c = Math.min(column + 2, width - 1) - column;
    const d = Math.min(column + 3, width - 1) - column;
    let a0 = 0;
    let b0 = 0;
    let c0 = 0;
    let d0 = 0;
    for (let w = weightsAt, v = a; w < end; w += 4, v += stride) {
      const weight = weights[w]!;
      a0 += weight * values[v]!;
      b0 += weight * values[v + b]!;
      c0 += weight * values[v + c]!;
      d0 += weight * values[v + d]!;
    }
    if (Number.isNaN(a0 + b0 + c0 + d0)) {
      a0 = sumAllowed(weights, scores, weightsAt, values, a, stride, size);
      b0 = sumAllowed(weights, scores, weightsAt, values, a + b, stride, size);
      c0 = sumAllowed(weights, scores, weightsAt, values, a + c, stride, size);
      d0 = sumAllowed(weights, scores, weightsAt, values, a + d, stride, size);
    }
    const s = sumsAt + 4 * column;
    sums[s] = sums[s]! * scale + a0;
    if (b > 0) sums[s + 4] = sums[s + 4]! * scale + b0;
    if (c > b) sums[s + 8] = sums[s + 8]! * scale + c0;
    if (d > c) sums[s + 12] = sums[s + 12]! * scale + d0;
  }
}

/** One row's weighted sum of one column, over the keys whose score is not −∞. */
function sumAllowed(
  weights: Float64Array,
  scores: Float64Array,
  rowAt: number,
  values: Float32Array,
  valuesAt: number,
  stride: number,
  size: number,
): number {
  let sum = 0;
  for (let j = 0; j < size; j++)
    if (scores[rowAt + 4 * j] !== -Infinity)
      sum += weights[rowAt + 4 * j]! * values[valuesAt + j * stride]!;
  return sum;
}
