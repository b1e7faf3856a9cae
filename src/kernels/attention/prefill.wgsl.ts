import { defineKernel, foldWorkgroups } from "../../devices/kernel.ts";
import type { AttentionProblem } from "./problem.ts";
import {
  computeScores,
  findQueryOffsets,
  type ScoreTile,
  scoreTileDeclarations,
  scoreTileSizes,
} from "./score-tile.wgsl.ts";
import {
  attentionUniforms,
  bindings,
  each,
  halfBits,
  inQuarters,
  type KernelFlags,
  kernelFlags,
  loads,
  loadType,
  maskType,
  positions,
  problemUniforms,
  type RowExtras,
  rowExtras,
  scoreFunctions,
  scoreUnits,
  stores,
  storeType,
} from "./snippets.wgsl.ts";

// Prefill: attention of many query rows in one pass over K and V, with an online softmax
// (FlashAttention, https://arxiv.org/abs/2205.14135).
//
// A workgroup owns a tile of query rows that read one key/value head: the queries of all the query
// heads of its group, one after another, so that short queries of a group share a tile. It walks
// the keys that any of its rows may see, a tile at a time; a tile that every row sees whole runs
// without the code of masks.
//
// A lane holds, for each of its rows, some scores (score-tile.wgsl.ts), the running maximum and its
// own part of the sum of weights, and some columns of the output, all in registers:
//   row i     is query row  rowGroup + rowGroups · i  of the tile,
//   column c  is quad       column + columns · c      of the value depth.
//
// Workgroup memory: `staged` holds queries and keys while scores are computed, then weights and a
// few values at a time; `exchange` a float for each row and column of lanes; the rows' offsets;
// and, where they fit, the queries for good. prefillBytes() counts them.
//
// Beside the output a row can leave its log-sum-exp, and as `statistics` ([rows, 1, 2] float32) its
// maximum and sum of weights, for scores.wgsl.ts.
//
// Grid: row tiles × key/value heads × batches, folded into two axes; within a head the last rows go
// first, which under a causal mask have most to do.
//
// Adapters: any. Nothing beyond WebGPU's core is used; larger tiles want more workgroup memory.

/** The shape of a workgroup's tile. */
export interface PrefillTile extends ScoreTile {
  /** Values that are staged at a time. A multiple of 4 that divides the tile's keys. */
  readonly valueKeys: number;
}

function sizes(tile: PrefillTile, depth: number, valueDepth: number) {
  const scores = scoreTileSizes(tile, depth);
  const valueQuads = Math.ceil(valueDepth / 4);
  const columnsPerLane = Math.ceil(valueQuads / tile.columns);
  const weightStride = (scores.keys / 4) | 1;
  const weightVectors = scores.rows * weightStride;
  const valueStride = columnsPerLane * tile.columns;
  return {
    ...scores,
    valueQuads,
    columnsPerLane,
    weightStride,
    weightVectors,
    valueStride,
    stagedVectors: Math.max(scores.stagedVectors, weightVectors + tile.valueKeys * valueStride),
  };
}

/** Bytes of workgroup memory that a tile takes. */
export function prefillBytes(tile: PrefillTile, depth: number, valueDepth: number): number {
  const { residentVectors, stagedVectors, rows } = sizes(tile, depth, valueDepth);
  // One 16-byte slot for the flag.
  return 16 * (residentVectors + stagedVectors + 1) + 4 * rows * (tile.columns + 1);
}

const tensors = {
  query: "read",
  key: "read",
  value: "read",
  mask: "read?",
  kvLengths: "read?",
  output: "write",
  lse: "write?",
  statistics: "write?",
} as const;

/** The prefill kernel, tile by tile. */
export const attentionPrefill = defineKernel<
  typeof tensors,
  { readonly problem: AttentionProblem; readonly tile: PrefillTile; readonly variant: string }
