import { each } from "./snippets.wgsl.ts";

// The block of scores that a workgroup of the prefill and scores kernels computes at a time: query
// rows × keys, as a product of two matrices blocked in registers.
//
// Lanes form a grid of `columns` × `rowGroups`, lane = rowGroup · columns + column. Each holds
// `rowsPerLane` × `keysPerLane` scores in registers, four keys to a vector s{row}_{quad}:
//   row i   is query row  rowGroup + rowGroups · i  of the tile,
//   quad j  is keys       4 · (column + columns · j)  to  4 · (column + columns · j) + 3.
// Queries and keys come through workgroup memory, `chunkQuads` quads of their depth at a time, rows
// an odd number of quads apart and keys in the order that makes neighbouring lanes read
// neighbouring rows: no two lanes of 8 meet in a bank. A quad of depth costs a lane rowsPerLane +
// keysPerLane vector reads for rowsPerLane · keysPerLane · 4 multiply-adds.

/** The shape of the tile. */
export interface ScoreTile {
  /** Invocations of the workgroup. */
  readonly lanes: number;
  /** Lanes that share a query row. */
  readonly columns: number;
  readonly rowsPerLane: number;
  /** A multiple of 4. */
  readonly keysPerLane: number;
  /** Most quads of depth that are staged at a time. */
  readonly chunkQuads: number;
  /** Whether queries stay in workgroup memory, all of their depth; else they come with the keys. */
  readonly queryResident: boolean;
}

/** Sizes that follow from a tile and a depth. */
export function scoreTileSizes(tile: ScoreTile, depth: number) {
  const rowGroups = tile.lanes / tile.columns;
  const depthQuads = Math.ceil(depth / 4);
  const chunks = Math.ceil(depthQuads / tile.chunkQuads);
  const chunkQuads = Math.ceil(depthQuads / chunks);
  const rows = rowGroups * tile.rowsPerLane;
  const keys = tile.columns * tile.keysPerLane;
  const keyStride = chunkQuads | 1;
  const queryStride = tile.queryResident ? (chunks * chunkQuads) | 1 : keyStride;
  return {
    rowGroups,
    rows,
    keys,
    depthQuads,
    chunks,
    chunkQuads,
    queryStride,
    keyStride,
    /** Vectors of workgroup memory for queries that stay. */
    residentVectors: tile.queryResident ? rows * queryStride : 0,
    /** Vectors of workgroup memory that are free again once the scores are there. */
    stagedVectors: (tile.queryResident ? 0 : rows * queryStride) + keys * keyStride,
  };
}

/** Constants, workgroup memory but for `staged`, and functions: at the top of the module. */
export function scoreTileDeclarations(tile: ScoreTile, depth: number): string {
  const sizes = scoreTileSizes(tile, depth);
  const queries = tile.queryResident ? "query_tile" : "staged";
  const padded = sizes.chunks * sizes.chunkQuads > sizes.depthQuads;
  return `
const LANES = ${tile.lanes}u;
const COLUMNS = ${tile.columns}u;
const ROW_GROUPS = ${sizes.rowGroups}u;
const TILE_ROWS = ${sizes.rows}u;
const TILE_KEYS = ${sizes.keys}u;
const DEPTH_CHUNKS = ${sizes.chunks}u;
const CHUNK_QUADS = ${sizes.chunkQuads}u;
const QUERY_STRIDE = ${sizes.queryStride}u;
const KEY_STRIDE = ${sizes.keyStride}u;
const KEY_TILE = ${tile.queryResident ? 0 : sizes.rows * sizes.queryStride}u; // where keys begin in staged

var<workgroup> query_offsets: array<u32, TILE_ROWS>;
${tile.queryResident ? `var<workgroup> query_tile: array<vec4<f32>, ${sizes.residentVectors}>;` : ""}

/// Stages quads [begin, begin + count) of the tile's queries, scaled.
fn stage_queries(lane: u32, begin: u32, count: u32) {
  for (var i = lane; i < TILE_ROWS * count; i += LANES) {
    let row = i / count;
    let quad = begin + i % count;
    var values = load_query(query_offsets[row], quad) * uniforms.scoreScale;
    ${padded ? `if (quad >= ${sizes.depthQuads}u) { values = vec4<f32>(); }` : ""}
    ${queries}[row * QUERY_STRIDE + i % count] = values;
  }
}

/// Stages quads [begin, begin + CHUNK_QUADS) of the keys from \`first\` on.
fn stage_keys(lane: u32, head: u32, first: u32, begin: u32) {
  for (var i = lane; i < TILE_KEYS * CHUNK_QUADS; i += LANES) {
    let key = i / CHUNK_QUADS;
    let quad = begin + i % CHUNK_QUADS;
    var values = load_key(head + min(first + key, uniforms.keys - 1u) * uniforms.keyRow, quad);
    ${padded ? `if (quad >= ${sizes.depthQuads}u) { values = vec4<f32>(); }` : ""}
    let slot = (key / (4u * COLUMNS) * 4u + key % 4u) * COLUMNS + key / 4u % COLUMNS;
    staged[KEY_TILE + slot * KEY_STRIDE + i % CHUNK_QUADS] = values;
  }
}`;
}

