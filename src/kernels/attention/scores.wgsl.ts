import { defineKernel, foldWorkgroups } from "../../devices/kernel.ts";
import type { AttentionProblem } from "./problem.ts";
import {
  rowOfLane,
  type ScoreTile,
  scoreStatements,
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
  loadType,
  maskReads,
  maskType,
  positions,
  problemUniforms,
  scoreFunctions,
  scoreUnits,
  stores,
  storeType,
  type Width,
} from "./snippets.wgsl.ts";

// Scores: the matrix of every query row's scores, at one of the stages between q·kᵀ and the
// softmax's result, written out. Only for who asks for it: attention itself never does. The weights
// come from the main kernel's maxima and sums.
//
// A workgroup owns a tile of query rows × keys, rows as in prefill.wgsl.ts; a lane some of its
// scores in registers (score-tile.wgsl.ts), four neighbouring keys to a store.
//
// Workgroup memory: the queries and keys. scoresBytes() counts them.
//
// Grid: key tiles × row tiles × key/value heads × batches, folded into two axes. Adapters: any.

/** The stages, by the names of the outputs. */
export type ScoreStage = "scores" | "softcappedScores" | "biasedScores" | "weights";

const uniformTypes = { ...attentionUniforms, keyTiles: "u32" } as const;

const tensors = {
  query: "read",
  key: "read",
  mask: "read?",
  kvLengths: "read?",
  statistics: "read?",
  result: "write",
} as const;

/** Bytes of workgroup memory that a tile takes. */
export function scoresBytes(tile: ScoreTile, depth: number): number {
  return 16 * scoreTileSizes(tile, depth).stagedVectors;
}

/**
 * The scores kernel. `mask` and `kvLengths` are given for the stages that see them, the last two;
 * `statistics`, of the main kernel, for `weights`.
 */
export const attentionScores = defineKernel<
  typeof tensors,
  { readonly problem: AttentionProblem; readonly stage: ScoreStage; readonly tile: ScoreTile }
>({
  name: "attention_scores",
  tensors,
  uniforms: uniformTypes,
  webgpu({ parameters: { problem, stage, tile }, capabilities }) {
    const { batch, queryHeads, kvHeads, queries, keys, depth } = problem;
    const size = scoreTileSizes(tile, depth);
    const rowTiles = Math.ceil(((queryHeads / kvHeads) * queries) / size.rows);
    const keyTiles = Math.ceil(keys / size.keys);
    const workgroups = keyTiles * rowTiles * kvHeads * batch;
    const [x, y] = foldWorkgroups(workgroups, capabilities);
    const staged = stage === "scores" ? { ...problem, softcap: 0 } : problem;
    return {
      wgsl: scoresText(kernelFlags(staged, 4), tile, stage, keys % 4 === 0 ? 4 : 1),
      variant: stage,
      workgroups: [x, y, 1],
      uniforms: {
        ...problemUniforms(staged, stage === "weights"),
        gridWidth: x,
        workgroups,
        rowTiles,
        keyTiles,
        splits: 1,
      },
      workgroupBytes: scoresBytes(tile, depth),
    };
  },
});

/**
 * The module's text.
 *
 * @param width Elements of one store: 4 where there is a multiple of 4 keys.
 */
