import type { Capabilities } from "../../devices/capabilities.ts";
import { type Access, foldWorkgroups, type UniformType } from "../../devices/kernel.ts";
import type { AttentionDType, AttentionProblem, RowStrides } from "./problem.ts";

// WGSL that the attention kernels share: bindings, loads and stores of each dtype, the rules that
// forbid keys, and the arithmetic of a score. Nothing here depends on a length.
//
// Scores are held in units of log₂ e, so that a weight is one exp2; where a mask is added, which
// may hold numbers down to float32's lowest, in a quarter of that. Two finite numbers stand in for
// −∞, which WGSL cannot spell and compilers may assume away:
//   FORBIDDEN  the score of a key that must not be seen;
//   LOWEST     below every score of a key that may be seen: where running maxima begin.
// The exponential of FORBIDDEN − maximum is 0 for every maximum, and a row that saw no key keeps a
// sum of 0.
//
// NaN must come through, but exp2, log2 and max need not let it (SwiftShader's do not): rows
// remember whether one went into exp2. The test is !(x == x): in WGSL x != x is false for NaN too.

/** A loop over `name` from 0 to `count` − 1; written out where `unrolled`. */
export function loop(name: string, count: number, unrolled: boolean, body: string): string {
  return unrolled
    ? each(count, (i) => `{ let ${name} = ${i}u;${body}\n}`, " ")
    : `for (var ${name} = 0u; ${name} < ${count}u; ${name}++) {${body}\n}`;
}

/** The text of `count` statements, `statement(0)` first. */
export function each(count: number, statement: (i: number) => string, separator = "\n"): string {
  return Array.from({ length: count }, (_, i) => statement(i)).join(separator);
}

/** The function `write`, with what it wrote kept: a load with named dimensions asks hundreds of times. */
export function remembered<A extends readonly unknown[]>(
  write: (...about: A) => string,
): (...about: A) => string {
  const texts = new Map<string, string>();
  return (...about) => {
    const key = JSON.stringify(about);
    let text = texts.get(key);
    if (text === undefined) {
      if (texts.size === mostRemembered) texts.clear();
      text = write(...about);
      texts.set(key, text);
    }
    return text;
  };
}

/** Some megabytes. */
const mostRemembered = 100;

/** What changes a kernel's text beside its tiles: taken from a problem, without its lengths. */
export interface KernelFlags {
  readonly dtype: AttentionDType;
  readonly depth: number;
  readonly valueDepth: number;
  /** Elements that one load takes of a query, key, value row, and one store of an output row. */
  readonly widths: {
    readonly query: Width;
    readonly key: Width;
    readonly value: Width;
    readonly output: Width;
  };
  readonly mask: "none" | "bool" | AttentionDType;
  readonly kvLengths: boolean;
  readonly softcap: boolean;
  /** The dtype that the softmax's input is rounded to; float32 is no rounding. */
  readonly softmaxDtype: AttentionDType;
}

/** Neighbouring elements in one load: 1 and 4 of any dtype, 8 of a half dtype. */
export type Width = 1 | 4 | 8;

/** The widest load that rows of `length` elements at these strides allow. */
export function loadWidth(dtype: AttentionDType, length: number, strides: RowStrides): Width {
  const fits = (width: number) =>
    [length, strides.batch, strides.head, strides.row].every((n) => n % width === 0);
  if (dtype !== "float32" && fits(8)) return 8;
  return fits(4) ? 4 : 1;
}

/**
 * The flags of a problem.
 *
 * @param widest The widest loads that the kernel has a use for.
 */
export function kernelFlags(problem: AttentionProblem, widest: Width = 8): KernelFlags {
  const { dtype, depth, valueDepth, strides } = problem;
  const width = (length: number, of: RowStrides) =>
    Math.min(widest, loadWidth(dtype, length, of)) as Width;
  return {
    dtype,
    depth,
    valueDepth,
    widths: {
      query: width(depth, strides.query),
      key: width(depth, strides.key),
      value: width(valueDepth, strides.value),
      output: width(valueDepth, strides.output),
    },
    mask: (problem.mask?.dtype as KernelFlags["mask"] | undefined) ?? "none",
    kvLengths: problem.kvLengths,
    softcap: problem.softcap > 0,
    softmaxDtype: problem.softmaxDtype ?? "float32",
  };
}

