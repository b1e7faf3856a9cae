import { defineKernel, foldWorkgroups } from "../../devices/kernel.ts";
import type { AttentionProblem } from "./problem.ts";
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
  remembered,
  rowExtras,
  type SplitExtras,
  scoreFunctions,
  scoreUnits,
  stores,
  storeType,
  widenWords,
} from "./snippets.wgsl.ts";

// Decode: attention of one or a few query rows over many keys, at the speed of memory
// (Flash-Decoding, https://pytorch.org/blog/flash-decoding/).
//
// A workgroup owns a split, a share of the keys of one key/value head, for a pack of query rows
// that read that head: queries of all the query heads in its group, so that K and V are read once
// for the pack.
//
// Its lanes form slots of `lanesPerKey`. A slot takes keys of its own, `keysInFlight` at a turn,
// neighbouring slots neighbouring keys; lane `part` of a slot holds units  part + lanesPerKey · n
// of a row, a unit being what one load brings (16 bytes where the row allows it): of each query
// row, of the turn's keys and values, and of the slot's own output accumulators. A slot also has
// its own running maxima and sums, equal in its lanes; so it needs no other slot until the end,
// when the slots are merged through workgroup memory.
//
// The one exchange in a turn adds up the lanes' parts of a dot product:
//   subgroups   by shuffles inside a slot; no barrier in the loop. A slot lies within a subgroup, of
//               any size of lanesPerKey or more. Which lane sits where is not assumed: subgroups draw
//               their number from a counter. It is assumed that they are full, as they are where the
//               workgroup is one-dimensional and a multiple of the largest subgroup.
//   workgroup   through workgroup memory, with two barriers a turn. Any adapter.
//
// Grid: splits × packs × key/value heads × batches, folded into two axes. A split's keys are found
// from the range that the pack may see, so that windows and lengths shrink every split alike.
//
// One split writes the output, and the log-sum-exp or `statistics` if wanted. More write partials for
// merge.wgsl.ts (SplitExtras).

/** How a workgroup is divided. */
export interface DecodeTile {
  /** Invocations of the workgroup; with subgroups, a multiple of the largest. */
  readonly lanes: number;
  /** Lanes that share a key: a power of two. */
  readonly lanesPerKey: number;
  /** Keys that a slot takes in one turn: a multiple of 4. */
  readonly keysInFlight: number;
  /** Query rows of a pack. */
  readonly rows: number;
  readonly exchange: "subgroups" | "workgroup";
}

function sizes(tile: DecodeTile, flags: KernelFlags) {
  const { lanes, lanesPerKey, keysInFlight, rows } = tile;
  const slots = lanes / lanesPerKey;
  const unit = (width: number) => Math.max(4, width) / 4;
  const keyUnits = Math.ceil(flags.depth / (4 * unit(flags.widths.key)));
  const valueUnits = Math.ceil(flags.valueDepth / (4 * unit(flags.widths.value)));
  const scoreQuads = (keysInFlight / 4) * rows;
  return {
    slots,
    /** Quads in a unit. */
    keyUnit: unit(flags.widths.key),
    valueUnit: unit(flags.widths.value),
    keyUnits,
    valueUnits,
    keyUnitsPerLane: Math.ceil(keyUnits / lanesPerKey),
    valueUnitsPerLane: Math.ceil(valueUnits / lanesPerKey),
    valueQuads: Math.ceil(flags.valueDepth / 4),
    scoreQuads,
    /** Vectors for the parts of the dot products, and at the end for accumulators, twice. */
    exchangeVectors: Math.max(
      2 * lanes,
      tile.exchange === "workgroup" ? slots * scoreQuads * (lanesPerKey + 1) : 0,
    ),
    /** Vectors for the dot products. */
    productVectors: tile.exchange === "workgroup" ? slots * scoreQuads : 0,
  };
}

/** Bytes of workgroup memory that a tile takes. */
export function decodeBytes(tile: DecodeTile, flags: KernelFlags): number {
  const { exchangeVectors, productVectors, slots } = sizes(tile, flags);
  return 16 * (exchangeVectors + productVectors) + 8 * slots * tile.rows + 16;
}

const textOf = remembered(decodeText);

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

/** The decode kernel: writes `output` for one split, `partials` and `statistics` for more. */
export const attentionDecode = defineKernel<
  typeof tensors,
  {
    readonly problem: AttentionProblem;
    readonly tile: DecodeTile;
    readonly splits: number;
    readonly variant: string;
  }