export function scoresText(
  flags: KernelFlags,
  tile: ScoreTile,
  stage: ScoreStage,
  width: Width,
): string {
  const { dtype, depth, widths, softcap, softmaxDtype } = flags;
  const weights = stage === "weights";
  const forbids = weights || stage === "biasedScores";
  const mask = forbids ? flags.mask : "none";
  const rows = (statement: (row: number) => string) => each(tile.rowsPerLane, statement, "\n  ");
  const quads = (row: number, statement: (score: string, quad: number) => string) =>
    each(tile.keysPerLane / 4, (quad) => statement(`s${row}_${quad}`, quad), "\n    ");

  const scoring = scoreStatements(tile, depth);
  const maskRow = mask === "none" ? "0u" : "mask_row(batch, head, query)";
  const logits = `seen(scores, keys, first, beyond, ${maskRow})`;
  // ∞ − ∞ is NaN: where the mask says −∞, so does the result.
  const bias = `let bias = mask_biases(${maskRow}, keys);
    let masked = bitcast<vec4<u32>>(bias) == vec4<u32>(0xff800000u);`;
  const finish = weights
    ? `
    let logits = ${softmaxDtype === "float32" ? logits : `rounded(${logits})`};
    let state = statistics[row_of_all];
    let weights = exponentials(logits - state.x) * (1.0 / state.y);
    return select(weights, vec4<f32>(), logits <= vec4<f32>(FORBIDDEN));`
    : `
    ${mask === "none" ? "" : bias}
    let allowed = (keys >= vec4<i32>(first)) & (keys < vec4<i32>(beyond))${mask === "none" ? "" : " & !masked"};
    return select(vec4<f32>(negative_infinity()), scores${mask === "none" ? "" : " + bias"}, allowed);`;

  return `
${bindings(
  tensors,
  {
    query: loadType(dtype, widths.query),
    key: loadType(dtype, widths.key),
    mask: maskType(mask),
    kvLengths: forbids && flags.kvLengths ? "i32" : undefined,
    statistics: weights ? "vec2<f32>" : undefined,
    result: storeType(dtype, width),
  },
  uniformTypes,
)}
${halfBits(dtype, softmaxDtype)}
${stores("result", dtype, width, "uniforms.keys")}
${scoreUnits(inQuarters(mask))}
${positions({ ...flags, kvLengths: forbids && flags.kvLengths })}
${weights ? scoreFunctions(flags) : `${scoreFunctions({ ...flags, mask: "none", softmaxDtype: "float32" })}${maskReads({ ...flags, mask })}`}

var<workgroup> staged: array<vec4<f32>, ${scoreTileSizes(tile, depth).stagedVectors}>;
${scoreTileDeclarations(tile, flags)}

${
  forbids
    ? `fn finished(scores: vec4<f32>, keys: vec4<i32>, batch: u32, head: u32, query: u32, row_of_all: u32) -> vec4<f32> {
    let position = position_offset(batch) + i32(query);
    let first = first_key(position);
    let beyond = end_key(position, key_limit(batch));${finish}
}`
    : ""
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let number = workgroup.y * uniforms.gridWidth + workgroup.x;
  if (number >= uniforms.workgroups) { return; }
  let first_key_of_tile = number % uniforms.keyTiles * TILE_KEYS;
  let first_row = number / uniforms.keyTiles % uniforms.rowTiles * TILE_ROWS;
  let pair = number / uniforms.keyTiles / uniforms.rowTiles;
  let kv_head = pair % uniforms.kvHeads;
  let batch = pair / uniforms.kvHeads;
  let group_heads = uniforms.queryHeads / uniforms.kvHeads;
  let rows = group_heads * uniforms.queries;
  let key_head = batch * uniforms.keyBatch + kv_head * uniforms.keyHead;
  let column = lane % COLUMNS;
  let row_group = lane / COLUMNS;
  ${scoring.declare}
  ${scoring.fetch("first_key_of_tile", "0u")}
  ${scoring.compute("first_key_of_tile")}

  ${rows(
    (row) => `if (first_row + ${rowOfLane(row)} < rows) {
    let row = first_row + ${rowOfLane(row)};
    let head = kv_head * group_heads + row / uniforms.queries;
    let query = row % uniforms.queries;
    let row_of_all = (batch * uniforms.queryHeads + head) * uniforms.queries + query;
    ${quads(row, (score, quad) => {
      const number = `first_key_of_tile / 4u + column + ${quad * tile.columns}u`;
      const keys = `vec4<i32>(i32(number * 4u)) + vec4<i32>(0, 1, 2, 3)`;
      return `{
      let number = ${number};
      ${softcap ? `${score} = softcapped(${score});` : ""}
      ${forbids ? `${score} = finished(${score}, ${keys}, batch, head, query, row_of_all);` : ""}
      if (number * 4u < uniforms.keys) { store_result(row_of_all * uniforms.keys, number, ${score}); }
    }`;
    })}
  }`,
  )}
}`;
}