/** Whether scores are held in quarters: {@link scoreUnits}. */
export const inQuarters = (mask: string | undefined): boolean =>
  mask !== undefined && mask !== "none" && mask !== "bool";

/**
 * The units of scores, and what leads out of them.
 *
 *     fn exponential(x: f32) -> f32                 e to the power of a difference of scores
 *     fn exponentials(x: vec4<f32>) -> vec4<f32>
 *     fn log_sum(maximum: f32, sum: f32) -> f32     the natural log of e^maximum · sum
 */
export const scoreUnits = (quarters: boolean): string => `
const FORBIDDEN = -2.0e38;
const LOWEST = -1.3e38;
const LOG2_E = ${Math.LOG2E};
const LN_2 = ${Math.LN2};

fn exponential(x: f32) -> f32 { return exp2(${quarters ? "4.0 * x" : "x"}); }
fn exponentials(x: vec4<f32>) -> vec4<f32> { return exp2(${quarters ? "4.0 * x" : "x"}); }

fn negative_infinity() -> f32 {
  var bits = 0xff800000u; // a variable: as a constant it would be refused
  return bitcast<f32>(bits);
}
fn not_a_number() -> f32 {
  var bits = 0x7fc00000u;
  return bitcast<f32>(bits);
}
fn log_sum(maximum: f32, sum: f32) -> f32 {
  let log = max(maximum * ${quarters ? "(4.0 * LN_2)" : "LN_2"} + log2(sum) * LN_2, -3.4028234e38);
  return select(select(log, negative_infinity(), sum <= 0.0), sum, !(sum == sum));
}`;

/** What a kernel leaves of a row beside its output. */
export interface RowExtras {
  /** Its log-sum-exp. */
  readonly lse?: boolean;
  /** Its maximum, in the units of scores, and the sum of its weights. */
  readonly statistics?: boolean;
}

/**
 * What a kernel that may take a split, a share of the keys, leaves of a row. Of a split, for merge.wgsl.ts:
 *
 *     partials    [rows, splits, 4 · ceil(valueDepth / 4)] float32: Σ weight · value, not divided
 *     statistics  [rows, splits, 2] float32: the maximum (in the units of scores) and Σ weight
 *
 * with row = (batch · queryHeads + head) · queries + query.
 */
export interface SplitExtras extends RowExtras {
  /** Partials instead of an output. */
  readonly partials?: boolean;
}

/** Statements that write the extras of `row`. */
export const rowExtras = (
  { lse, statistics }: RowExtras,
  row: string,
  maximum: string,
  sum: string,
): string =>
  [
    lse ? `lse[${row}] = log_sum(${maximum}, ${sum});` : "",
    statistics ? `statistics[${row}] = vec2<f32>(${maximum}, ${sum});` : "",
  ].join(" ");

/** The uniforms of every kernel that reads queries and keys. */
export const attentionUniforms = {
  gridWidth: "u32",
  workgroups: "u32",
  rowTiles: "u32",
  splits: "u32",
  queryHeads: "u32",
  kvHeads: "u32",
  queries: "u32",
  keys: "u32",
  keyLimit: "i32",
  past: "i32",
  left: "i32",
  right: "i32",
  queryBatch: "u32",
  queryHead: "u32",
  queryRow: "u32",
  keyBatch: "u32",
  keyHead: "u32",
  keyRow: "u32",
  valueBatch: "u32",
  valueHead: "u32",
  valueRow: "u32",
  outputBatch: "u32",
  outputHead: "u32",
  outputRow: "u32",
  maskBatch: "u32",
  maskHead: "u32",
  maskQuery: "u32",
  maskKey: "u32",
  scoreScale: "f32",
  softcapScale: "f32",
} as const satisfies Record<string, UniformType>;

/** A side of the window that is open: beyond every key, and far from overflow. */
const open = 2 ** 30;

/**
 * The values of {@link attentionUniforms} but for the grid.
 *
 * @param logarithmic Whether scores are wanted in the units of {@link scoreUnits}; else in their
 *   own.
 */
