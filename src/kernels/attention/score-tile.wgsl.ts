import { each, fetches, type KernelFlags, loads, loop, queryPlace } from "./snippets.wgsl.ts";

// The block of scores that a workgroup of the prefill and scores kernels computes at a time: query
// rows × keys, as a product of two matrices blocked in registers.
//
// Lanes form a grid of `columns` × `rowGroups`, lane = rowGroup · columns + column. Each holds
// `rowsPerLane` × `keysPerLane` scores in registers, four keys to a vector s{row}_{quad}:
//   rows 4i to 4i + 3  are query rows  4 · (rowGroup + rowGroups · i)  and the next three,
//   quad j             is keys         4 · (column + columns · j)      and the next three.
// An element of depth costs a lane (rowsPerLane + keysPerLane) / 4 vector reads of workgroup memory
// for rowsPerLane · keysPerLane multiply-adds.
//
// Queries and keys come through workgroup memory, a chunk of `chunkQuads` quads of their depth at a
// time, turned over: an element of depth after another, and of each four rows to a vector. A lane
// fetches four elements of four rows, and turns them over in its registers. Each quad of depth lies
// TURN vectors further on in its lines, round and round, so that the lanes that write different quads
// of the same rows do not meet in a bank. While a chunk is worked on, the next one is under way from
// memory to registers.

/** The shape of the tile. */
export interface ScoreTile {
  /** Invocations of the workgroup. */
  readonly lanes: number;
  /** Lanes that share a query row. */
  readonly columns: number;
  /** A multiple of 4. */
  readonly rowsPerLane: number;
  /** A multiple of 4. */
  readonly keysPerLane: number;
  /** Most quads of depth that are staged at a time. */
  readonly chunkQuads: number;
  /** Whether the innermost loops are written out. */
  readonly unrolled: boolean;
}

/** Query rows of a tile. */
export const tileRows = ({ lanes, columns, rowsPerLane }: ScoreTile): number =>
  (lanes / columns) * rowsPerLane;

/** Sizes that follow from a tile and a depth. */
export function scoreTileSizes(tile: ScoreTile, depth: number) {
  const rowGroups = tile.lanes / tile.columns;
  const depthQuads = Math.ceil(depth / 4);
  const chunks = Math.ceil(depthQuads / tile.chunkQuads);
  const chunkQuads = Math.ceil(depthQuads / chunks);
  const rows = tileRows(tile);
  const keys = tile.columns * tile.keysPerLane;
  return {
    rowGroups,
    rows,
    keys,
    depthQuads,
    chunks,
    chunkQuads,
    /** Vectors of workgroup memory, free again once the scores are there. */
    stagedVectors: (rows + keys) * chunkQuads,
  };
}

/**
 * What a lane moves of `count` units: every lanes-th. `move` gives the statement for its i-th, whose
 * number among all is the expression `unit`.
 */
export function eachUnit(
  count: number,
  lanes: number,
  move: (i: number, unit: string) => string,
): string {
  const statement = (i: number) => {
    const unit = `(lane + ${i * lanes}u)`;
    return (i + 1) * lanes > count
      ? `if (${unit} < ${count}u) { ${move(i, unit)} }`
      : move(i, unit);
  };
  return each(Math.ceil(count / lanes), statement, "\n    ");
}

/** Constants and functions, at the top of the module. */
export function scoreTileDeclarations(tile: ScoreTile, flags: KernelFlags): string {
  const { dtype, depth, widths } = flags;
  const sizes = scoreTileSizes(tile, depth);
  return `
${loads("query", dtype, widths.query, depth)}
${fetches("query", dtype, widths.query)}
${loads("key", dtype, widths.key, depth)}
${fetches("key", dtype, widths.key)}
${queryPlace}

const LANES = ${tile.lanes}u;
const COLUMNS = ${tile.columns}u;
const ROW_GROUPS = ${sizes.rowGroups}u;
const TILE_ROWS = ${sizes.rows}u;
const TILE_KEYS = ${sizes.keys}u;
const DEPTH_CHUNKS = ${sizes.chunks}u;
const CHUNK_QUADS = ${sizes.chunkQuads}u;
const ROW_QUADS = ${sizes.rows / 4}u;
const KEY_QUADS = ${sizes.keys / 4}u;
const KEY_TILE = ${sizes.rows * sizes.chunkQuads}u; // where keys begin in staged, after the queries
const TURN = ${sizes.chunkQuads > 4 ? 1 : 2}u;

/// Stages four elements of four rows of which there are \`quads\` quads.
fn stage(place: u32, quads: u32, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) {
  staged[place] = vec4<f32>(a.x, b.x, c.x, d.x);
  staged[place + quads] = vec4<f32>(a.y, b.y, c.y, d.y);
  staged[place + 2u * quads] = vec4<f32>(a.z, b.z, c.z, d.z);
  staged[place + 3u * quads] = vec4<f32>(a.w, b.w, c.w, d.w);
}`;
}

/** The statements with which a lane computes scores. */
export interface ScoreStatements {
  /** Once, before the others: where a lane's queries lie. Wants batch, kv_head, first_row and rows. */
  readonly declare: string;
  /** Begins to load chunk `chunk` of the tile of keys from `first` on. */
  readonly fetch: (first: string, chunk: string) => string;
  /**
   * Computes s{row}_{quad} of the tile of keys from `first` on, whose chunk 0 is fetched. Begins with
   * a barrier; what follows needs one before it overwrites `staged`.
   */
  readonly compute: (first: string) => string;
}

