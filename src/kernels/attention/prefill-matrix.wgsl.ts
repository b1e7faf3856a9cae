import type { Capabilities, MatrixShape } from "../../devices/capabilities.ts";
import { defineKernel } from "../../devices/kernel.ts";
import type { AttentionProblem, RowStrides } from "./problem.ts";
import {
  bindings,
  each,
  type KernelFlags,
  kernelFlags,
  positions,
  prefillGrid,
  prefillKeys,
  prefillNumber,
  prefillPlace,
  prefillUniforms,
  problemUniforms,
  queryPlace,
  remembered,
  rowExtras,
  type SplitExtras,
  scoreFunctions,
  scoreUnits,
} from "./snippets.wgsl.ts";

// Prefill on matrix units: FlashAttention (https://arxiv.org/abs/2205.14135) with both products by
// subgroup matrices, float16 operands and float32 results.
//
// A workgroup owns a tile of query rows that read one key/value head, as in prefill.wgsl.ts; each
// of its subgroups owns GROUP_ROWS of them. A subgroup holds, in matrices, its queries and its
// rows of the output for the whole pass over the keys. A lane holds a row's reference (below) and
// its part of the sum of weights; LANES_PER_ROW lanes share a row.
//
// Keys come KEYS at a time. WGSL gives no access to a matrix's elements, so scores go through
// workgroup memory, and each tile takes two phases, with barriers between:
//   matrix   output += weights · values of the tile before; scores = queries · keys of this one;
//   vector   weights out of scores, a lane its part of a row; and meanwhile, into workgroup memory,
//            the next tile's keys and this tile's values.
//
// Weights are 2^(score − reference) in float16. A row's reference is LEAD below some earlier
// maximum, and is raised, and its output scaled, only when a score exceeds it by HEADROOM, beyond
// which a weight would overflow: seldom after the first tile. Scaling rows takes the output
// through workgroup memory.
//
// Tiles that not every row sees whole come first, then the others, whose code has no masks.
// Weights of forbidden keys are 0, but 0 · NaN is NaN: in the former, values that are not finite
// are staged as 0, and added to the rows that see them at the end, by a rare path.
//
// Workgroup memory, in units of 16 bytes: keys and values a row after another; scores and weights
// with the subgroups' blocks side by side, so a row of each:
//   | subgroup 0's: KEYS / 4 of scores, or KEYS / 8 of weights | subgroup 1's | … | padding |
// which at depth 128 takes 22 KB with 4 subgroups and 34 KB with 8 (matrixBytes). Padding keeps
// neighbouring rows in different banks. Offsets of matrices must be provably in bounds: else the
// checks that WebGPU adds make their strides dynamic, and compilers load them half by half. With
// blocks side by side, powers of two long, the bits of an offset suffice for a proof.
//
// A split, a share of the tile's keys, leaves partials for merge.wgsl.ts, as in prefill.wgsl.ts.
//
// Grid: row tiles × key/value heads × batches × splits, folded into two axes (prefillGrid).
//
// Adapters: subgroup matrices with float16 operands and float32 results, subgroups of one size.

/** The shape of a workgroup's tile. */
export interface MatrixTile {
  /** Subgroups of the workgroup, a power of 2. */
  readonly subgroups: number;
  /** Lanes of a subgroup. */
  readonly lanes: number;
  /** Matrices of rows that a subgroup owns. */
  readonly matrices: number;
  /** Keys of a tile. */
  readonly keys: number;
  /** The product that is used. */
  readonly shape: Pick<MatrixShape, "M" | "N" | "K">;
}

/** Elements in 16 bytes. */
const halves = 8;
const floats = 4;

/** Query rows of a tile. */
export const matrixRows = ({ subgroups, matrices, shape }: MatrixTile): number =>
  subgroups * matrices * shape.M;

function sizes(tile: MatrixTile, depth: number, valueDepth: number) {
  const { subgroups, lanes, matrices, keys, shape } = tile;
  const groupRows = matrices * shape.M;
  const scoreBlock = keys / floats;
  const weightBlock = keys / halves;
  // Of paddings from 1 on, the first with which the bits of every offset bound it.
  const scoreStride = subgroups * scoreBlock + (matrices === 1 ? 2 : 1);
  const weightStride = subgroups * weightBlock + 1;
  const keyStride = depth / halves + 1;
  const valueStride = valueDepth / halves + 1;
  return {
    rows: matrixRows(tile),
    groupRows,
    lanes: subgroups * lanes,
    lanesPerRow: lanes / groupRows,
    scoreBlock,
    weightBlock,
    scoreStride,
    weightStride,
    keyStride,
    valueStride,
    scores: groupRows * scoreStride,
    weights: groupRows * weightStride,
    keyUnits: keys * keyStride,
    valueUnits: keys * valueStride,
  };
}