export function problemUniforms(problem: AttentionProblem, logarithmic: boolean) {
  const { strides, mask, window, softcap, scale } = problem;
  const side = (width: number) => (width < 0 ? open : Math.min(width, open));
  // Rounding wants scores in their own units.
  const rounds = problem.softmaxDtype !== undefined && problem.softmaxDtype !== "float32";
  const quarter = inQuarters(mask?.dtype) ? 0.25 : 1;
  const unit = logarithmic ? (rounds ? 1 : Math.LOG2E) * quarter : 1;
  return {
    queryHeads: problem.queryHeads,
    kvHeads: problem.kvHeads,
    queries: problem.queries,
    keys: problem.keys,
    keyLimit: Math.min(problem.keys, mask?.keys ?? problem.keys),
    past: problem.past,
    left: side(window[0]),
    right: problem.causal ? 0 : side(window[1]),
    queryBatch: strides.query.batch,
    queryHead: strides.query.head,
    queryRow: strides.query.row,
    keyBatch: strides.key.batch,
    keyHead: strides.key.head,
    keyRow: strides.key.row,
    valueBatch: strides.value.batch,
    valueHead: strides.value.head,
    valueRow: strides.value.row,
    outputBatch: strides.output.batch,
    outputHead: strides.output.head,
    outputRow: strides.output.row,
    maskBatch: mask?.strides.batch ?? 0,
    maskHead: mask?.strides.head ?? 0,
    maskQuery: mask?.strides.query ?? 0,
    maskKey: mask?.strides.key ?? 0,
    // Folded into the query. Under a softcap the dot product is what tanh is taken of.
    scoreScale: softcap > 0 ? scale / softcap : scale * unit,
    softcapScale: softcap * unit,
  };
}

/** The uniforms of the prefill kernels. */
export const prefillUniforms = { ...attentionUniforms, headsAtOnce: "u32" } as const;

/**
 * The grid of a prefill, row tiles × key/value heads × batches × splits, folded into two axes, and its
 * uniforms, `workgroups` those of one split.
 *
 * Workgroups start in the order of their numbers. Where all row tiles see the same keys, a head's follow
 * one another. Else 8 heads take turns, those of their row tiles first that have most to do: long ones
 * that start last are waited for. (H100, float16, 32 heads, 4096 queries, causal: 718 µs; 855 a head at a
 * time, 841 by 4, 726 by 16, 736 all 32, whose keys and values no cache holds.)
 */
export function prefillGrid(
  { batch, queryHeads, kvHeads, queries, causal, window }: AttentionProblem,
  rows: number,
  splits: number,
  capabilities: Capabilities,
) {
  const rowTiles = Math.ceil(((queryHeads / kvHeads) * queries) / rows);
  const heads = kvHeads * batch;
  const workgroups = rowTiles * heads;
  const [x, y] = foldWorkgroups(workgroups * splits, capabilities);
  const alike = !causal && window[0] < 0 && window[1] < 0;
  const headsAtOnce = alike ? 1 : Math.min(8, heads);
  return {
    workgroups: [x, y, 1] as const,
    uniforms: { gridWidth: x, workgroups, rowTiles, headsAtOnce, splits },
  };
}

/**
 * A workgroup's place among those of a split: {@link prefillGrid}.
 *
 *     fn row_tile_and_head(number: u32) -> vec2<u32>    heads of all batches count on
 */
export const prefillPlace = `
fn row_tile_and_head(number: u32) -> vec2<u32> {
  let block = uniforms.rowTiles * uniforms.headsAtOnce;
  let first_head = number / block * uniforms.headsAtOnce;
  let heads = min(uniforms.headsAtOnce, uniforms.workgroups / uniforms.rowTiles - first_head);
  let place = number % block;
  return vec2<u32>(uniforms.rowTiles - 1u - place / heads, first_head + place % heads);
}`;

/** Statements that find the `number` of a workgroup of {@link prefillGrid}, and its `split`. */
export const prefillNumber = (split: boolean): string =>
  split
    ? `let number_of_all = workgroup.y * uniforms.gridWidth + workgroup.x;
  if (number_of_all >= uniforms.workgroups * uniforms.splits) { return; }
  let number = number_of_all % uniforms.workgroups;
  let split = number_of_all / uniforms.workgroups;`
    : `let number = workgroup.y * uniforms.gridWidth + workgroup.x;
  if (number >= uniforms.workgroups) { return; }`;

