import { defineKernel, foldWorkgroups } from "../../devices/kernel.ts";
import type { AttentionDType, AttentionProblem } from "./problem.ts";
import {
  bindings,
  halfBits,
  inQuarters,
  loadWidth,
  type RowExtras,
  remembered,
  scoreUnits,
  stores,
  storeType,
  type Width,
} from "./snippets.wgsl.ts";

// Merge: adds up the splits of a decode or prefill (SplitExtras) by their log-sum-exp.
//
// A workgroup owns a query row and 8 quads of its output, so that one row of many splits still
// fills several workgroups. A lane holds one quad of every `groups`-th split; lanes of a group read
// 128 neighbouring bytes.
//
// `merged` ([rows, 1, 2] float32) is what the statistics of the splits come to, for scores.wgsl.ts.
//
// Workgroup memory: an accumulator for each lane, and a float for each group.
//
// Grid: column tiles × rows, folded into two axes. Adapters: any.

/** Invocations of a workgroup, a multiple of `columns`. */
const lanes = 64;

/** Quads of the output that a workgroup owns. */
const columns = 8;

const uniformTypes = {
  gridWidth: "u32",
  workgroups: "u32",
  splits: "u32",
  columnTiles: "u32",
  queryHeads: "u32",
  queries: "u32",
  outputBatch: "u32",
  outputHead: "u32",
  outputRow: "u32",
} as const;

const textOf = remembered(mergeText);

const tensors = {
  partials: "read",
  statistics: "read",
  output: "write",
  lse: "write?",
  merged: "write?",
} as const;

/** The merge kernel. */
export const attentionMerge = defineKernel<
  typeof tensors,
  {
    readonly problem: AttentionProblem;
    readonly splits: number;
    readonly variant: string;
  }
>({
  name: "attention_merge",
  tensors,
  uniforms: uniformTypes,
  webgpu({ tensors: { lse, merged }, parameters: { problem, splits, variant }, capabilities }) {
    const { batch, queryHeads, queries, dtype, valueDepth, strides } = problem;
    const columnTiles = Math.ceil(valueDepth / 4 / columns);
    const workgroups = columnTiles * batch * queryHeads * queries;
    const [x, y] = foldWorkgroups(workgroups, capabilities);
    const width = Math.min(4, loadWidth(dtype, valueDepth, strides.output)) as Width;
    return {
      wgsl: textOf(dtype, valueDepth, width, inQuarters(problem.mask?.dtype), {
        lse: lse !== undefined,
        statistics: merged !== undefined,
      }),
      variant,
      workgroups: [x, y, 1],
      uniforms: {
        gridWidth: x,
        workgroups,
        splits,
        columnTiles,
        queryHeads,
        queries,
        outputBatch: strides.output.batch,
        outputHead: strides.output.head,
        outputRow: strides.output.row,
      },
      workgroupBytes: lanes * 16 + (lanes / columns) * 4,
    };
  },
});

/** The module's text. */
export function mergeText(
  dtype: AttentionDType,
  valueDepth: number,
  width: Width,
  quarters: boolean,
  extras: RowExtras = {},
): string {
  return `
${bindings(
  tensors,
  {
    partials: "vec4<f32>",
    statistics: "vec2<f32>",
    output: storeType(dtype, width),
    lse: extras.lse ? "f32" : undefined,
    merged: extras.statistics ? "vec2<f32>" : undefined,
  },
  uniformTypes,
)}
${halfBits(dtype)}
${stores("output", dtype, width, `${valueDepth}u`)}

const LANES = ${lanes}u;
const COLUMNS = ${columns}u;
const GROUPS = LANES / COLUMNS;
const VALUE_QUADS = ${Math.ceil(valueDepth / 4)}u;
${scoreUnits(quarters)}

var<workgroup> accumulators: array<vec4<f32>, LANES>;
var<workgroup> exchange: array<f32, GROUPS>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let number = workgroup.y * uniforms.gridWidth + workgroup.x;
  if (number >= uniforms.workgroups) { return; }
  let row = number / uniforms.columnTiles;
  let quad = number % uniforms.columnTiles * COLUMNS + lane % COLUMNS;
  let group = lane / COLUMNS;
  let first = row * uniforms.splits;

  // The largest maximum.
  var maximum = LOWEST;
  for (var i = group; i < uniforms.splits; i += GROUPS) { maximum = max(maximum, statistics[first + i].x); }
  if (lane % COLUMNS == 0u) { exchange[group] = maximum; }
  workgroupBarrier();
  for (var i = 0u; i < GROUPS; i++) { maximum = max(maximum, exchange[i]); }
  workgroupBarrier();

  // The weighted sums of this lane's splits, then of all.
  var sum = 0.0;
  var accumulator = vec4<f32>();
  for (var i = group; i < uniforms.splits; i += GROUPS) {
    let state = statistics[first + i];
    let weight = exponential(state.x - maximum);
    sum += weight * state.y;
    // Beyond the row it is not written.
    accumulator += weight * partials[(first + i) * VALUE_QUADS + min(quad, VALUE_QUADS - 1u)];
  }
  if (lane % COLUMNS == 0u) { exchange[group] = sum; }
  accumulators[lane] = accumulator;
  workgroupBarrier();
  if (group > 0u || quad >= VALUE_QUADS) { return; }
  var total = 0.0;
  accumulator = vec4<f32>();
  for (var i = 0u; i < GROUPS; i++) {
    total += exchange[i];
    accumulator += accumulators[i * COLUMNS + lane];
  }

  let head = row / uniforms.queries % uniforms.queryHeads;
  let batch = row / uniforms.queries / uniforms.queryHeads;
  let place = batch * uniforms.outputBatch + head * uniforms.outputHead + row % uniforms.queries * uniforms.outputRow;
  store_output(place, quad, accumulator * select(1.0 / total, 0.0, total <= 0.0));
  if (quad == 0u) {
    ${extras.lse ? "lse[row] = log_sum(maximum, total);" : ""}
    ${extras.statistics ? "merged[row] = vec2<f32>(maximum, total);" : ""}
  }
}`;
}
