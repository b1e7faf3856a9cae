import { type Matrix, matrixOf } from "../numbers/matrix.ts";

// The algorithm of the fused kernels (FlashAttention, https://arxiv.org/abs/2205.14135), with every state
// that it passes through kept: a tile of query rows walks the keys a tile at a time and holds, for each
// row, the largest score so far, the sum of the weights relative to it, and their sum of values.

export interface TileShape {
  readonly rows: number;
  readonly keys: number;
}

export interface TiledOptions {
  readonly tile: TileShape;
  readonly scale: number;
  readonly causal: boolean;
  /** Keys seen to the left of a query; −1: all. */
  readonly left: number;
}

/** What a frame shows of a tile of keys. */
export type Phase = "skip" | "scores" | "rescale" | "accumulate" | "finish";

/** A moment of one workgroup. */
export interface TileFrame {
  readonly phase: Phase;
  readonly firstRow: number;
  readonly lastRow: number;
  /** The keys of the tile; those of all that are skipped, in a frame that skips. */
  readonly firstKey: number;
  readonly endKey: number;
  /** Whether the tile has forbidden keys, and so runs the code of masks. */
  readonly partial: boolean;
  /** State of the rows, by row of the tile: before this frame and after it. */
  readonly before: RowState;
  readonly after: RowState;
}

export interface RowState {
  /** The largest score so far. */
  readonly maximum: Float32Array;
  /** Σ exp(score − maximum). */
  readonly sum: Float32Array;
  /** Σ exp(score − maximum) · value, `[row, column]`. */
  readonly output: Float32Array;
}

/** A whole run. */
export interface TiledRun {
  readonly frames: readonly TileFrame[];
  /** Scores, −∞ where forbidden. */
  readonly scores: Matrix;
  readonly output: Matrix;
  readonly visitedTiles: number;
  readonly skippedTiles: number;
  readonly partialTiles: number;
}

/** Runs the algorithm in float32, and keeps each state. The last tile of rows goes first, as in the kernel. */
export function runTiled(q: Matrix, k: Matrix, v: Matrix, options: TiledOptions): TiledRun {
  const { tile, scale, causal, left } = options;
  const [queries, keys, valueDepth] = [q.rows, k.rows, v.columns];
  const firstKeyOf = (row: number) => (left < 0 ? 0 : Math.min(Math.max(row - left, 0), keys));
  const endKeyOf = (row: number) => (causal ? Math.min(row + 1, keys) : keys);
  const scores = matrixOf(queries, keys, (i, j) => {
    if (j < firstKeyOf(i) || j >= endKeyOf(i)) return Number.NEGATIVE_INFINITY;
    let sum = 0;
    for (let c = 0; c < q.columns; c++)
      sum = Math.fround(sum + q.data[i * q.columns + c]! * k.data[j * q.columns + c]!);
    return scale * sum;
  });
  const frames: TileFrame[] = [];
  const output = new Float32Array(queries * valueDepth);
  let [visitedTiles, skippedTiles, partialTiles] = [0, 0, 0];

  for (let r = Math.ceil(queries / tile.rows) - 1; r >= 0; r--) {
    const firstRow = r * tile.rows;
    const lastRow = Math.min(firstRow + tile.rows, queries) - 1;
    const rows = lastRow - firstRow + 1;
    // The keys that some row sees: other tiles are never loaded.
    const begin = firstKeyOf(firstRow);
    const end = endKeyOf(lastRow);
    let state: RowState = {
      maximum: new Float32Array(rows).fill(Number.NEGATIVE_INFINITY),
      sum: new Float32Array(rows),
      output: new Float32Array(rows * valueDepth),
    };
    const rowsOfTile = { firstRow, lastRow };
    const skip = (firstKey: number, endKey: number) => {
      if (endKey <= firstKey) return;
      // A window may begin within a tile's width: what is left of it there is no tile.
      skippedTiles +=
        firstKey === 0
          ? Math.floor(endKey / tile.keys)
          : Math.ceil((endKey - firstKey) / tile.keys);
      const still = { before: state, after: state, partial: false };
      frames.push({ phase: "skip", ...rowsOfTile, firstKey, endKey, ...still });
    };
    skip(0, begin);
    for (let firstKey = begin; firstKey < end; firstKey += tile.keys) {
      const endKey = Math.min(firstKey + tile.keys, keys);
      const partial = firstKey < firstKeyOf(lastRow) || firstKey + tile.keys > endKeyOf(firstRow);
      visitedTiles++;
      if (partial) partialTiles++;
      const rescaled = rescale(state, scores, firstRow, firstKey, endKey);
      const added = accumulate(rescaled, scores, v, firstRow, firstKey, endKey);
      const place = { ...rowsOfTile, firstKey, endKey, partial };
      frames.push({ phase: "scores", ...place, before: state, after: state });
      frames.push({ phase: "rescale", ...place, before: state, after: rescaled });
      frames.push({ phase: "accumulate", ...place, before: rescaled, after: added });
      state = added;
    }
    skip(begin + Math.ceil((end - begin) / tile.keys) * tile.keys, keys);
    const normalized: RowState = {
      ...state,
      output: state.output.map((value, i) => {
        const sum = state.sum[Math.floor(i / valueDepth)]!;
        return sum > 0 ? value / sum : 0;
      }),
    };
    output.set(normalized.output, firstRow * valueDepth);
    const whole = { firstKey: begin, endKey: end, partial: false };
    frames.push({ phase: "finish", ...rowsOfTile, ...whole, before: state, after: normalized });
  }
  return {
    frames,
    scores,
    output: { rows: queries, columns: valueDepth, data: output },
    visitedTiles,
    skippedTiles,
    partialTiles,
  };
}

/** exp(from − to): what everything relative to `from` is worth relative to `to`. */
export function keepFactor(from: number, to: number): number {
  return from === to ? 1 : Math.exp(from - to);
}

/** Raises the rows' maxima to those of a tile, and scales what was relative to the old ones. */
function rescale(
  { maximum, sum, output }: RowState,
  scores: Matrix,
  firstRow: number,
  firstKey: number,
  endKey: number,
): RowState {
  const valueDepth = output.length / sum.length;
  const raised = maximum.map((old, row) => {
    let highest = old;
    const start = (firstRow + row) * scores.columns;
    for (let j = firstKey; j < endKey; j++) highest = Math.max(highest, scores.data[start + j]!);
    return highest;
  });
  const keep = raised.map((now, row) => keepFactor(maximum[row]!, now));
  return {
    maximum: raised,
    sum: sum.map((value, row) => value * keep[row]!),
    output: output.map((value, i) => value * keep[Math.floor(i / valueDepth)]!),
  };
}

/** Adds a tile's weights to the sums, and its weighted values to the outputs. */
function accumulate(
  { maximum, sum, output }: RowState,
  scores: Matrix,
  v: Matrix,
  firstRow: number,
  firstKey: number,
  endKey: number,
): RowState {
  const [sums, outputs] = [sum.slice(), output.slice()];
  for (let row = 0; row < sum.length; row++)
    for (let j = firstKey; j < endKey; j++) {
      const score = scores.data[(firstRow + row) * scores.columns + j]!;
      if (score === Number.NEGATIVE_INFINITY) continue;
      const weight = Math.fround(Math.exp(score - maximum[row]!));
      sums[row]! += weight;
      for (let c = 0; c < v.columns; c++)
        outputs[row * v.columns + c]! += weight * v.data[j * v.columns + c]!;
    }
  return { maximum, sum: sums, output: outputs };
}