/**
 * Statements that find the keys `begin` … `end` that some row of a tile sees, or a split's share of them.
 *
 * @param tileKeys Keys of a tile, a WGSL expression: all shares but the last are whole tiles.
 */
export const prefillKeys = (split: boolean, tileKeys: string): string =>
  split
    ? `let begin_of_all = first_key(first_position);
  let end_of_all = end_key(last_position, limit);
  let tiles_of_all = (max(0, end_of_all - begin_of_all) + ${tileKeys} - 1) / ${tileKeys};
  let share = (tiles_of_all + i32(uniforms.splits) - 1) / i32(uniforms.splits) * ${tileKeys};
  let begin = begin_of_all + i32(split) * share;
  let end = min(end_of_all, begin + share);`
    : `let begin = first_key(first_position);
  let end = end_key(last_position, limit);`;

/**
 * Where a query row of a key/value head's group begins, in elements; rows of all its heads count on.
 *
 *     fn query_place(batch: u32, kv_head: u32, row: u32) -> u32
 */
export const queryPlace = `
fn query_place(batch: u32, kv_head: u32, row: u32) -> u32 {
  let head = kv_head * (uniforms.queryHeads / uniforms.kvHeads) + row / uniforms.queries;
  return batch * uniforms.queryBatch + head * uniforms.queryHead + row % uniforms.queries * uniforms.queryRow;
}`;

/**
 * The bindings of group 0: the tensors present, in the order of `tensors`, then the uniforms.
 *
 * @param elements WGSL element type of each tensor that is present.
 */
export function bindings(
  tensors: Readonly<Record<string, Access>>,
  elements: Readonly<Record<string, string | undefined>>,
  uniforms: Readonly<Record<string, UniformType>>,
): string {
  const present = Object.keys(tensors).filter((name) => elements[name] !== undefined);
  const fields = Object.entries(uniforms).map(([name, type]) => `${name}: ${type}`);
  return `
${present
  .map((name, binding) => {
    const access = tensors[name] === "read" || tensors[name] === "read?" ? "read" : "read_write";
    return `@group(0) @binding(${binding}) var<storage, ${access}> ${name}: array<${elements[name]}>;`;
  })
  .join("\n")}

struct Uniforms {
  ${fields.join(",\n  ")}
}
@group(0) @binding(${present.length}) var<uniform> uniforms: Uniforms;
`;
}

const bothHalves = (dtype: AttentionDType, word: string): string =>
  dtype === "float16"
    ? `unpack2x16float(${word})`
    : `vec2<f32>(bitcast<f32>(${word} << 16u), bitcast<f32>(${word} & 0xffff0000u))`;

/** Two halves packed in each word of `words`, a `vec2<u32>`, widened to four floats. */
const fourHalves = (dtype: AttentionDType, words: string): string =>
  `vec4<f32>(${bothHalves(dtype, `${words}.x`)}, ${bothHalves(dtype, `${words}.y`)})`;

/** One half of `array: array<u32>` at `element`, widened. */
const oneHalf = (dtype: AttentionDType, array: string, element: string): string => {
  const bits = `((${array}[(${element}) >> 1u] >> (((${element}) & 1u) * 16u)) & 0xffffu)`;
  return dtype === "float16" ? `unpack2x16float(${bits}).x` : `bitcast<f32>(${bits} << 16u)`;
};

/** The WGSL element type of a tensor read `width` elements at a time. */
export function loadType(dtype: AttentionDType, width: Width): string {
  if (dtype === "float32") return width === 1 ? "f32" : "vec4<f32>";
  return { 1: "u32", 4: "vec2<u32>", 8: "vec4<u32>" }[width];
}

/**
 * Loads of a tensor in quads: four neighbouring elements of a row, widened. What lies beyond a row
 * of `length` elements is 0.
 *
 *     fn load_NAME(row: u32, quad: u32) -> vec4<f32>
 *
 * `row` is the element at which the row begins. With a width of 8 a second function takes two quads in
 * one load, for the caller to widen when it needs them:
 *
 *     fn fetch_NAME(row: u32, unit: u32) -> vec4<u32>
 */