>({
  name: "attention_decode",
  tensors,
  uniforms: attentionUniforms,
  webgpu({ tensors: { lse, partials, statistics }, parameters, capabilities }) {
    const { problem, tile, splits, variant } = parameters;
    const { batch, queryHeads, kvHeads, queries } = problem;
    const packs = Math.ceil(((queryHeads / kvHeads) * queries) / tile.rows);
    const workgroups = splits * packs * kvHeads * batch;
    const [x, y] = foldWorkgroups(workgroups, capabilities);
    const flags = kernelFlags(problem);
    return {
      wgsl: textOf(flags, tile, {
        partials: partials !== undefined,
        lse: lse !== undefined,
        statistics: statistics !== undefined,
      }),
      variant,
      workgroups: [x, y, 1],
      uniforms: {
        ...problemUniforms(problem, true),
        gridWidth: x,
        workgroups,
        rowTiles: packs,
        splits,
      },
      workgroupBytes: decodeBytes(tile, flags),
    };
  },
});

/** The module's text. */
export function decodeText(flags: KernelFlags, tile: DecodeTile, extras: SplitExtras = {}): string {
  const { dtype, depth, valueDepth, widths, mask, softcap, softmaxDtype } = flags;
  const { lanes, lanesPerKey, keysInFlight, exchange } = tile;
  const size = sizes(tile, flags);
  const { keyUnit, valueUnit, keyUnitsPerLane, valueUnitsPerLane, scoreQuads } = size;
  const splits = extras.partials === true;
  const shuffles = exchange === "subgroups";

  const rows = (statement: (row: number) => string) => each(tile.rows, statement, "\n    ");
  const keys = (statement: (key: number) => string) => each(keysInFlight, statement, "\n    ");
  /** Scores are vectors s{row}_{quad} of four keys. */
  const scores = (statement: (row: number, quad: number) => string) =>
    rows((row) => each(keysInFlight / 4, (quad) => statement(row, quad), " "));
  const score = (row: number, key: number) => `s${row}_${key >> 2}[${key & 3}]`;
  const fold = (row: number, operator: (a: string, b: string) => string) =>
    Array.from({ length: keysInFlight / 4 }, (_, quad) => `s${row}_${quad}`).reduce(operator);
  const among = (operator: "min" | "max", name: string) =>
    Array.from({ length: tile.rows }, (_, row) => `${name}${row}`).reduce(
      (a, b) => `${operator}(${a}, ${b})`,
    );
  /** For the units of a row and the quads in each. */
  const quads = (
    units: number,
    perUnit: number,
    statement: (unit: number, quad: number) => string,
  ) => each(units, (unit) => each(perUnit, (quad) => statement(unit, quad), " "), "\n    ");
  const outputs = (statement: (row: number, unit: number, quad: number) => string) =>
    rows((row) => quads(valueUnitsPerLane, valueUnit, (unit, quad) => statement(row, unit, quad)));

  /** Fetches a unit as it lies in memory, and widens one quad of it. */
  const access = (name: "key" | "value", units: number, perLane: number) => {
    const packed = widths[name] === 8;
    const ragged = perLane * lanesPerKey > units;
    const number = (unit: number) => `part + ${unit * lanesPerKey}u`;
    return {
      type: packed ? "vec4<u32>" : "vec4<f32>",
      fetch: (row: string, unit: number) => {
        const load = `${packed ? "fetch" : "load"}_${name}(${row}, ${number(unit)})`;
        // Beyond the row the query is 0 and the output is not written; but 0 · NaN is NaN.
        return ragged && (unit + 1) * lanesPerKey > units
          ? `select(vec4<${packed ? "u32" : "f32"}>(), ${load}, ${number(unit)} < ${units}u)`
          : load;
      },
      widen: (fetched: string, quad: number) =>
        packed ? `widen(${fetched}.${quad === 0 ? "xy" : "zw"})` : fetched,
    };
  };
  const key = access("key", size.keyUnits, keyUnitsPerLane);
  const value = access("value", size.valueUnits, valueUnitsPerLane);

  const dot = (k: number, row: number) =>
    quads(keyUnitsPerLane, keyUnit, (unit, quad) => {
      const [a, b, sum] = [`q${row}_${unit}_${quad}`, `widened${unit}_${quad}`, `d${k}_${row}`];
      return `${sum} = fma(${a}.x, ${b}.x, fma(${a}.y, ${b}.y, fma(${a}.z, ${b}.z, fma(${a}.w, ${b}.w, ${sum}))));`;
    });

  const addBySubgroups = `
    ${scores((row, quad) =>
      each(
        Math.log2(lanesPerKey),
        (step) => `s${row}_${quad} += subgroupShuffleXor(s${row}_${quad}, ${2 ** step}u);`,
        " ",
      ),
    )}`;
  const place = (row: number, quad: number) =>
    `slot * ${scoreQuads}u + ${(row * keysInFlight) / 4 + quad}u`;
  const addByWorkgroup = `
    ${scores((row, quad) => `exchange[(${place(row, quad)}) * ${lanesPerKey + 1}u + part] = s${row}_${quad};`)}
    workgroupBarrier();
    for (var quad = part; quad < ${scoreQuads}u; quad += LANES_PER_KEY) {
      var sum = vec4<f32>();
      for (var i = 0u; i < LANES_PER_KEY; i++) { sum += exchange[(slot * ${scoreQuads}u + quad) * ${lanesPerKey + 1}u + i]; }
      products[slot * ${scoreQuads}u + quad] = sum;
    }
    workgroupBarrier();
    ${scores((row, quad) => `s${row}_${quad} = products[${place(row, quad)}];`)}`;

  const accumulate = (guarded: boolean) =>
    keys(
      (k) => `{
      ${quads(valueUnitsPerLane, valueUnit, (unit, quad) => `let widened${unit}_${quad} = ${value.widen(`v${k}_${unit}`, quad)};`)}
      ${outputs((row, unit, quad) => {
        const accumulator = `o${row}_${unit}_${quad}`;
        const sum = `fma(vec4<f32>(${score(row, k)}), widened${unit}_${quad}, ${accumulator})`;
        return `${accumulator} = ${guarded ? `select(${sum}, ${accumulator}, forbidden${row}_${k >> 2}[${k & 3}])` : sum};`;
      })}
      }`,
    );

  return `
${shuffles ? "enable subgroups;" : ""}
${bindings(
  tensors,
  {
    query: loadType(dtype, widths.query),
    key: loadType(dtype, widths.key),
    value: loadType(dtype, widths.value),
    mask: maskType(mask),
    kvLengths: flags.kvLengths ? "i32" : undefined,
    output: splits ? undefined : storeType(dtype, widths.output),
    lse: extras.lse ? "f32" : undefined,
    partials: splits ? "vec4<f32>" : undefined,
    statistics: extras.statistics ? "vec2<f32>" : undefined,
  },
  attentionUniforms,
)}
${loads("query", dtype, widths.query, depth)}
${loads("key", dtype, widths.key, depth)}
${loads("value", dtype, widths.value, valueDepth)}
${widths.key === 8 || widths.value === 8 ? widenWords(dtype) : ""}
${halfBits(dtype, softmaxDtype)}
${splits ? "" : stores("output", dtype, widths.output, `${valueDepth}u`)}
${scoreUnits(inQuarters(mask))}
${positions(flags)}
${scoreFunctions(flags)}

const LANES = ${lanes}u;
const LANES_PER_KEY = ${lanesPerKey}u;
const SLOTS = ${size.slots}u;
const ROWS = ${tile.rows}u;
const TURN_KEYS = ${size.slots * keysInFlight}i; // keys of a workgroup's turn
const VALUE_QUADS = ${size.valueQuads}u;

/// Parts of dot products; at the end, accumulators.
var<workgroup> exchange: array<vec4<f32>, ${size.exchangeVectors}>;
${shuffles ? "" : `var<workgroup> products: array<vec4<f32>, ${size.productVectors}>;`}
/// The maximum and sum of each slot and row.
var<workgroup> states: array<vec2<f32>, SLOTS * ROWS>;
${shuffles ? "var<workgroup> subgroups_numbered: atomic<u32>;" : ""}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  ${
    shuffles
      ? "@builtin(subgroup_invocation_id) subgroup_lane: u32,\n  @builtin(subgroup_size) subgroup_lanes: u32,"
      : "@builtin(local_invocation_index) lane: u32,"
  }
) {
  let number = workgroup.y * uniforms.gridWidth + workgroup.x;
  if (number >= uniforms.workgroups) { return; }
  let split = number % uniforms.splits;
  let pack = number / uniforms.splits % uniforms.rowTiles;
  let pair = number / uniforms.splits / uniforms.rowTiles;
  let kv_head = pair % uniforms.kvHeads;
  let batch = pair / uniforms.kvHeads;
  let group_heads = uniforms.queryHeads / uniforms.kvHeads;
  let rows = group_heads * uniforms.queries;
  let key_head = batch * uniforms.keyBatch + kv_head * uniforms.keyHead;
  let value_head = batch * uniforms.valueBatch + kv_head * uniforms.valueHead;
  ${
    shuffles
      ? `var ticket = 0u;
  if (subgroup_lane == 0u) { ticket = atomicAdd(&subgroups_numbered, 1u); }
  let slot = subgroupBroadcastFirst(ticket) * (subgroup_lanes / LANES_PER_KEY) + subgroup_lane / LANES_PER_KEY;
  let part = subgroup_lane % LANES_PER_KEY;`
      : `let slot = lane / LANES_PER_KEY;
  let part = lane % LANES_PER_KEY;`
  }

  // The rows of the pack; those too many repeat the last.
  let offset = position_offset(batch);
  let limit = key_limit(batch);
  ${rows(
    (row) => `let row${row} = min(pack * ROWS + ${row}u, rows - 1u);
    let head${row} = kv_head * group_heads + row${row} / uniforms.queries;
    let query${row} = row${row} % uniforms.queries;
    let first${row} = first_key(offset + i32(query${row}));
    let beyond${row} = end_key(offset + i32(query${row}), limit);
    ${mask === "none" ? "" : `let mask${row} = mask_row(batch, head${row}, query${row});`}`,
  )}
  ${rows(
    (
      row,
    ) => `let place${row} = batch * uniforms.queryBatch + head${row} * uniforms.queryHead + query${row} * uniforms.queryRow;
    ${quads(keyUnitsPerLane, keyUnit, (unit, quad) => {
      const at = `(part + ${unit * lanesPerKey}u) * ${keyUnit}u + ${quad}u`;
      const load = `load_query(place${row}, ${at}) * uniforms.scoreScale`;
      const last = (unit + 1) * lanesPerKey > size.keyUnits;
      return `let q${row}_${unit}_${quad} = ${last ? `select(vec4<f32>(), ${load}, part + ${unit * lanesPerKey}u < ${size.keyUnits}u)` : load};`;
    })}`,
  )}
  ${outputs((row, unit, quad) => `var o${row}_${unit}_${quad} = vec4<f32>();`)}
  ${rows((row) => `var maximum${row} = LOWEST; var sum${row} = 0.0; var invalid${row} = false;`)}

  // This split's share of the keys that some row sees.
  let begin_of_all = ${among("min", "first")};
  let end_of_all = ${among("max", "beyond")};
  let share = (max(0, end_of_all - begin_of_all) + i32(uniforms.splits) - 1) / i32(uniforms.splits);
  let begin = begin_of_all + i32(split) * share;
  let end = min(end_of_all, begin + share);
  // The keys of it that every row sees.
  let begin_for_all = ${among("max", "first")};
  let end_for_all = min(end, ${among("min", "beyond")});

  for (var turn = begin; turn < end; turn += TURN_KEYS) {
    let last = end - 1;
    ${keys(
      (k) => `let key${k} = turn + i32(slot) + ${k * size.slots};
    let place_k${k} = key_head + u32(min(key${k}, last)) * uniforms.keyRow;
    let place_v${k} = value_head + u32(min(key${k}, last)) * uniforms.valueRow;`,
    )}
    ${keys((k) => each(keyUnitsPerLane, (unit) => `let k${k}_${unit} = ${key.fetch(`place_k${k}`, unit)};`, " "))}
    ${keys((k) => each(valueUnitsPerLane, (unit) => `let v${k}_${unit} = ${value.fetch(`place_v${k}`, unit)};`, " "))}

    ${keys((k) => each(tile.rows, (row) => `var d${k}_${row} = 0.0;`, " "))}
    ${keys(
      (k) => `{
      ${quads(keyUnitsPerLane, keyUnit, (unit, quad) => `let widened${unit}_${quad} = ${key.widen(`k${k}_${unit}`, quad)};`)}
      ${rows((row) => dot(k, row))}
    }`,
    )}
    ${scores((row, quad) => `var s${row}_${quad} = vec4<f32>(${each(4, (i) => `d${quad * 4 + i}_${row}`, ", ")});`)}
${shuffles ? addBySubgroups : addByWorkgroup}
    ${softcap ? scores((row, quad) => `s${row}_${quad} = softcapped(s${row}_${quad});`) : ""}

    let partial = ${mask === "none" ? "turn < begin_for_all || turn + TURN_KEYS > end_for_all" : "true"};
    if (partial) {
      ${each(keysInFlight / 4, (quad) => `let keys${quad} = vec4<i32>(${each(4, (i) => `key${quad * 4 + i}`, ", ")});`, "\n      ")}
      ${scores((row, quad) => `s${row}_${quad} = seen(s${row}_${quad}, keys${quad}, first${row}, min(beyond${row}, end), ${mask === "none" ? "0u" : `mask${row}`});`)}
    }
    ${softmaxDtype === "float32" ? "" : scores((row, quad) => `s${row}_${quad} = rounded(s${row}_${quad});`)}

    ${rows(
      (row) => `{
      let scores = ${fold(row, (a, b) => `max(${a}, ${b})`)};
      let maximum = max(maximum${row}, max(max(scores.x, scores.y), max(scores.z, scores.w)));
      let keep = exponential(maximum${row} - maximum);
      maximum${row} = maximum;
      sum${row} *= keep;
      ${quads(valueUnitsPerLane, valueUnit, (unit, quad) => `o${row}_${unit}_${quad} *= keep;`)}
    }`,
    )}
    ${scores((row, quad) => `let forbidden${row}_${quad} = s${row}_${quad} <= vec4<f32>(FORBIDDEN);`)}
    ${scores((row, quad) => `s${row}_${quad} -= maximum${row}; invalid${row} = invalid${row} | any(!(s${row}_${quad} == s${row}_${quad})); s${row}_${quad} = exponentials(s${row}_${quad});`)}
    ${rows((row) => `{ let weights = ${fold(row, (a, b) => `${a} + ${b}`)}; sum${row} += (weights.x + weights.y) + (weights.z + weights.w); }`)}
    // A forbidden key's weight is 0; but 0 · NaN is NaN.
    if (partial) {
      ${accumulate(true)}
    } else {
      ${accumulate(false)}
    }
  }

  // Merges the slots: each rescales to the common maximum, then slot 0 adds, a quad at a time.
  if (part == 0u) {
    ${rows((row) => `states[slot * ROWS + ${row}u] = vec2<f32>(maximum${row}, select(sum${row}, not_a_number(), invalid${row}));`)}
  }
  workgroupBarrier();
  ${rows(
    (row) => `var total${row} = 0.0;
  {
    let own = maximum${row};
    for (var i = 0u; i < SLOTS; i++) { maximum${row} = max(maximum${row}, states[i * ROWS + ${row}u].x); }
    for (var i = 0u; i < SLOTS; i++) {
      let state = states[i * ROWS + ${row}u];
      total${row} += state.y * exponential(state.x - maximum${row});
    }
    let scale = exponential(own - maximum${row})${splits ? "" : ` * select(1.0 / total${row}, 0.0, total${row} <= 0.0)`};
    ${quads(valueUnitsPerLane, valueUnit, (unit, quad) => `o${row}_${unit}_${quad} *= scale;`)}
  }`,
  )}
  ${rows((row) => {
    const place = splits
      ? `let place${row}o = (((batch * uniforms.queryHeads + head${row}) * uniforms.queries + query${row}) * uniforms.splits + split);`
      : `let place${row}o = batch * uniforms.outputBatch + head${row} * uniforms.outputHead + query${row} * uniforms.outputRow;`;
    const blocks = quads(valueUnitsPerLane, valueUnit, (unit, quad) => {
      // Two buffers in turn: what is read after a barrier is written again only after the next.
      const half = (((row * valueUnitsPerLane + unit) * valueUnit + quad) % 2) * lanes;
      const at = `(part + ${unit * lanesPerKey}u) * ${valueUnit}u + ${quad}u`;
      return `
  exchange[${half}u + slot * LANES_PER_KEY + part] = o${row}_${unit}_${quad};
  workgroupBarrier();
  if (slot == 0u && ${at} < VALUE_QUADS && pack * ROWS + ${row}u < rows) {
    var sum = vec4<f32>();
    for (var i = 0u; i < SLOTS; i++) { sum += exchange[${half}u + i * LANES_PER_KEY + part]; }
    ${splits ? `partials[place${row}o * VALUE_QUADS + ${at}] = sum;` : `store_output(place${row}o, ${at}, sum);`}
  }`;
    });
    const writes = rowExtras(
      extras,
      splits
        ? `place${row}o`
        : `(batch * uniforms.queryHeads + head${row}) * uniforms.queries + query${row}`,
      `maximum${row}`,
      `total${row}`,
    );
    return `${place}${blocks}
  if (slot == 0u && part == 0u && pack * ROWS + ${row}u < rows) { ${writes} }`;
  })}
}`;
}
