import { defineKernel } from "../../devices/kernel.ts";
import type { AttentionProblem } from "./problem.ts";
import {
  eachUnit,
  rowOfLane,
  type ScoreTile,
  scoreStatements,
  scoreTileDeclarations,
  scoreTileSizes,
  tileRows,
} from "./score-tile.wgsl.ts";
import {
  bindings,
  each,
  fetches,
  halfBits,
  inQuarters,
  type KernelFlags,
  kernelFlags,
  loads,
  loadType,
  loop,
  maskType,
  positions,
  prefillGrid,
  prefillKeys,
  prefillNumber,
  prefillPlace,
  prefillUniforms,
  problemUniforms,
  remembered,
  rowExtras,
  type SplitExtras,
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
//   column c  is quad  column + columns · c  of the value depth.
// Where a lane has 8 × 8 scores, both products read one vector of workgroup memory for 16 multiply-adds;
// with less, they wait for it.
//
// Workgroup memory, `staged`, holds three things in turn:
//   | queries, a chunk of their depth | keys, the same chunk |     while scores are computed;
//   | each lane's maxima, or sums, of its rows |                   while they are shared;
//   | a quad of each lane's weights | `valueKeys` values |          while they are multiplied:
//     weights turned over as queries are, a key after another, and of each four rows to a vector.
// prefillBytes() counts it. What is staged next is on its way to registers meanwhile.
//
// Beside the output a row can leave its log-sum-exp, and as `statistics` ([rows, 1, 2] float32) its
// maximum and sum of weights, for scores.wgsl.ts.
//
// Where tiles of rows are too few to fill a GPU, or keys so many that float32 sums of them would lose too
// much, a workgroup takes a split, a share of the tile's keys, and leaves partials for merge.wgsl.ts
// (SplitExtras).
//
// Grid: row tiles × key/value heads × batches × splits, folded into two axes (prefillGrid).
//
// Adapters: any. Nothing beyond WebGPU's core is used; larger tiles want more workgroup memory.

/** The shape of a workgroup's tile. */
export interface PrefillTile extends ScoreTile {
  /** Values that are staged at a time. A multiple of 4 that divides 4 · columns. */
  readonly valueKeys: number;
}

function sizes(tile: PrefillTile, depth: number, valueDepth: number) {
  const scores = scoreTileSizes(tile, depth);
  const valueQuads = Math.ceil(valueDepth / 4);
  const columnsPerLane = Math.ceil(valueQuads / tile.columns);
  const weightVectors = scores.rows * tile.columns;
  const valueStride = columnsPerLane * tile.columns;
  /** Vectors in which a lane writes a number for each of its rows. */
  const rowVectors = tile.rowsPerLane / 4;
  return {
    ...scores,
    valueQuads,
    columnsPerLane,
    weightVectors,
    valueStride,
    rowVectors,
    stagedVectors: Math.max(
      scores.stagedVectors,
      tile.lanes * rowVectors,
      weightVectors + tile.valueKeys * valueStride,
    ),
  };
}

/** Bytes of workgroup memory that a tile takes. */
export function prefillBytes(tile: PrefillTile, depth: number, valueDepth: number): number {
  // One 16-byte slot for the flag.
  return 16 * (sizes(tile, depth, valueDepth).stagedVectors + 1);
}

const textOf = remembered(prefillText);

const tensors = {
  query: "read",
  key: "read",
  value: "read",
  mask: "read?",
  kvLengths: "read?",
  output: "write?",
  lse: "write?",
  partials: "write?",
  statistics: "write?",
} as const;

/** The prefill kernel, tile by tile. */
export const attentionPrefill = defineKernel<
  typeof tensors,
  {
    readonly problem: AttentionProblem;
    readonly tile: PrefillTile;
    readonly splits: number;
    readonly variant: string;
  }
>({
  name: "attention_prefill",
  tensors,
  uniforms: prefillUniforms,
  webgpu({ tensors: { lse, partials, statistics }, parameters, capabilities }) {
    const { problem, tile, splits, variant } = parameters;
    const { depth, valueDepth } = problem;
    const { workgroups, uniforms } = prefillGrid(problem, tileRows(tile), splits, capabilities);
    return {
      wgsl: textOf(kernelFlags(problem, 4), tile, {
        partials: partials !== undefined,
        lse: lse !== undefined,
        statistics: statistics !== undefined,
      }),
      variant,
      workgroups,
      uniforms: { ...problemUniforms(problem, true), ...uniforms },
      workgroupBytes: prefillBytes(tile, depth, valueDepth),
    };
  },
});

/** The module's text. */
export function prefillText(
  flags: KernelFlags,
  tile: PrefillTile,
  extras: SplitExtras = {},
): string {
  const { dtype, depth, valueDepth, widths, mask, softcap, softmaxDtype } = flags;
  const { lanes, rowsPerLane, keysPerLane, unrolled } = tile;
  const split = extras.partials === true;
  const size = sizes(tile, depth, valueDepth);
  const { columnsPerLane, rowVectors } = size;
  const scoring = scoreStatements(tile, depth);

  const rows = (statement: (row: number) => string) => each(rowsPerLane, statement, "\n    ");
  const scores = (statement: (row: number, quad: number) => string) =>
    rows((row) => each(keysPerLane / 4, (quad) => statement(row, quad), " "));
  const columns = (statement: (column: number) => string) =>
    each(columnsPerLane, statement, "\n          ");
  const fold = (row: number, operator: (a: string, b: string) => string) =>
    Array.from({ length: keysPerLane / 4 }, (_, quad) => `s${row}_${quad}`).reduce(operator);

  // A number of each of a lane's rows, with the numbers that the row's other lanes have.
  const share = (number: (row: number) => string, shared: string, operator: string) => `
    workgroupBarrier();
    ${each(rowVectors, (i) => `staged[lane * ${rowVectors}u + ${i}u] = vec4<f32>(${each(4, (j) => number(4 * i + j), ", ")});`, "\n    ")}
    workgroupBarrier();
    ${each(rowVectors, (i) => `var ${shared}${i} = staged[row_group * COLUMNS * ${rowVectors}u + ${i}u];`, " ")}
    for (var c = 1u; c < COLUMNS; c++) {
      ${each(rowVectors, (i) => `${shared}${i} = ${operator}(${shared}${i}, staged[(row_group * COLUMNS + c) * ${rowVectors}u + ${i}u]);`, "\n      ")}
    }`;
  const shared = (name: string, row: number) => `${name}${row >> 2}[${row & 3}]`;

  // A lane's columns of a row, those that there are.
  const stored = (statement: (quad: string, column: number) => string) =>
    columns((c) => {
      const quad = `column + COLUMNS * ${c}u`;
      return `if (${quad} < VALUE_QUADS) { ${statement(quad, c)} }`;
    });

  const valueUnits = tile.valueKeys * size.valueQuads;
  const fetchValues = (chunk: string) =>
    eachUnit(
      valueUnits,
      lanes,
      (i, unit) =>
        `fetched_value${i} = fetch_value(value_head + (u32(tile) + ${chunk} * VALUE_KEYS + ${unit} / VALUE_QUADS) * uniforms.valueRow, ${unit} % VALUE_QUADS);`,
    );
  const stageValues = (value: (i: number, key: string) => string) =>
    eachUnit(
      valueUnits,
      lanes,
      (i, unit) =>
        `staged[VALUE_TILE + ${unit} / VALUE_QUADS * VALUE_STRIDE + ${unit} % VALUE_QUADS] = ${value(i, `tile + i32(chunk * VALUE_KEYS + ${unit} / VALUE_QUADS)`)};`,
    );
  // Of the weights a quad a lane, before the first of its values.
  const stageWeights = each(
    keysPerLane / 4,
    (quad) => `if (chunk == ${quad}u * QUAD_CHUNKS) {
        ${each(rowVectors, (i) => `stage(column * 4u * ROW_QUADS + (row_group + ROW_GROUPS * ${i}u + column) % ROW_QUADS, ROW_QUADS, ${each(4, (j) => `s${4 * i + j}_${quad}`, ", ")});`, "\n        ")}
      }`,
    " else ",
  );

  // A forbidden key has a weight just below 0: no matter where it meets a finite value, and told
  // apart from a weight that is 0 where it meets NaN or ∞ (0 · NaN is NaN).
  const accumulateKey = (guarded: boolean) => `
          ${each(rowVectors, (i) => `let w${i} = staged[weight_at${i} + key * ROW_QUADS];`, " ")}
          ${columns((c) => `let v${c} = staged[VALUE_TILE + (quad * 4u + key) * VALUE_STRIDE + column + COLUMNS * ${c}u];`)}
          ${rows((row) =>
            columns((c) => {
              const weight = `w${row >> 2}[${row & 3}]`;
              const sum = `fma(vec4<f32>(${weight}), v${c}, o${row}_${c})`;
              return `o${row}_${c} = ${guarded ? `select(${sum}, o${row}_${c}, ${weight} < 0.0)` : sum};`;
            }),
          )}`;
  const accumulate = (guarded: boolean) =>
    loop(
      "quad",
      tile.valueKeys / 4,
      unrolled && !guarded,
      `
          let keys = chunk % QUAD_CHUNKS * (VALUE_KEYS / 4u) + quad;
          ${each(rowVectors, (i) => `let weight_at${i} = keys * 4u * ROW_QUADS + (row_group + ROW_GROUPS * ${i}u + keys) % ROW_QUADS;`, "\n          ")}
          ${loop("key", 4, !guarded, accumulateKey(guarded))}`,
    );

  return `
${bindings(
  tensors,
  {
    query: loadType(dtype, widths.query),
    key: loadType(dtype, widths.key),
    value: loadType(dtype, widths.value),
    mask: maskType(mask),
    kvLengths: flags.kvLengths ? "i32" : undefined,
    output: split ? undefined : storeType(dtype, widths.output),
    lse: extras.lse ? "f32" : undefined,
    partials: split ? "vec4<f32>" : undefined,
    statistics: extras.statistics ? "vec2<f32>" : undefined,
  },
  prefillUniforms,
)}
${loads("value", dtype, widths.value, valueDepth)}
${fetches("value", dtype, widths.value)}
${halfBits(dtype, softmaxDtype)}
${split ? "" : stores("output", dtype, widths.output, `${valueDepth}u`)}
${scoreUnits(inQuarters(mask))}
${positions(flags)}
${prefillPlace}
${scoreFunctions(flags)}
${scoreTileDeclarations(tile, flags)}

const VALUE_KEYS = ${tile.valueKeys}u;
const VALUE_CHUNKS = ${size.keys / tile.valueKeys}u;
const QUAD_CHUNKS = ${(4 * tile.columns) / tile.valueKeys}u; // chunks of values for a quad of each lane's weights
const VALUE_QUADS = ${size.valueQuads}u;
const VALUE_STRIDE = ${size.valueStride}u;
const VALUE_TILE = ${size.weightVectors}u; // where values begin in staged, after the weights
const FORBIDDEN_WEIGHT = -1.0e-37;

var<workgroup> staged: array<vec4<f32>, ${size.stagedVectors}>;
/// Set once a value came by that is too large for FORBIDDEN_WEIGHT: NaN, ±∞, or 2^64 and more.
var<workgroup> large_values: atomic<u32>;

fn largest(v: vec4<f32>) -> f32 { return max(max(v.x, v.y), max(v.z, v.w)); }
fn add(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> { return a + b; }
fn total(v: vec4<f32>) -> f32 { return (v.x + v.y) + (v.z + v.w); }

/// A value of a tile that not every row sees whole: 0 before \`begin\` and from \`end\` on, where no
/// row sees it.
fn seen_value(value: vec4<f32>, key: i32, begin: i32, end: i32) -> vec4<f32> {
  if (key < begin || key >= end) { return vec4<f32>(); }
  if (any((bitcast<vec4<u32>>(value) & vec4<u32>(0x7fffffffu)) >= vec4<u32>(0x5f800000u))) {
    atomicStore(&large_values, 1u);
  }
  return value;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  ${prefillNumber(split)}
  let row_tile = row_tile_and_head(number).x;
  let head_of_all = row_tile_and_head(number).y;
  let first_row = row_tile * TILE_ROWS;
  let kv_head = head_of_all % uniforms.kvHeads;
  let batch = head_of_all / uniforms.kvHeads;
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
  ${prefillKeys(split, "i32(TILE_KEYS)")}
  let begin_for_all = first_key(last_position);
  let end_for_all = end_key(first_position, limit);

  ${rows((row) => `let row${row} = min(first_row + ${rowOfLane(row)}, rows - 1u);`)}
  ${mask === "none" ? "" : rows((row) => `let mask${row} = mask_row(batch, kv_head * group_heads + row${row} / uniforms.queries, row${row} % uniforms.queries);`)}
  ${rows((row) => `var maximum${row} = LOWEST; var sum${row} = 0.0; var invalid${row} = false;`)}
  ${rows((row) => columns((c) => `var o${row}_${c} = vec4<f32>();`))}
  ${scoring.declare}
  ${each(Math.ceil(valueUnits / lanes), (i) => `var fetched_value${i}: value_quad;`, "\n  ")}

  ${scoring.fetch("u32(begin)", "0u")}
  for (var tile = begin; tile < end; tile += i32(TILE_KEYS)) {
    ${scoring.compute("u32(tile)")}
    ${fetchValues("0u")}
    ${softcap ? scores((row, quad) => `s${row}_${quad} = softcapped(s${row}_${quad});`) : ""}

    let partial = ${mask === "none" ? "tile < begin_for_all || tile + i32(TILE_KEYS) > end_for_all" : "true"};
    if (partial) {
      ${each(keysPerLane / 4, (quad) => `let keys${quad} = tile + 4 * (i32(column) + ${quad * tile.columns}) + vec4<i32>(0, 1, 2, 3);`, "\n      ")}
      ${rows((row) => `let position${row} = offset + i32(row${row} % uniforms.queries);`)}
      ${scores((row, quad) => `s${row}_${quad} = seen(s${row}_${quad}, keys${quad}, first_key(position${row}), end_key(position${row}, limit), ${mask === "none" ? "0u" : `mask${row}`});`)}
    }
    ${softmaxDtype === "float32" ? "" : scores((row, quad) => `s${row}_${quad} = rounded(s${row}_${quad});`)}

    // The rows' maxima so far, and what that does to what was summed before.
    ${share((row) => `max(maximum${row}, largest(${fold(row, (a, b) => `max(${a}, ${b})`)}))`, "maxima", "max")}
    ${rows(
      (row) => `{
    let keep = exponential(maximum${row} - ${shared("maxima", row)});
    maximum${row} = ${shared("maxima", row)};
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
    ${rows((row) => `sum${row} += total(${fold(row, (a, b) => `${a} + ${b}`)});`)}

    for (var chunk = 0u; chunk < VALUE_CHUNKS; chunk++) {
      workgroupBarrier();
      ${stageWeights}
      if (partial) {
        ${stageValues((i, key) => `seen_value(widened_value(fetched_value${i}), ${key}, begin, end)`)}
      } else {
        ${stageValues((i) => `widened_value(fetched_value${i})`)}
      }
      workgroupBarrier();
      if (chunk + 1u < VALUE_CHUNKS) {
        ${fetchValues("(chunk + 1u)")}
      } else {${scoring.fetch("u32(tile) + TILE_KEYS", "0u")}
      }
      if (partial && atomicLoad(&large_values) != 0u) {
        ${accumulate(true)}
      } else {
        ${accumulate(false)}
      }
    }
  }

  // Each lane summed the weights of its own keys.
  ${share((row) => `select(sum${row}, not_a_number(), invalid${row})`, "sums", "add")}
  ${rows(
    (row) => `if (first_row + ${rowOfLane(row)} < rows) {
    let sum = ${shared("sums", row)};
    ${split ? "" : "let inverse = select(1.0 / sum, 0.0, sum <= 0.0);"}
    let head = kv_head * group_heads + row${row} / uniforms.queries;
    let query = row${row} % uniforms.queries;
    ${
      split
        ? `let row = ((batch * uniforms.queryHeads + head) * uniforms.queries + query) * uniforms.splits + split;
    ${stored((quad, c) => `partials[row * VALUE_QUADS + ${quad}] = o${row}_${c};`)}
    if (column == 0u) { ${rowExtras(extras, "row", `maximum${row}`, "sum")} }`
        : `let place = batch * uniforms.outputBatch + head * uniforms.outputHead + query * uniforms.outputRow;
    ${stored((quad, c) => `store_output(place, ${quad}, o${row}_${c} * inverse);`)}
    if (column == 0u) {
      let row = (batch * uniforms.queryHeads + head) * uniforms.queries + query;
      ${rowExtras(extras, "row", `maximum${row}`, "sum")}
    }`
    }
  }`,
  )}
}`;
}