export function loads(name: string, dtype: AttentionDType, width: Width, length: number): string {
  const element = (i: number) =>
    dtype === "float32" ? `${name}[element + ${i}u]` : oneHalf(dtype, name, `element + ${i}u`);
  const whole = length % 4 === 0;
  if (width === 1)
    return `
fn load_${name}(row: u32, quad: u32) -> vec4<f32> {
  let element = row + quad * 4u;
  let loaded = vec4<f32>(${each(4, element, ", ")});
  return ${whole ? "loaded" : `select(vec4<f32>(), loaded, quad * 4u + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(${length}u))`};
}`;
  if (dtype === "float32")
    return `
fn load_${name}(row: u32, quad: u32) -> vec4<f32> { return ${name}[(row >> 2u) + quad]; }`;
  if (width === 4)
    return `
fn load_${name}(row: u32, quad: u32) -> vec4<f32> {
  let words = ${name}[(row >> 2u) + quad];
  return ${fourHalves(dtype, "words")};
}`;
  return `
fn load_${name}(row: u32, quad: u32) -> vec4<f32> {
  let unit = ${name}[(row >> 3u) + (quad >> 1u)];
  let words = select(unit.xy, unit.zw, (quad & 1u) == 1u);
  return ${fourHalves(dtype, "words")};
}
fn fetch_${name}(row: u32, unit: u32) -> vec4<u32> { return ${name}[(row >> 3u) + unit]; }`;
}

/**
 * The loads of {@link loads} with a width of at most 4 in two steps, so that other work fits between.
 *
 *     fn fetch_NAME(row: u32, quad: u32) -> NAME_quad
 *     fn widened_NAME(quad: NAME_quad) -> vec4<f32>
 */
export function fetches(name: string, dtype: AttentionDType, width: Width): string {
  if (dtype === "float32" || width === 1)
    return `
alias ${name}_quad = vec4<f32>;
fn fetch_${name}(row: u32, quad: u32) -> vec4<f32> { return load_${name}(row, quad); }
fn widened_${name}(quad: vec4<f32>) -> vec4<f32> { return quad; }`;
  return `
alias ${name}_quad = vec2<u32>;
fn fetch_${name}(row: u32, quad: u32) -> vec2<u32> { return ${name}[(row >> 2u) + quad]; }
fn widened_${name}(words: vec2<u32>) -> vec4<f32> { return ${fourHalves(dtype, "words")}; }`;
}

/** Two halves packed in each word of `words: vec2<u32>`, widened to four floats. */
export const widenWords = (dtype: AttentionDType): string => `
fn widen(words: vec2<u32>) -> vec4<f32> { return ${fourHalves(dtype, "words")}; }`;

const float16Bits = `
fn float16_bits(values: vec4<f32>) -> vec4<u32> {
  let bits = bitcast<vec4<u32>>(values);
  let sign = (bits >> vec4<u32>(16u)) & vec4<u32>(0x8000u);
  let magnitude = bits & vec4<u32>(0x7fffffffu);
  let odd = (magnitude >> vec4<u32>(13u)) & vec4<u32>(1u);
  let normal = (magnitude - vec4<u32>(0x38000000u) + vec4<u32>(0xfffu) + odd) >> vec4<u32>(13u);
  // A subnormal half counts in steps of 2^-24: the last place of 0.5.
  let subnormal = bitcast<vec4<u32>>(bitcast<vec4<f32>>(magnitude) + vec4<f32>(0.5)) - vec4<u32>(0x3f000000u);
  var half = select(normal, subnormal, magnitude < vec4<u32>(0x38800000u));
  half = select(half, vec4<u32>(0x7c00u), magnitude >= vec4<u32>(0x47800000u));
  half = select(half, vec4<u32>(0x7e00u), magnitude > vec4<u32>(0x7f800000u));
  return sign | half;
}`;

const bfloat16Bits = `
fn bfloat16_bits(values: vec4<f32>) -> vec4<u32> {
  let bits = bitcast<vec4<u32>>(values);
  let high = bits >> vec4<u32>(16u);
  let rounded = (bits + vec4<u32>(0x7fffu) + (high & vec4<u32>(1u))) >> vec4<u32>(16u);
  return select(rounded, high | vec4<u32>(0x40u), (bits & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u));
}`;

