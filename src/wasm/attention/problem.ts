// One attention call, as each thread reads it off the job, and what a thread keeps of the tile of query
// rows that it works on. Instances of the module are not shared between threads, so these are globals.

import * as at from "../layout";

export let query: usize = 0;
export let key: usize = 0;
export let value: usize = 0;
export let pastKey: usize = 0;
export let pastValue: usize = 0;
export let mask: usize = 0;
export let kvLengths: usize = 0;
export let output: usize = 0;
export let lse: usize = 0;
export let partials: usize = 0;
export let arrivals: usize = 0;

export let dtype: u32 = 0;
/** log2 of the bytes of an element. */
export let shift: u32 = 0;
export let maskDType: u32 = 0;
export let queryHeads: u32 = 0;
export let kvHeads: u32 = 0;
export let group: u32 = 0;
export let queries: u32 = 0;
export let keys: u32 = 0;
export let past: u32 = 0;
export let depth: u32 = 0;
export let valueDepth: u32 = 0;
/** The depths, rounded up to multiples of 4. */
export let paddedDepth: u32 = 0;
export let paddedValueDepth: u32 = 0;
export let scale: f32 = 0;
export let softcap: f32 = 0;
export let softmaxDType: u32 = 0;
export let tileRows: u32 = 0;
export let tilesPerHead: u32 = 0;
export let tileHeads: u32 = 0;
export let splits: u32 = 0;
export let splitKeys: u32 = 0;
export let blockKeys: u32 = 0;
export let decode: u32 = 0;
export let job: usize = 0;

// Scratch of the thread. R: rows of a tile, rounded up to a multiple of 8.

/** i32 each: the row's first key and the end of its keys, its query head, its query. R of each. */
export let firstKeys: usize = 0;
export let endKeys: usize = 0;
export let rowHeads: usize = 0;
export let rowQueries: usize = 0;
/** f32 each: the row's maximum and sum of exponentials so far, and the factor of the latest block. */
export let maxima: usize = 0;
export let totals: usize = 0;
export let rescales: usize = 0;
/** Queries, scaled: by rows, or for the panels of prefill by `[panel][depth][8]`. */
export let queryRows: usize = 0;
/** Σ weight · value: by rows, or by `[panel][valueDepth][8]`. */
export let sumRows: usize = 0;
/** Scores and then weights of a block: `[row][key]`, or for one panel `[key][8]`. */
export let weights: usize = 0;
/** What the mask adds to them, in the same order. */
export let biases: usize = 0;
/** A block of keys and one of values, where they cannot be used where they lie. */
export let keyBlock: usize = 0;
export let valueBlock: usize = 0;
/** Finished rows, four of them. */
export let lines: usize = 0;
/** The scratch ends here. */
export let scratchEnd: usize = 0;

@inline
function word(offset: usize): u32 {
  return load<u32>(job + offset);
}

/** Reads a job and divides a thread's scratch. */
export function readProblem(from: usize, scratch: usize): void {
  job = from;
  query = word(at.query);
  key = word(at.key);
  value = word(at.value);
  pastKey = word(at.pastKey);
  pastValue = word(at.pastValue);
  mask = word(at.mask);
  kvLengths = word(at.kvLengths);
  output = word(at.output);
  lse = word(at.lse);
  partials = word(at.partials);
  arrivals = word(at.arrivals);
  dtype = word(at.dtype);
  shift = dtype === 0 ? 2 : 1;
  maskDType = word(at.maskDType);
  queryHeads = word(at.queryHeads);
  kvHeads = word(at.kvHeads);
  group = queryHeads / kvHeads;
  queries = word(at.queries);
  keys = word(at.keys);
  past = word(at.past);
  depth = word(at.depth);
  valueDepth = word(at.valueDepth);
  paddedDepth = (depth + 3) & ~3;
  paddedValueDepth = (valueDepth + 3) & ~3;
  scale = load<f32>(job + at.scale);
  softcap = load<f32>(job + at.softcap);
  softmaxDType = word(at.softmaxDType);
  tileRows = word(at.tileRows);
  tilesPerHead = word(at.tilesPerHead);
  tileHeads = word(at.tileHeads);
  splits = word(at.splits);
  splitKeys = word(at.splitKeys);
  blockKeys = word(at.blockKeys);
  decode = word(at.decode);

  const rows = (tileRows + 7) & ~7;
  // Prefill computes keys six at a time, and decode four.
  const blockRows = blockKeys + 8;
  firstKeys = scratch;
  endKeys = firstKeys + 4 * rows;
  rowHeads = endKeys + 4 * rows;
  rowQueries = rowHeads + 4 * rows;
  maxima = rowQueries + 4 * rows;
  totals = maxima + 4 * rows;
  rescales = totals + 4 * rows;
  queryRows = rescales + 4 * rows;
  sumRows = queryRows + 4 * rows * paddedDepth;
  weights = sumRows + 4 * rows * paddedValueDepth;
  biases = weights + 4 * 8 * blockRows;
  keyBlock = biases + 4 * 8 * blockRows;
  valueBlock = keyBlock + 4 * blockRows * paddedDepth;
  lines = valueBlock + 4 * blockRows * paddedValueDepth;
  scratchEnd = lines + 4 * 4 * paddedValueDepth;
}

/** Bytes of scratch that a thread needs for a job. */
export function attentionScratch(from: usize): usize {
  readProblem(from, 0);
  return scratchEnd;
}