/** Bytes of workgroup memory that a tile takes. */
export function matrixBytes(tile: MatrixTile, depth: number, valueDepth: number): number {
  const { scores, weights, keyUnits, valueUnits } = sizes(tile, depth, valueDepth);
  return 16 * (scores + weights + keyUnits + valueUnits) + 8;
}

/**
 * The tile for a problem, or what the problem or the device lacks.
 *
 * Measured on an H100 through Dawn, where all workgroups on a multiprocessor share 52 KB: tiles of
 * 16 keys leave room for a second workgroup, or for 8 subgroups; 32 keys took twice as long. Batch
 * 1, 32 heads, 4096 queries and keys, depth 128: 8 subgroups 1201 µs, 4 subgroups 1325; depth 64
 * 1208 and 659; causal, with heads in turn, 796 and 739, since more of a larger tile is masked.
 */
export function matrixTile(
  problem: AttentionProblem,
  { float16, subgroups, matrixShapes, invocations, workgroupBytes }: Capabilities,
): MatrixTile | string {
  const { dtype, mask, softmaxDtype = "float32", scale, softcap, strides } = problem;
  const { depth, valueDepth, batch, queryHeads, kvHeads, queries, causal, window } = problem;
  if (dtype !== "float16") return "float16 tensors";
  if (mask) return "no mask";
  if (softmaxDtype !== "float32") return "a float32 softmax";
  if (softcap === 0 && scale < 0) return "a scale of 0 or more";
  const longest = Math.max(depth, valueDepth);
  if (depth % 16 !== 0 || valueDepth % 16 !== 0 || longest > 128)
    return "depths that are multiples of 16 up to 128";
  const aligned = ({ batch, head, row }: RowStrides) =>
    [batch, head, row].every((stride) => stride % halves === 0);
  if (!Object.values(strides).every(aligned)) return "strides that are multiples of 8";
  if (!float16 || !subgroups || subgroups.min !== subgroups.max)
    return "the features shader-f16 and subgroups, of one size";
  const lanes = subgroups.max;
  const shape = matrixShapes
    .filter(({ component, result }) => component === "f16" && result === "f32")
    .filter(({ M, N, K }) => K === 16 && N <= 16 && lanes % M === 0)
    .sort((a, b) => a.N - b.N)[0];
  if (!shape) return "subgroup matrices of M×16 by 16×8 or 16×16, float16 to float32";

  // A lane's share of queries and output must fit its registers: 192 of 255 words at depth 128.
  const matrices = Math.min(2, lanes / shape.M);
  const tile = { lanes, matrices, keys: 16, shape };
  const rows = (queryHeads / kvHeads) * queries;
  const large = { ...tile, subgroups: 8 };
  const grid = Math.ceil(rows / (8 * matrices * shape.M)) * kvHeads * batch;
  const all = !causal && window[0] < 0 && window[1] < 0;
  const chosen = all && grid >= 512 && longest > 64 ? large : { ...tile, subgroups: 4 };
  if (invocations < chosen.subgroups * lanes) return `${chosen.subgroups * lanes} invocations`;
  const bytes = matrixBytes(chosen, depth, valueDepth);
  if (workgroupBytes < bytes) return `${bytes} bytes of workgroup memory`;
  return chosen;
}

const textOf = remembered(matrixText);

const tensors = {
  query: "read",
  key: "read",
  value: "read",
  kvLengths: "read?",
  output: "write?",
  lse: "write?",
  partials: "write?",
  statistics: "write?",
} as const;

/** The prefill kernel on matrix units. Takes what {@link matrixTile} has a tile for. */
export const attentionPrefillMatrix = defineKernel<
  typeof tensors,
  {
    readonly problem: AttentionProblem;
    readonly tile: MatrixTile;
    readonly splits: number;
    readonly variant: string;
  }