/**
 * The bits of floats rounded to a half dtype: to nearest, ties to even; beyond the largest, ±∞.
 *
 *     fn float16_bits(values: vec4<f32>) -> vec4<u32>
 *     fn bfloat16_bits(values: vec4<f32>) -> vec4<u32>
 *
 * @param dtypes Those that a kernel rounds to; float32 needs nothing.
 */
export function halfBits(...dtypes: AttentionDType[]): string {
  return [
    dtypes.includes("float16") ? float16Bits : "",
    dtypes.includes("bfloat16") ? bfloat16Bits : "",
  ].join("");
}

/** The WGSL element type of a tensor written `width` elements at a time. */
export function storeType(dtype: AttentionDType, width: Width): string {
  if (dtype === "float32") return width === 1 ? "f32" : "vec4<f32>";
  return width === 1 ? "atomic<u32>" : "vec2<u32>";
}

/**
 * Stores of a tensor in quads, rounded to its dtype; what lies beyond a row of `length` elements (a
 * WGSL expression) is left alone.
 *
 *     fn store_NAME(row: u32, quad: u32, values: vec4<f32>)
 *
 * Half dtypes need {@link halfBits}. A half that does not fill a word shares it with a neighbour,
 * which another lane or workgroup may write at the same time: two atomics replace 16 bits and leave
 * the others as they are.
 */
export function stores(name: string, dtype: AttentionDType, width: Width, length: string): string {
  if (dtype === "float32" && width !== 1)
    return `
fn store_${name}(row: u32, quad: u32, values: vec4<f32>) { ${name}[(row >> 2u) + quad] = values; }`;
  if (width !== 1)
    return `
fn store_${name}(row: u32, quad: u32, values: vec4<f32>) {
  let bits = ${dtype}_bits(values);
  ${name}[(row >> 2u) + quad] = bits.xz | (bits.yw << vec2<u32>(16u));
}`;
  const put =
    dtype === "float32"
      ? `${name}[element] = value;`
      : `let shift = (element & 1u) * 16u;
  atomicAnd(&${name}[element >> 1u], 0xffff0000u >> shift);
  atomicOr(&${name}[element >> 1u], value << shift);`;
  return `
fn put_${name}(element: u32, value: ${dtype === "float32" ? "f32" : "u32"}) {
  ${put}
}
fn store_${name}(row: u32, quad: u32, values: vec4<f32>) {
  let stored = ${dtype === "float32" ? "values" : `${dtype}_bits(values)`};
  let element = quad * 4u;
  ${each(4, (i) => `if (element + ${i}u < ${length}) { put_${name}(row + element + ${i}u, stored[${i}]); }`, "\n  ")}
}`;
}

/** The WGSL element type of a mask. */
export const maskType = (mask: KernelFlags["mask"]): string | undefined =>
  mask === "none" ? undefined : mask === "float32" ? "f32" : "u32";

/**
 * Where keys are forbidden by position.
 *
 *     fn position_offset(batch: u32) -> i32         position of the batch's query row 0
 *     fn key_limit(batch: u32) -> i32               keys that there are
 *     fn first_key(position: i32) -> i32            a query at `position` sees the keys from this
 *     fn end_key(position: i32, limit: i32) -> i32  up to but without this
 */
export const positions = ({ kvLengths }: KernelFlags): string => `
fn position_offset(batch: u32) -> i32 {
  return ${kvLengths ? "kvLengths[batch] - i32(uniforms.queries)" : "uniforms.past"};
}
fn key_limit(batch: u32) -> i32 {
  return ${kvLengths ? "min(uniforms.keyLimit, kvLengths[batch])" : "uniforms.keyLimit"};
}
fn first_key(position: i32) -> i32 { return max(0, position - uniforms.left); }
fn end_key(position: i32, limit: i32) -> i32 {
  return max(0, min(limit, position + uniforms.right + 1));
}`;

/**
 * Reads the mask.
 *
 *     fn mask_row(batch: u32, head: u32, query: u32) -> u32    where the mask's row begins
 *     fn mask_biases(row: u32, keys: vec4<i32>) -> vec4<f32>   what it adds, −∞ where it forbids
 */