/** The statements; `key_head` is where the keys of the head begin. */
export function scoreStatements(tile: ScoreTile, depth: number): ScoreStatements {
  const { lanes, rowsPerLane, keysPerLane, unrolled } = tile;
  const { rows, keys, chunks, chunkQuads, depthQuads } = scoreTileSizes(tile, depth);
  const units = { query: (rows / 4) * chunkQuads, key: (keys / 4) * chunkQuads };
  const four = (text: (j: number) => string, separator = " ") => each(4, text, separator);
  const declared = (count: number, declaration: (i: number, j: number) => string) =>
    each(Math.ceil(count / lanes), (i) => four((j) => declaration(i, j)), "\n  ");

  const key = (first: string, unit: string, j: number) =>
    `key_head + min(${first} + ${unit} / CHUNK_QUADS * 4u + ${j}u, uniforms.keys - 1u) * uniforms.keyRow`;
  const fetch = (first: string, chunk: string) => `
    ${eachUnit(units.query, lanes, (i, unit) => four((j) => `fetched_query${i}_${j} = fetch_query(query_place${i}_${j}, ${chunk} * CHUNK_QUADS + ${unit} % CHUNK_QUADS);`))}
    ${eachUnit(units.key, lanes, (i, unit) => four((j) => `fetched_key${i}_${j} = fetch_key(${key(first, unit, j)}, ${chunk} * CHUNK_QUADS + ${unit} % CHUNK_QUADS);`))}`;
  // Beyond the depth, in the last of several chunks, are zeros.
  const within = (unit: string, value: string) =>
    chunks * chunkQuads === depthQuads
      ? value
      : `select(vec4<f32>(), ${value}, chunk * CHUNK_QUADS + ${unit} % CHUNK_QUADS < ${depthQuads}u)`;
  const stage = (name: "query" | "key", begin: string, quads: string, factor: string) =>
    eachUnit(
      units[name],
      lanes,
      (i, unit) =>
        `stage(${begin}${unit} % CHUNK_QUADS * 4u * ${quads} + (${unit} / CHUNK_QUADS + ${unit} % CHUNK_QUADS * TURN) % ${quads}, ${quads}, ${four((j) => within(unit, `widened_${name}(fetched_${name}${i}_${j})${factor}`), ", ")});`,
    );

  const scores = (statement: (row: number, quad: number) => string, separator: string) =>
    each(
      rowsPerLane,
      (row) => each(keysPerLane / 4, (quad) => statement(row, quad), " "),
      separator,
    );
  const rowQuads = (statement: (i: number) => string) => each(rowsPerLane / 4, statement, " ");
  const keyQuads = (statement: (i: number) => string) => each(keysPerLane / 4, statement, " ");
  const product = `
        ${rowQuads((i) => `let query_at${i} = quad * 4u * ROW_QUADS + (row_group + ROW_GROUPS * ${i}u + quad * TURN) % ROW_QUADS;`)}
        ${keyQuads((i) => `let key_at${i} = KEY_TILE + quad * 4u * KEY_QUADS + (column + COLUMNS * ${i}u + quad * TURN) % KEY_QUADS;`)}
        ${four(
          (j) => `{
          ${rowQuads((i) => `let q${i} = staged[query_at${i} + ${j}u * ROW_QUADS];`)}
          ${keyQuads((i) => `let k${i} = staged[key_at${i} + ${j}u * KEY_QUADS];`)}
          ${scores((row, quad) => `s${row}_${quad} = fma(vec4<f32>(q${row >> 2}[${row & 3}]), k${quad}, s${row}_${quad});`, "\n          ")}
        }`,
          "",
        )}`;
  return {
    declare: `
  ${declared(units.query, (i, j) => `let query_place${i}_${j} = query_place(batch, kv_head, min(first_row + (lane + ${i * lanes}u) / CHUNK_QUADS * 4u + ${j}u, rows - 1u));`)}
  ${declared(units.query, (i, j) => `var fetched_query${i}_${j}: query_quad;`)}
  ${declared(units.key, (i, j) => `var fetched_key${i}_${j}: key_quad;`)}`,
    fetch,
    compute: (first) => `
    ${scores((row, quad) => `var s${row}_${quad} = vec4<f32>();`, " ")}
    for (var chunk = 0u; chunk < DEPTH_CHUNKS; chunk++) {
      workgroupBarrier();
      ${stage("query", "", "ROW_QUADS", " * uniforms.scoreScale")}
      ${stage("key", "KEY_TILE + ", "KEY_QUADS", "")}
      workgroupBarrier();
      ${chunks > 1 ? `if (chunk + 1u < DEPTH_CHUNKS) {${fetch(first, "(chunk + 1u)")}\n      }` : ""}
      ${loop("quad", chunkQuads, unrolled, product)}
    }`,
  };
}

/** The i-th row of a lane, counted in the tile. */
export const rowOfLane = (i: number): string =>
  `(row_group + ROW_GROUPS * ${i >> 2}u) * 4u + ${i & 3}u`;