>({
  name: "attention_prefill_matrix",
  tensors,
  uniforms: prefillUniforms,
  webgpu({ tensors: { lse, partials, statistics }, parameters, capabilities }) {
    const { problem, tile, splits, variant } = parameters;
    const { depth, valueDepth } = problem;
    const { workgroups, uniforms } = prefillGrid(problem, matrixRows(tile), splits, capabilities);
    return {
      wgsl: textOf(kernelFlags(problem), tile, {
        partials: partials !== undefined,
        lse: lse !== undefined,
        statistics: statistics !== undefined,
      }),
      variant,
      workgroups,
      uniforms: { ...problemUniforms(problem, true), ...uniforms },
      workgroupBytes: matrixBytes(tile, depth, valueDepth),
    };
  },
});

/** The module's text. */
export function matrixText(flags: KernelFlags, tile: MatrixTile, extras: SplitExtras = {}): string {
  const { depth, valueDepth, softcap } = flags;
  const { M, N, K } = tile.shape;
  const split = extras.partials === true;
  const size = sizes(tile, depth, valueDepth);
  const matrices = (statement: (m: number) => string) => each(tile.matrices, statement, " ");

  // The matrix phase.
  const columns = valueDepth / N;
  const addWeightedValues = each(
    tile.keys / K,
    (k) => `{
    ${matrices((m) => `let p${m} = subgroupMatrixLoad<Left, row_major>(&weights, weight_block + ${m * M}u * WEIGHT_STRIDE + ${(k * K) / halves}u, WEIGHT_STRIDE);`)}
    ${each(
      columns,
      (n) =>
        `{ let v = subgroupMatrixLoad<Right, row_major>(&values, ${k * K}u * VALUE_STRIDE + ${(n * N) / halves}u, VALUE_STRIDE); ${matrices((m) => `o${m}_${n} = subgroupMatrixMultiplyAccumulate(p${m}, v, o${m}_${n});`)} }`,
      "\n    ",
    )}
  }`,
    "\n  ",
  );
  // As many at a time as make 16 keys: more would not fit the registers.
  const keyMatrices = 16 / N;
  const computeScores = each(
    tile.keys / 16,
    (group) => `{
    ${each(keyMatrices, (n) => matrices((m) => `var s${m}_${n} = Result(0.0);`), " ")}
    ${each(
      depth / K,
      (k) =>
        `{ ${each(keyMatrices, (n) => `let k${n} = subgroupMatrixLoad<Right, col_major>(&keys, ${group * 16 + n * N}u * KEY_STRIDE + ${(k * K) / halves}u, KEY_STRIDE); ${matrices((m) => `s${m}_${n} = subgroupMatrixMultiplyAccumulate(q${m}_${k}, k${n}, s${m}_${n});`)}`, " ")} }`,
      "\n    ",
    )}
    ${each(keyMatrices, (n) => matrices((m) => `subgroupMatrixStore<row_major>(&scores, score_block + ${m * M}u * SCORE_STRIDE + ${(group * 16 + n * N) / floats}u, s${m}_${n}, SCORE_STRIDE);`), "\n    ")}
  }`,
    "\n  ",
  );

  // The vector phase.
  const quads = tile.keys / floats / size.lanesPerRow;
  const everyQuad = (statement: (quad: number) => string) => each(quads, statement, "\n  ");
  const join = (operator: (a: string, b: string) => string, names: string[]): string =>
    names.length === 1
      ? names[0]!
      : operator(
          join(operator, names.slice(0, names.length / 2)),
          join(operator, names.slice(names.length / 2)),
        );
  const named = (prefix: string) => Array.from({ length: quads }, (_, quad) => prefix + quad);
  const acrossLanes = (name: string, operator: (a: string, b: string) => string) =>
    each(
      Math.log2(size.lanesPerRow),
      (bit) => `${name} = ${operator(name, `subgroupShuffleXor(${name}, ${2 ** bit}u)`)};`,
      " ",
    );
  const maximum = (a: string, b: string) => `max(${a}, ${b})`;
  const total = (a: string, b: string) => `(${a} + ${b})`;
  const weigh = (partial: boolean) => `
  ${everyQuad((quad) => `var s${quad} = bitcast<vec4<f32>>(scores[score_place + ${quad}u]);`)}
  ${softcap ? everyQuad((quad) => `s${quad} = softcapped(s${quad} * uniforms.scoreScale);`) : ""}
  ${
    partial
      ? `let position = offset + i32(row % uniforms.queries);
  let first = first_key(position) - tile - i32(part * ${quads * floats}u);
  let beyond = end_key(position, limit) - tile - i32(part * ${quads * floats}u);
  ${everyQuad((quad) => `let seen${quad} = in_range(${quad * floats}, first, beyond);`)}
  ${everyQuad((quad) => `s${quad} = select(vec4<f32>(FORBIDDEN), s${quad}, seen${quad});`)}`
      : ""
  }
  let peaks = ${join(maximum, named("s"))};
  var peak = max(max(peaks.x, peaks.y), max(peaks.z, peaks.w)) * scale;
  ${acrossLanes("peak", maximum)}
  let raise = peak > reference + HEADROOM;
  let reference_before = reference;
  reference = select(reference, peak - LEAD, raise);
  keep = exp2(reference_before - reference);
  if (raise && sum > 0.0) { atomicStore(&raised, 1u); }
  ${everyQuad((quad) => {
    const weight = `exp2(fma(s${quad}, vec4<f32>(scale), vec4<f32>(-reference)))`;
    return `let w${quad} = ${partial ? `select(vec4<f32>(), ${weight}, seen${quad})` : weight};`;
  })}
  let sums = ${join(total, named("w"))};
  sum = fma(sum, keep, (sums.x + sums.y) + (sums.z + sums.w));
  ${each(quads / 2, (unit) => `weights[weight_place + ${unit}u] = vec4<u32>(packed(w${2 * unit}), packed(w${2 * unit + 1}));`, "\n  ")}`;

  // Staging: a lane takes every LANES-th unit of a tile.
  const units = (rowUnits: number, statement: (i: number, guard: string) => string) => {
    const count = tile.keys * rowUnits;
    const guard = (i: number) =>
      (i + 1) * size.lanes > count ? `if (lane + ${i * size.lanes}u < ${count}u) ` : "";
    return each(Math.ceil(count / size.lanes), (i) => statement(i, guard(i)), "\n  ");
  };
  const rowOf = (i: number, name: string) => `(lane + ${i * size.lanes}u) / ${name}_UNITS`;
  const unitOf = (i: number, name: string) => `(lane + ${i * size.lanes}u) % ${name}_UNITS`;
  const fetchKeys = (first: string) =>
    units(
      depth / halves,
      (i) =>
        `let key_words${i} = key[key_head + (u32(${first}) + ${rowOf(i, "KEY")}) * key_row + ${unitOf(i, "KEY")}];`,
    );
  const stageKeys = units(
    depth / halves,
    (i, guard) =>
      `${guard}{ keys[${rowOf(i, "KEY")} * KEY_STRIDE + ${unitOf(i, "KEY")}] = key_words${i}; }`,
  );
  const fetchValues = units(
    valueDepth / halves,
    (i) =>
      `var value_words${i} = value[value_head + (u32(tile) + ${rowOf(i, "VALUE")}) * value_row + ${unitOf(i, "VALUE")}];`,
  );
  const cleanValues = units(
    valueDepth / halves,
    (i) =>
      `value_words${i} = cleaned(value_words${i}, tile + i32(${rowOf(i, "VALUE")}), begin, end);`,
  );
  const stageValues = units(
    valueDepth / halves,
    (i, guard) =>
      `${guard}{ values[${rowOf(i, "VALUE")} * VALUE_STRIDE + ${unitOf(i, "VALUE")}] = value_words${i}; }`,
  );

  const step = (partial: boolean, next: string) => `
  ${addWeightedValues}
  ${computeScores}
  workgroupBarrier();
  ${fetchKeys(next)}
  ${fetchValues}
  ${weigh(partial)}
  ${stageKeys}
  ${partial ? cleanValues : ""}
  ${stageValues}`;

  // The output goes through the memory of scores, as many columns at a time as there is room for.
  const inTurn = tile.keys / N;
  const turns = (statement: (turn: number, count: number) => string) =>
    each(
      Math.ceil(columns / inTurn),
      (turn) => statement(turn, Math.min(inTurn, columns - turn * inTurn)),
      "\n  workgroupBarrier();",
    );
  const place = (m: number, i: number) =>
    `score_block + ${m * M}u * SCORE_STRIDE + ${(i * N) / floats}u`;
  const putOutput = (turn: number, count: number) =>
    each(
      count,
      (i) =>
        matrices(
          (m) =>
            `subgroupMatrixStore<row_major>(&scores, ${place(m, i)}, o${m}_${turn * inTurn + i}, SCORE_STRIDE);`,
        ),
      "\n  ",
    );
  const getOutput = (turn: number, count: number) =>
    each(
      count,
      (i) =>
        matrices(
          (m) =>
            `o${m}_${turn * inTurn + i} = subgroupMatrixLoad<Result, row_major>(&scores, ${place(m, i)}, SCORE_STRIDE);`,
        ),
      "\n  ",
    );

  // So do the queries, a block's units of their depth at a time.
  const queryUnits = Math.min(depth / halves, size.scoreBlock);
  const loadQueries = each(Math.ceil(depth / halves / queryUnits), (turn) => {
    const first = turn * queryUnits;
    const count = Math.min(queryUnits, depth / halves - first);
    return `
  for (var i = lane; i < ROWS * ${count}u; i += LANES) {
    let tile_row = i / ${count}u;
    var words = vec4<u32>();
    if (first_row + tile_row < rows) {
      words = query[query_place(batch, kv_head, first_row + tile_row) / ${halves}u + ${first}u + i % ${count}u];
    }
    scores[tile_row % GROUP_ROWS * SCORE_STRIDE + tile_row / GROUP_ROWS * SCORE_BLOCK + i % ${count}u] = words;
  }
  workgroupBarrier();
  ${each((count * halves) / K, (k) => matrices((m) => `let q${m}_${(first * halves) / K + k} = subgroupMatrixLoad<Left, row_major>(&scores, score_block + ${m * M}u * SCORE_STRIDE + ${(k * K) / halves}u, SCORE_STRIDE);`), "\n  ")}
  workgroupBarrier();`;
  });

  return `
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
${bindings(
  tensors,
  {
    query: "vec4<u32>",
    key: "vec4<u32>",
    value: "vec4<u32>",
    kvLengths: flags.kvLengths ? "i32" : undefined,
    output: split ? undefined : "vec4<u32>",
    lse: extras.lse ? "f32" : undefined,
    partials: split ? "vec4<f32>" : undefined,
    statistics: extras.statistics ? "vec2<f32>" : undefined,
  },
  prefillUniforms,
)}
${positions(flags)}
${prefillPlace}
${queryPlace}
${scoreUnits(false)}
${scoreFunctions(flags)}

const LANES = ${size.lanes}u;
const ROWS = ${size.rows}u;
const GROUP_ROWS = ${size.groupRows}u;
const LANES_PER_ROW = ${size.lanesPerRow}u;
const KEYS = ${tile.keys};
const KEY_UNITS = ${depth / halves}u;
const VALUE_UNITS = ${valueDepth / halves}u;
const KEY_STRIDE = ${size.keyStride}u;
const VALUE_STRIDE = ${size.valueStride}u;
const SCORE_BLOCK = ${size.scoreBlock}u;
const SCORE_STRIDE = ${size.scoreStride}u;
const WEIGHT_BLOCK = ${size.weightBlock}u;
const WEIGHT_STRIDE = ${size.weightStride}u;
const SPREAD = 5;
const HEADROOM = 15.0; // 2^15 is the largest power of two in float16
const LEAD = 7.0;

alias Left = subgroup_matrix_left<f16, ${K}, ${M}>;
alias Right = subgroup_matrix_right<f16, ${N}, ${K}>;
alias Result = subgroup_matrix_result<f32, ${N}, ${M}>;

var<workgroup> keys: array<vec4<u32>, ${size.keyUnits}>;
var<workgroup> values: array<vec4<u32>, ${size.valueUnits}>;
var<workgroup> scores: array<vec4<u32>, ${size.scores}>;
var<workgroup> weights: array<vec4<u32>, ${size.weights}>; // zeros at first, as WGSL promises
/// Set when a row that has weights raised its reference.
var<workgroup> raised: atomic<u32>;
/// Set once a value that is not finite was staged as 0.
var<workgroup> not_finite_values: atomic<u32>;

fn in_range(key: i32, first: i32, beyond: i32) -> vec4<bool> {
  let keys = vec4<i32>(key) + vec4<i32>(0, 1, 2, 3);
  return (keys >= vec4<i32>(first)) & (keys < vec4<i32>(beyond));
}
fn packed(values: vec4<f32>) -> vec2<u32> {
  return vec2<u32>(pack2x16float(values.xy), pack2x16float(values.zw));
}
fn unpacked(words: vec2<u32>) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}
/// The halves that are NaN or ±∞; 0 for the others.
fn not_finite(words: vec4<u32>) -> vec4<u32> {
  let low = vec4<u32>(0x7c00u);
  let high = vec4<u32>(0x7c000000u);
  return words & (select(vec4<u32>(), vec4<u32>(0xffffu), (words & low) == low)
    | select(vec4<u32>(), vec4<u32>(0xffff0000u), (words & high) == high));
}
/// Values to stage of a tile that not every row sees whole: none of keys that no row sees.
fn cleaned(words: vec4<u32>, key: i32, begin: i32, end: i32) -> vec4<u32> {
  if (key < begin || key >= end) { return vec4<u32>(); }
  let removed = not_finite(words);
  if (any(removed != vec4<u32>())) { atomicStore(&not_finite_values, 1u); }
  return words ^ removed;
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) invocation: u32,
) {
  ${prefillNumber(split)}
  let row_tile = row_tile_and_head(number).x;
  let head_of_all = row_tile_and_head(number).y;
  let first_row = row_tile * ROWS;
  let kv_head = head_of_all % uniforms.kvHeads;
  let batch = head_of_all / uniforms.kvHeads;
  let group_heads = uniforms.queryHeads / uniforms.kvHeads;
  let rows = group_heads * uniforms.queries;
  let last_row = min(first_row + ROWS, rows) - 1u;
  let key_head = (batch * uniforms.keyBatch + kv_head * uniforms.keyHead) / ${halves}u;
  let value_head = (batch * uniforms.valueBatch + kv_head * uniforms.valueHead) / ${halves}u;
  let key_row = uniforms.keyRow / ${halves}u;
  let value_row = uniforms.valueRow / ${halves}u;

  let lane = subgroup * ${tile.lanes}u + invocation;
  let block = subgroup & ${tile.subgroups - 1}u; // the mask proves offsets to be in bounds
  let score_block = block * SCORE_BLOCK;
  let weight_block = block * WEIGHT_BLOCK;
  let part = invocation % LANES_PER_ROW;
  let block_row = invocation / LANES_PER_ROW;
  let score_place = block_row * SCORE_STRIDE + score_block + part * ${quads}u;
  let weight_place = block_row * WEIGHT_STRIDE + weight_block + part * ${quads / 2}u;
  let lane_row = first_row + block * GROUP_ROWS + block_row;
  let row = min(lane_row, rows - 1u);
  let scale = ${softcap ? "1.0" : "uniforms.scoreScale"};

  // The keys that some row sees, from \`begin\` on in tiles; which of them every row sees whole.
  let offset = position_offset(batch);
  let limit = key_limit(batch);
  let one_head = first_row / uniforms.queries == last_row / uniforms.queries;
  let first_position = offset + i32(select(0u, first_row % uniforms.queries, one_head));
  let last_position = offset + i32(select(uniforms.queries - 1u, last_row % uniforms.queries, one_head));
  ${prefillKeys(split, "KEYS")}
  let tiles = (max(0, end - begin) + KEYS - 1) / KEYS;
  let whole_begin = clamp((first_key(last_position) - begin + KEYS - 1) / KEYS, 0, tiles);
  let whole_end = clamp((end_key(first_position, limit) - begin) / KEYS, whole_begin, tiles);
  let partial_tiles = tiles - (whole_end - whole_begin);
  let whole_first = begin + whole_begin * KEYS;
  let whole_beyond = begin + whole_end * KEYS;
  // Each row tile starts with another of the whole ones and comes round to the first: workgroups that
  // run side by side, row tiles of a head, then read different keys (H100: 1183 µs against 1203).
  var whole = whole_first + i32(row_tile) * SPREAD % max(1, whole_end - whole_begin) * KEYS;
  ${loadQueries}
  ${matrices((m) => each(columns, (n) => `var o${m}_${n} = Result(0.0);`, " "))}
  var reference = LOWEST;
  var sum = 0.0;
  var keep = 1.0; // what the output is to be scaled by
  {
    let first = select(whole, begin + select(0, whole_end * KEYS, whole_begin == 0), partial_tiles > 0);
  ${fetchKeys("first")}
  ${stageKeys}
  }
  workgroupBarrier();

  var turn = 0;
  while (turn < tiles) {
    var scales = 0u;
    if (turn < partial_tiles) {
      // Those before the whole ones, then those after.
      let skipped = whole_end - whole_begin;
      let tile = begin + (turn + select(0, skipped, turn >= whole_begin)) * KEYS;
      let after = turn + 1 + select(0, skipped, turn + 1 >= whole_begin);
      let next = select(whole, begin + after * KEYS, turn + 1 < partial_tiles);
      ${step(true, "next")}
      scales = workgroupUniformLoad(&raised);
      turn++;
    } else {
      while (turn < tiles && scales == 0u) {
        let tile = whole;
        whole = select(whole + KEYS, whole_first, whole + KEYS == whole_beyond);
        ${step(false, "whole")}
        scales = workgroupUniformLoad(&raised);
        turn++;
      }
    }
    if (scales != 0u) {
      if (lane == 0u) { atomicStore(&raised, 0u); }
      ${turns(
        (turn, count) => `
  ${putOutput(turn, count)}
  workgroupBarrier();
  for (var i = score_place; i < score_place + ${quads}u; i++) {
    scores[i] = bitcast<vec4<u32>>(bitcast<vec4<f32>>(scores[i]) * keep);
  }
  workgroupBarrier();
  ${getOutput(turn, count)}`,
      )}
      workgroupBarrier();
    }
  }
  ${addWeightedValues}

  ${acrossLanes("sum", total)}
  ${split ? "" : "let inverse = select(1.0 / sum, 0.0, sum <= 0.0);"}
  let head = kv_head * group_heads + row / uniforms.queries;
  let head_row = row % uniforms.queries;
  ${
    split
      ? `let result_row = ((batch * uniforms.queryHeads + head) * uniforms.queries + head_row) * uniforms.splits + split;
  let partials_place = result_row * ${valueDepth / floats}u;`
      : `let output_place = (batch * uniforms.outputBatch + head * uniforms.outputHead
    + head_row * uniforms.outputRow) / ${halves}u;`
  }
  ${turns(
    (turn, count) => `
  ${putOutput(turn, count)}
  workgroupBarrier();
  if (lane_row < rows) {
    for (var unit = part; unit < ${(count * N) / halves}u; unit += LANES_PER_ROW) {
      let place = block_row * SCORE_STRIDE + score_block + 2u * unit;
      ${
        split
          ? `let at = partials_place + ${(turn * tile.keys) / floats}u + 2u * unit;
      partials[at] = bitcast<vec4<f32>>(scores[place]);
      partials[at + 1u] = bitcast<vec4<f32>>(scores[place + 1u]);`
          : `output[output_place + ${(turn * tile.keys) / halves}u + unit] = vec4<u32>(
        packed(bitcast<vec4<f32>>(scores[place]) * inverse),
        packed(bitcast<vec4<f32>>(scores[place + 1u]) * inverse));`
      }
    }
  }`,
  )}
  if (lane_row < rows && part == 0u) {
    ${split ? "" : "let result_row = (batch * uniforms.queryHeads + head) * uniforms.queries + head_row;"}
    ${rowExtras(extras, "result_row", "reference", "sum")}
  }

  // A value that is not finite leaves nothing else of the element of every row that sees it.
  if (workgroupUniformLoad(&not_finite_values) != 0u && lane_row < rows) {
    let position = offset + i32(head_row);
    for (var unit = 0u; unit < VALUE_UNITS; unit++) {
      if (unit % (SCORE_BLOCK / 2u) % LANES_PER_ROW != part) { continue; } // another lane's
      ${
        split
          ? `let at = partials_place + 2u * unit;
      var words: vec4<u32>;
      var low = partials[at];
      var high = partials[at + 1u];`
          : `var words = output[output_place + unit];
      var low = unpacked(words.xy);
      var high = unpacked(words.zw);`
      }
      for (var k = ${split ? "max(begin, first_key(position))" : "first_key(position)"}; k < ${split ? "min(end, end_key(position, limit))" : "end_key(position, limit)"}; k++) {
        let tile = (k - begin) / KEYS;
        if (tile >= whole_begin && tile < whole_end) { continue; }
        words = not_finite(value[value_head + u32(k) * value_row + unit]);
        low += unpacked(words.xy);
        high += unpacked(words.zw);
      }
      ${
        split
          ? `partials[at] = low;
      partials[at + 1u] = high;`
          : "output[output_place + unit] = vec4<u32>(packed(low), packed(high));"
      }
    }
  }
}`;
}