export const maskReads = ({ mask }: KernelFlags): string => {
  if (mask === "none") return "";
  const bias = {
    bool: `select(negative_infinity(), 0.0, ((mask[element >> 2u] >> ((element & 3u) * 8u)) & 0xffu) != 0u)`,
    float32: `mask[element]`,
    float16: oneHalf("float16", "mask", "element"),
    bfloat16: oneHalf("bfloat16", "mask", "element"),
  }[mask];
  return `
fn mask_row(batch: u32, head: u32, query: u32) -> u32 {
  return batch * uniforms.maskBatch + head * uniforms.maskHead + query * uniforms.maskQuery;
}
fn mask_bias(element: u32) -> f32 { return ${bias}; }
fn mask_biases(row: u32, keys: vec4<i32>) -> vec4<f32> {
  let elements = row + vec4<u32>(keys) * uniforms.maskKey;
  return vec4<f32>(${each(4, (i) => `mask_bias(elements[${i}])`, ", ")});
}`;
};

/** tanh without the overflow that some drivers' own has, and exact enough near 0. */
const hyperbolicTangent = `
fn hyperbolic_tangent(x: vec4<f32>) -> vec4<f32> {
  let square = x * x;
  let series = square * (-0.33333333 + square * (0.13333333 + square * (-0.053968254 + square * 0.021869488)));
  let far = 1.0 - 2.0 / (exp2(2.0 * LOG2_E * x) + 1.0);
  return select(select(far, x + x * series, square < vec4<f32>(0.09)), x, !(x == x));
}`;

/**
 * The way of scores from dot products to the softmax, in the units of {@link scoreUnits} at its
 * end. Four keys at a time. Rounding needs {@link halfBits}.
 *
 *     fn softcapped(scores: vec4<f32>) -> vec4<f32>    where there is a softcap
 *     fn seen(scores: vec4<f32>, keys: vec4<i32>, first: i32, beyond: i32, mask_row: u32)
 *         -> vec4<f32>
 *         adds the mask, and forbids keys before `first`, from `beyond` on, and where the mask does
 *     fn rounded(scores: vec4<f32>) -> vec4<f32>       where the softmax's input is rounded
 */
export function scoreFunctions(flags: KernelFlags): string {
  const { mask, softcap, softmaxDtype } = flags;
  const rounds = softmaxDtype !== "float32";
  // Rounding wants scores in their own units, or quarters of them, and so does the bias before it.
  const quarters = inQuarters(mask);
  const scaled = `bias * ${quarters ? 0.25 : 1}${rounds ? "" : " * LOG2_E"}`;
  const biased = {
    none: "scores",
    bool: "select(scores, vec4<f32>(FORBIDDEN), masked)",
    float: `select(scores + ${scaled}, vec4<f32>(FORBIDDEN), masked)`,
  }[quarters ? "float" : (mask as "none" | "bool")];
  const value =
    softmaxDtype === "float16"
      ? "vec4<f32>(unpack2x16float(bits.x | (bits.y << 16u)), unpack2x16float(bits.z | (bits.w << 16u)))"
      : "bitcast<vec4<f32>>(bits << vec4<u32>(16u))";
  return `
${softcap ? `${hyperbolicTangent}\nfn softcapped(scores: vec4<f32>) -> vec4<f32> { return uniforms.softcapScale * hyperbolic_tangent(scores); }` : ""}
${maskReads(flags)}
fn seen(scores: vec4<f32>, keys: vec4<i32>, first: i32, beyond: i32, mask_row: u32) -> vec4<f32> {
  ${
    mask === "none"
      ? ""
      : `let bias = mask_biases(mask_row, keys);
  let masked = bitcast<vec4<u32>>(bias) == vec4<u32>(0xff800000u);`
  }
  return select(vec4<f32>(FORBIDDEN), ${biased}, (keys >= vec4<i32>(first)) & (keys < vec4<i32>(beyond)));
}
${
  rounds
    ? `
fn rounded(scores: vec4<f32>) -> vec4<f32> {
  let bits = ${softmaxDtype}_bits(scores${quarters ? " * 4.0" : ""});
  let value = ${value};
  let forbidden = (scores <= vec4<f32>(FORBIDDEN)) | (bits == vec4<u32>(${softmaxDtype === "float16" ? "0xfc00u" : "0xff80u"}));
  return select(value * (LOG2_E${quarters ? " * 0.25" : ""}), vec4<f32>(FORBIDDEN), forbidden);
}`
    : ""
}`;
}