>({
  name: "attention_prefill",
  tensors,
  uniforms: attentionUniforms,
  webgpu({ tensors: { lse, statistics }, parameters: { problem, tile, variant }, capabilities }) {
    const { batch, queryHeads, kvHeads, queries, depth, valueDepth } = problem;
    const { rows } = sizes(tile, depth, valueDepth);
    const rowTiles = Math.ceil(((queryHeads / kvHeads) * queries) / rows);
    const workgroups = rowTiles * kvHeads * batch;
    const [x, y] = foldWorkgroups(workgroups, capabilities);
    return {
      wgsl: prefillText(kernelFlags(problem, 4), tile, {
        lse: lse !== undefined,
        statistics: statistics !== undefined,
      }),
      variant,
      workgroups: [x, y, 1],
      uniforms: {
        ...problemUniforms(problem, true),
        gridWidth: x,
        workgroups,
        rowTiles,
        splits: 1,
      },
      workgroupBytes: prefillBytes(tile, depth, valueDepth),
    };
  },
});

/** The module's text. */
export function prefillText(flags: KernelFlags, tile: PrefillTile, extras: RowExtras = {}): string {
  const { dtype, depth, valueDepth, widths, mask, softcap, softmaxDtype } = flags;
  const { rowsPerLane, keysPerLane } = tile;
  const size = sizes(tile, depth, valueDepth);
  const { columnsPerLane } = size;

  const rows = (statement: (row: number) => string) => each(rowsPerLane, statement, "\n    ");
  const scores = (statement: (row: number, quad: number) => string) =>
    rows((row) => each(keysPerLane / 4, (quad) => statement(row, quad), " "));
  const columns = (statement: (column: number) => string) =>
    each(columnsPerLane, statement, "\n          ");
  const fold = (row: number, operator: (a: string, b: string) => string) =>
    Array.from({ length: keysPerLane / 4 }, (_, quad) => `s${row}_${quad}`).reduce(operator);
  // A forbidden key has a weight just below 0: no matter where it meets a finite value, and told
  // apart from a weight that is 0 where it meets NaN or ∞ (0 · NaN is NaN).
  const accumulateKey = (i: string, guarded: boolean) => `
          ${columns((c) => `let v${c} = staged[VALUE_TILE + (quad * 4u + ${i}) * VALUE_STRIDE + column + COLUMNS * ${c}u];`)}
          ${rows((row) =>
            columns((c) => {
              const sum = `fma(vec4<f32>(w${row}[${i}]), v${c}, o${row}_${c})`;
              return `o${row}_${c} = ${guarded ? `select(${sum}, o${row}_${c}, w${row}[${i}] < 0.0)` : sum};`;
            }),
          )}`;
  const accumulate = (guarded: boolean) => `
        for (var quad = 0u; quad < VALUE_KEYS / 4u; quad++) {
          ${rows((row) => `let w${row} = staged[(row_group + ROW_GROUPS * ${row}u) * WEIGHT_STRIDE + chunk / 4u + quad];`)}
          ${
            guarded
              ? `for (var i = 0u; i < 4u; i++) {${accumulateKey("i", true)}
          }`
              : each(4, (i) => `{${accumulateKey(`${i}u`, false)}\n          }`, " ")
          }
        }`;

  return `
${bindings(
  tensors,
  {
    query: loadType(dtype, widths.query),
    key: loadType(dtype, widths.key),
    value: loadType(dtype, widths.value),
    mask: maskType(mask),
    kvLengths: flags.kvLengths ? "i32" : undefined,
    output: storeType(dtype, widths.output),
    lse: extras.lse ? "f32" : undefined,
    statistics: extras.statistics ? "vec2<f32>" : undefined,
  },
  attentionUniforms,
)}
${loads("query", dtype, widths.query, depth)}
${loads("key", dtype, widths.key, depth)}
${loads("value", dtype, widths.value, valueDepth)}
${halfBits(dtype, softmaxDtype)}
${stores("output", dtype, widths.output, `${valueDepth}u`)}
${scoreUnits(inQuarters(mask))}
${positions(flags)}
${scoreFunctions(flags)}
${scoreTileDeclarations(tile, depth)}

const VALUE_KEYS = ${tile.valueKeys}u;
const VALUE_QUADS = ${size.valueQuads}u;
const VALUE_STRIDE = ${size.valueStride}u;
const VALUE_TILE = ${size.weightVectors}u; // where values begin in staged, after the weights
const WEIGHT_STRIDE = ${size.weightStride}u;
const FORBIDDEN_WEIGHT = -1.0e-37;

var<workgroup> staged: array<vec4<f32>, ${size.stagedVectors}>;
var<workgroup> exchange: array<f32, TILE_ROWS * COLUMNS>;
/// Set once a value came by that is too large for FORBIDDEN_WEIGHT: NaN, ±∞, or 2^64 and more.
var<workgroup> large_values: atomic<u32>;

fn largest(v: vec4<f32>) -> f32 { return max(max(v.x, v.y), max(v.z, v.w)); }
fn total(v: vec4<f32>) -> f32 { return (v.x + v.y) + (v.z + v.w); }

/// Stages VALUE_KEYS values of a tile that every row sees whole.
fn stage_values(lane: u32, head: u32, first: u32) {
  for (var i = lane; i < VALUE_KEYS * VALUE_QUADS; i += LANES) {
    let key = first + i / VALUE_QUADS;
    let quad = i % VALUE_QUADS;
    staged[VALUE_TILE + i / VALUE_QUADS * VALUE_STRIDE + quad] = load_value(head + key * uniforms.valueRow, quad);
  }
}

/// Stages VALUE_KEYS values; those before \`begin\` and from \`end\` on, seen by no row, as zeros.
fn stage_some_values(lane: u32, head: u32, first: u32, begin: u32, end: u32) {
  for (var i = lane; i < VALUE_KEYS * VALUE_QUADS; i += LANES) {
    let key = first + i / VALUE_QUADS;
    let quad = i % VALUE_QUADS;
    var values = vec4<f32>();
    if (key >= begin && key < end) {
      values = load_value(head + key * uniforms.valueRow, quad);
      if (any((bitcast<vec4<u32>>(values) & vec4<u32>(0x7fffffffu)) >= vec4<u32>(0x5f800000u))) {
        atomicStore(&large_values, 1u);
      }
    }
    staged[VALUE_TILE + i / VALUE_QUADS * VALUE_STRIDE + quad] = values;
  }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let number = workgroup.y * uniforms.gridWidth + workgroup.x;
  if (number >= uniforms.workgroups) { return; }
  let first_row = (uniforms.rowTiles - 1u - number % uniforms.rowTiles) * TILE_ROWS;
  let kv_head = number / uniforms.rowTiles % uniforms.kvHeads;
  let batch = number / uniforms.rowTiles / uniforms.kvHeads;
  let group_heads = uniforms.queryHeads / uniforms.kvHeads;
  let rows = group_heads * uniforms.queries;
  let last_row = min(first_row + TILE_ROWS, rows) - 1u;
  let key_head = batch * uniforms.keyBatch + kv_head * uniforms.keyHead;
  let value_head = batch * uniforms.valueBatch + kv_head * uniforms.valueHead;
  let column = lane % COLUMNS;
  let row_group = lane / COLUMNS;

  // The keys that some row of the tile sees, and those that every row sees.
  let offset = position_offset(batch);
  let limit = key_limit(batch);
  let one_head = first_row / uniforms.queries == last_row / uniforms.queries;
  let first_position = offset + i32(select(0u, first_row % uniforms.queries, one_head));
  let last_position = offset + i32(select(uniforms.queries - 1u, last_row % uniforms.queries, one_head));
  let begin = first_key(first_position);
  let end = end_key(last_position, limit);
  let begin_for_all = first_key(last_position);
  let end_for_all = end_key(first_position, limit);
${findQueryOffsets}
  ${tile.queryResident ? "workgroupBarrier();\n  stage_queries(lane, 0u, DEPTH_CHUNKS * CHUNK_QUADS);" : ""}

  ${rows((row) => `let row${row} = min(first_row + row_group + ROW_GROUPS * ${row}u, rows - 1u);`)}
  ${mask === "none" ? "" : rows((row) => `let mask${row} = mask_row(batch, kv_head * group_heads + row${row} / uniforms.queries, row${row} % uniforms.queries);`)}
  ${rows((row) => `var maximum${row} = LOWEST; var sum${row} = 0.0; var invalid${row} = false;`)}
  ${rows((row) => columns((c) => `var o${row}_${c} = vec4<f32>();`))}

  for (var tile = begin; tile < end; tile += i32(TILE_KEYS)) {
    ${computeScores(tile, "key_head", "u32(tile)")}
    ${softcap ? scores((row, quad) => `s${row}_${quad} = softcapped(s${row}_${quad});`) : ""}

    let partial = ${mask === "none" ? "tile < begin_for_all || tile + i32(TILE_KEYS) > end_for_all" : "true"};
    if (partial) {
      ${each(keysPerLane / 4, (quad) => `let keys${quad} = tile + 4 * (i32(column) + ${quad * tile.columns}) + vec4<i32>(0, 1, 2, 3);`, "\n      ")}
      ${rows((row) => `let position${row} = offset + i32(row${row} % uniforms.queries);`)}
      ${scores((row, quad) => `s${row}_${quad} = seen(s${row}_${quad}, keys${quad}, first_key(position${row}), end_key(position${row}, limit), ${mask === "none" ? "0u" : `mask${row}`});`)}
    }
    ${softmaxDtype === "float32" ? "" : scores((row, quad) => `s${row}_${quad} = rounded(s${row}_${quad});`)}

    // The maxima of the rows, over the lanes that share them.
    ${rows((row) => `exchange[(row_group + ROW_GROUPS * ${row}u) * COLUMNS + column] = largest(${fold(row, (a, b) => `max(${a}, ${b})`)});`)}
    workgroupBarrier();
    ${rows(
      (row) => `{
    var maximum = maximum${row};
    for (var c = 0u; c < COLUMNS; c++) { maximum = max(maximum, exchange[(row_group + ROW_GROUPS * ${row}u) * COLUMNS + c]); }
    let keep = exponential(maximum${row} - maximum);
    maximum${row} = maximum;
    sum${row} *= keep;
    ${columns((c) => `o${row}_${c} *= keep;`)}
    }`,
    )}

    ${scores((row, quad) => {
      const score = `s${row}_${quad}`;
      return `{
    let x = ${score} - maximum${row};
    invalid${row} = invalid${row} | any(!(x == x));
    ${score} = select(exponentials(x), vec4<f32>(FORBIDDEN_WEIGHT), ${score} <= vec4<f32>(FORBIDDEN));
    }`;
    })}
    ${scores((row, quad) => `staged[(row_group + ROW_GROUPS * ${row}u) * WEIGHT_STRIDE + column + ${quad * tile.columns}u] = s${row}_${quad};`)}
    ${rows((row) => `sum${row} += total(${fold(row, (a, b) => `${a} + ${b}`)});`)}

    for (var chunk = 0u; chunk < TILE_KEYS; chunk += VALUE_KEYS) {
      ${size.keys > tile.valueKeys ? "if (chunk > 0u) { workgroupBarrier(); }" : ""}
      if (partial) { stage_some_values(lane, value_head, u32(tile) + chunk, u32(begin), u32(end)); }
      else { stage_values(lane, value_head, u32(tile) + chunk); }
      workgroupBarrier();
      if (partial && atomicLoad(&large_values) != 0u) {${accumulate(true)}
      } else {${accumulate(false)}
      }
    }
  }

  // Each lane summed the weights of its own keys.
  workgroupBarrier();
  ${rows((row) => `exchange[(row_group + ROW_GROUPS * ${row}u) * COLUMNS + column] = select(sum${row}, not_a_number(), invalid${row});`)}
  workgroupBarrier();
  ${rows(
    (row) => `if (first_row + row_group + ROW_GROUPS * ${row}u < rows) {
    var sum = 0.0;
    for (var c = 0u; c < COLUMNS; c++) { sum += exchange[(row_group + ROW_GROUPS * ${row}u) * COLUMNS + c]; }
    let inverse = select(1.0 / sum, 0.0, sum <= 0.0);
    let head = kv_head * group_heads + row${row} / uniforms.queries;
    let query = row${row} % uniforms.queries;
    let place = batch * uniforms.outputBatch + head * uniforms.outputHead + query * uniforms.outputRow;
    ${columns((c) => `if (column + COLUMNS * ${c}u < VALUE_QUADS) { store_output(place, column + COLUMNS * ${c}u, o${row}_${c} * inverse); }`)}
    if (column == 0u) {
      let row = (batch * uniforms.queryHeads + head) * uniforms.queries + query;
      ${rowExtras(extras, "row", `maximum${row}`, "sum")}
    }
  }`,
  )}
}`;
}
