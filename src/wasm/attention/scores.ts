// The matrices of scores and weights, where a call asks for them. A task is a tile of query rows that share
// a key/value head, over all keys, in prefill's panels of eight rows: its scores are computed again, and
// each stage that is wanted is written as it comes. For weights, a panel's scores over all keys stay in
// scratch until the whole row is known.

import * as at from "../layout";
import { exp, larger, splat, storeRow, transpose4 } from "../simd";
import { noTask, takeTask } from "../tasks";
import { addMask, cap, forbid, keyRows, limits, packQueries, readMask, round, scores } from "./prefill";
import * as p from "./problem";
import { beginTile, count, end, rowIndex } from "./rows";

/** Where the outputs lie; 0 where one is not wanted. */
let rawScores: usize = 0;
let softcappedScores: usize = 0;
let biasedScores: usize = 0;
let weights: usize = 0;

// Scratch, after attention's.

/** A block of eight rows of an output. */
let lines: usize = 0;
/** Scores, `[panel][key][8]`, and the bytes of a panel. */
let panels: usize = 0;
let panelBytes: u32 = 0;

function readJob(job: usize, scratch: usize): void {
  p.readProblem(job, scratch);
  rawScores = load<u32>(job + at.scores);
  softcappedScores = load<u32>(job + at.softcappedScores);
  biasedScores = load<u32>(job + at.biasedScores);
  weights = load<u32>(job + at.weights);
  lines = p.scratchEnd;
  panels = lines + ((8 * p.blockKeys) << 2);
  panelBytes = (load<u32>(job + at.keptKeys) + 8) << 5; // keys are computed six at a time
}

/** Bytes of scratch that a thread needs for a job. */
export function attentionScoresScratch(job: usize): usize {
  readJob(job, 0);
  return panels + ((p.tileRows + 7) >>> 3) * panelBytes;
}

export function attentionScores(job: usize, scratch: usize, thread: u32): void {
  readJob(job, scratch);
  for (;;) {
    const task = takeTask(job, thread);
    if (task === noTask) return;
    beginTile(task);
    scoresTile();
  }
}

function scoresTile(): void {
  const tilePanels = (count + 7) >>> 3;
  packQueries(tilePanels);
  let next: u32 = 0;
  for (let j: u32 = 0; j < p.keys; j = next) {
    next = min(j + p.blockKeys, p.keys);
    if (j < p.past && next > p.past) next = p.past; // past and new keys lie in different tensors
    if (j < end && next > end) next = end; // a short mask covers no more
    let k: usize = 0;
    for (let panel: u32 = 0; panel < tilePanels; panel++) {
      let seen = limits(panel, j, next);
      if (seen && p.maskDType !== 4 && !readMask(panel, j, next - j)) seen = 0;
      if (k === 0 && (seen || rawScores || softcappedScores)) k = keyRows(j, next - j);
      scoresBlock(panel, j, next - j, k, seen);
    }
  }
  if (weights) for (let panel: u32 = 0; panel < tilePanels; panel++) writeWeights(panel);
}

/**
 * The stages up to the softmax's input, of one panel and the keys `j` to `j + n`.
 *
 * @param k The keys; 0 where nobody asks for their scores.
 * @param seen What {@link limits} said; 0 too where the mask allows none.
 */
function scoresBlock(panel: u32, j: u32, n: u32, k: usize, seen: u32): void {
  const from = panels + panel * panelBytes + (weights ? j << 5 : 0);
  const stop = from + (n << 5);
  if (k) {
    scores(panel, k, n, from);
    write(rawScores, panel, j, n, from);
    if (p.softcap > 0) cap(from, stop);
    write(softcappedScores, panel, j, n, from);
  }
  if (seen) {
    if (p.maskDType !== 4) addMask(from, stop);
    if (seen !== 2) forbid(panel, j, from, stop);
  } else for (let s = from; s < stop; s += 16) v128.store(s, splat(-Infinity));
  write(biasedScores, panel, j, n, from);
  if (p.softmaxDType !== 0) round(from, stop);
}

/** The softmax of a panel's rows. */
function writeWeights(panel: u32): void {
  const from = panels + panel * panelBytes;
  const stop = from + (p.keys << 5);
  const forbidden = splat(-Infinity);
  // In a row of −∞ any finite number will do.
  let most0 = splat(-f32.MAX_VALUE);
  let most1 = most0;
  for (let s = from; s < stop; s += 32) {
    most0 = larger(most0, v128.load(s));
    most1 = larger(most1, v128.load(s, 16));
  }
  let total0 = splat(0);
  let total1 = splat(0);
  // By blocks, so that sums over many keys stay accurate.
  for (let block = from; block < stop; block += p.blockKeys << 5) {
    const blockStop = min(block + (p.blockKeys << 5), stop);
    let sum0 = splat(0);
    let sum1 = splat(0);
    for (let s = block; s < blockStop; s += 32) {
      const s0 = v128.load(s);
      const s1 = v128.load(s, 16);
      const weight0 = exp(f32x4.sub(s0, most0));
      const weight1 = exp(f32x4.sub(s1, most1));
      sum0 = f32x4.add(sum0, weight0);
      sum1 = f32x4.add(sum1, weight1);
      // Forbidden keys stay −∞: their weight is 0 even where the total is NaN.
      v128.store(s, v128.bitselect(forbidden, weight0, f32x4.eq(s0, forbidden)));
      v128.store(s, v128.bitselect(forbidden, weight1, f32x4.eq(s1, forbidden)), 16);
    }
    total0 = f32x4.add(total0, sum0);
    total1 = f32x4.add(total1, sum1);
  }
  const factor0 = f32x4.div(splat(1), total0);
  const factor1 = f32x4.div(splat(1), total1);
  for (let j: u32 = 0; j < p.keys; j += p.blockKeys) {
    const n = min(p.blockKeys, p.keys - j);
    const block = from + (j << 5);
    for (let s = block; s < block + (n << 5); s += 32) {
      const w0 = v128.load(s);
      const w1 = v128.load(s, 16);
      v128.store(s, v128.andnot(f32x4.mul(w0, factor0), f32x4.eq(w0, forbidden)));
      v128.store(s, v128.andnot(f32x4.mul(w1, factor1), f32x4.eq(w1, forbidden)), 16);
    }
    write(weights, panel, j, n, block);
  }
}

/** Writes a panel's keys `j` to `j + n`, `[key][8]` at `from`, to an output that is wanted. */
function write(output: usize, panel: u32, j: u32, n: u32, from: usize): void {
  if (!output) return;
  const lineBytes = p.blockKeys << 2;
  for (let half: u32 = 0; half < 2; half++)
    for (let i: u32 = 0; i < n; i += 4) {
      const s = from + (i << 5) + (half << 4);
      transpose4(
        lines + half * 4 * lineBytes + (i << 2),
        lineBytes,
        v128.load(s),
        v128.load(s, 32),
        v128.load(s, 64),
        v128.load(s, 96),
      );
    }
  const row = panel << 3;
  for (let r: u32 = 0; r < min(8, count - row); r++) {
    const element = rowIndex(row + r) * p.keys + j;
    storeRow(output + (<usize>element << p.shift), lines + r * lineBytes, n, p.dtype);
  }
}