/** Fills query_offsets for rows of the group from `first_row` on; a barrier must follow. */
export const findQueryOffsets = `
  for (var i = lane; i < TILE_ROWS; i += LANES) {
    let row = min(first_row + i, rows - 1u);
    query_offsets[i] = batch * uniforms.queryBatch
      + (kv_head * group_heads + row / uniforms.queries) * uniforms.queryHead
      + row % uniforms.queries * uniforms.queryRow;
  }`;

/**
 * Computes the scores s{row}_{quad} of the tile whose first key is `firstKey`. Begins with a
 * barrier; what follows needs one before it overwrites `staged`.
 */
export function computeScores(tile: ScoreTile, keyHead: string, firstKey: string): string {
  const { rowsPerLane, keysPerLane, columns, queryResident } = tile;
  const query = (row: number) =>
    queryResident
      ? `query_tile[(row_group + ROW_GROUPS * ${row}u) * QUERY_STRIDE + chunk * CHUNK_QUADS + quad]`
      : `staged[(row_group + ROW_GROUPS * ${row}u) * QUERY_STRIDE + quad]`;
  const key = (i: number) => `staged[KEY_TILE + (column + ${i * columns}u) * KEY_STRIDE + quad]`;
  const pairs = (statement: (row: number, key: number) => string, separator: string) =>
    each(rowsPerLane, (row) => each(keysPerLane, (k) => statement(row, k), " "), separator);
  const product = (row: number, k: number) => {
    const [q, sum] = [`q${row}`, `d${row}_${k}`];
    return `${sum} = fma(${q}.x, k${k}.x, fma(${q}.y, k${k}.y, fma(${q}.z, k${k}.z, fma(${q}.w, k${k}.w, ${sum}))));`;
  };
  const vector = (row: number, quad: number) =>
    `vec4<f32>(${each(4, (i) => `d${row}_${quad * 4 + i}`, ", ")})`;
  return `
    ${pairs((row, k) => `var d${row}_${k} = 0.0;`, "\n    ")}
    for (var chunk = 0u; chunk < DEPTH_CHUNKS; chunk++) {
      workgroupBarrier();
      ${queryResident ? "" : "stage_queries(lane, chunk * CHUNK_QUADS, CHUNK_QUADS);"}
      stage_keys(lane, ${keyHead}, ${firstKey}, chunk * CHUNK_QUADS);
      workgroupBarrier();
      for (var quad = 0u; quad < CHUNK_QUADS; quad++) {
        ${each(rowsPerLane, (row) => `let q${row} = ${query(row)};`, "\n        ")}
        ${each(keysPerLane, (k) => `let k${k} = ${key(k)};`, "\n        ")}
        ${pairs(product, "\n        ")}
      }
    }
    ${each(rowsPerLane, (row) => each(keysPerLane / 4, (quad) => `var s${row}_${quad} = ${vector(row, quad)};`, " "), "\n    ")}`;
}
