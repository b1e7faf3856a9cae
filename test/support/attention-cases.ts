import fc from "fast-check";
import type { HostView, TensorShape } from "../../src/devices/kernel.ts";
import { endKey, firstKey, positionOffset } from "../../src/kernels/attention/positions.ts";
import type {
  AttentionDType,
  AttentionOutput,
  AttentionProblem,
} from "../../src/kernels/attention/problem.ts";
import {
  attentionReferenceOf,
  type ReferenceOutputs,
  toFloat64,
} from "../../src/kernels/attention/reference.ts";
import {
  type AttentionInputs,
  type AttentionOptions,
  type AttentionResults,
  attentionOutputs,
  inverseRootDepth,
  resolveAttention,
} from "../../src/kernels/attention/spec.ts";
import { allocateData, type DType } from "../../src/tensor/dtype.ts";
import { fromFloat32 } from "../../src/tensor/half.ts";
import { elementCount, type Shape } from "../../src/tensor/shape.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { assertClose, type Tolerance, toleranceFor } from "./compare.ts";
import { type Random, random, seedSettings } from "./random.ts";

// The cases that attention is tested with, on every device: a description that fast-check draws and
// shrinks, and the tensors that it stands for.

/** What a case is, small enough to print. Its numbers follow from `seed`. */
export interface AttentionCaseDescription {
  readonly seed: number;
  readonly layout: "vector" | "matrix" | "packed" | "4-D";
  readonly dtype: AttentionDType;
  readonly batch: number;
  readonly kvHeads: number;
  /** Query heads that share a key/value head. */
  readonly group: number;
  readonly queries: number;
  /** Keys, without the past. */
  readonly kv: number;
  /** 0: no past is given. */
  readonly past: number;
  readonly depth: number;
  readonly valueDepth: number;
  readonly scale?: number | undefined;
  readonly causal: boolean;
  readonly window?: readonly [left: number, right: number] | undefined;
  readonly softcap: number;
  readonly mask?: MaskDescription | undefined;
  readonly kvLengths: boolean;
  readonly softmaxDtype?: AttentionDType | undefined;
  readonly outputs: readonly AttentionOutput[];
  /** Scores of order 1, or near ±1e4. */
  readonly scores: "small" | "large";
  /**
   * What is put into k and v: NaN and ±∞ at keys that no query may see; or NaN at a few keys, which
   * must reach the rows that may see them, and no other row.
   */
  readonly plant: "nothing" | "forbidden" | "nan";
}

/** Which axes of the mask are full, from the outermost; the others are 1. */
export interface MaskDescription {
  readonly dtype: DType;
  /** Axes from the right; those left of them are missing. */
  readonly rank: number;
  readonly batch: boolean;
  readonly head: boolean;
  readonly query: boolean;
  readonly key: "full" | "one" | "short";
}

/** What sweep to draw. */
export interface CaseLimits {
  /** Multiply-adds of q·kᵀ, at most. Default: 1e6. */
  readonly work?: number;
  /** Whether NaN is planted where it must propagate: a GPU need not keep NaN. Default: true. */
  readonly nan?: boolean;
  readonly dtypes?: readonly AttentionDType[];
}

/** Fields of a description that a test fixes. */
export type CaseOverrides = Partial<AttentionCaseDescription>;

const allDTypes = ["float32", "float16", "bfloat16"] as const;
// 1, primes, and one off from the widths of tiles.
const lengths = [1, 2, 3, 5, 7, 13, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 97, 127, 128, 129];
const depths = [
  1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 31, 32, 33, 64, 65, 80, 96, 128, 131, 256, 511, 512,
];

const often = <T>(value: T, other: fc.Arbitrary<T>, weight = 3): fc.Arbitrary<T> =>
  fc.oneof({ weight, arbitrary: fc.constant(value) }, { weight: 1, arbitrary: other });

/** Draws descriptions of cases. `overrides` fixes fields; what cannot go with them is dropped. */
export function attentionCases(
  limits: CaseLimits = {},
  overrides: CaseOverrides = {},
): fc.Arbitrary<AttentionCaseDescription> {
  const { work = 1e6, nan = true, dtypes = allDTypes } = limits;
  const sizes = fc.oneof(
    { weight: 4, arbitrary: fc.tuple(fc.constantFrom(...lengths), fc.constantFrom(...lengths)) },
    {
      weight: 2, // few queries, many keys
      arbitrary: fc.tuple(
        fc.constantFrom(1, 2, 3, 4, 8),
        fc.constantFrom(255, 257, 1000, 1021, 2049),
      ),
    },
    {
      weight: 1,
      arbitrary: fc.tuple(fc.constantFrom(257, 521, 1000), fc.constantFrom(1, 2, 3, 16, 17)),
    },
  );
  const side = fc.constantFrom(-1, 0, 1, 2, 7, 16, 40, 100);
  return fc
    .record({
      seed: fc.integer({ min: 0, max: 2 ** 31 - 1 }),
      layout: fc.constantFrom(
        "4-D" as const,
        "4-D" as const,
        "packed" as const,
        "matrix" as const,
        "vector" as const,
      ),
      dtype: fc.constantFrom(...dtypes),
      batch: fc.constantFrom(1, 1, 2, 3),
      kvHeads: fc.constantFrom(1, 1, 2, 3),
      group: fc.constantFrom(1, 1, 3, 8),
      sizes,
      past: often(0, fc.constantFrom(1, 2, 5, 16, 33, 64, 129)),
      depth: fc.constantFrom(...depths),
      valueDepth: often<number | undefined>(undefined, fc.constantFrom(...depths)),
      scale: often<number | undefined>(undefined, fc.constantFrom(1, 0.3, -0.25, 0)),
      causal: fc.boolean(),
      window: often<readonly [number, number] | undefined>(undefined, fc.tuple(side, side)),
      softcap: often(0, fc.constantFrom(0.5, 2, 30)),
      mask: often<MaskDescription | undefined>(
        undefined,
        fc.record({
          dtype: fc.constantFrom("bool" as const, "bool" as const, ...allDTypes),
          rank: fc.integer({ min: 1, max: 4 }),
          batch: fc.boolean(),
          head: fc.boolean(),
          query: fc.boolean(),
          key: fc.constantFrom("full" as const, "full" as const, "one" as const, "short" as const),
        }),
        1,
      ),
      kvLengths: often(false, fc.constant(true)),
      softmaxDtype: often<AttentionDType | undefined>(undefined, fc.constantFrom(...allDTypes), 7),
      outputs: often<AttentionOutput[]>([], fc.subarray([...attentionOutputs]), 1),
      scores: often<"small" | "large">("small", fc.constant("large")),
      plant: nan
        ? fc.constantFrom(
            "nothing" as const,
            "forbidden" as const,
            "forbidden" as const,
            "nan" as const,
          )
        : fc.constantFrom("nothing" as const, "forbidden" as const),
    })
    .map(({ sizes: [queries, kv], valueDepth, ...rest }) =>
      consistent(
        { ...rest, queries, kv, valueDepth: valueDepth ?? rest.depth, ...overrides },
        work,
      ),
    );
}

/** Drops what does not go together, and shrinks what would take too long. */
function consistent(drawn: AttentionCaseDescription, work: number): AttentionCaseDescription {
  const d: { -readonly [Name in keyof AttentionCaseDescription]: AttentionCaseDescription[Name] } =
    {
      ...drawn,
    };
  if (d.layout === "vector") d.queries = 1;
  if (d.layout === "vector" || d.layout === "matrix") {
    d.batch = d.kvHeads = d.group = 1;
    d.past = 0;
    d.outputs = d.outputs.filter((name) => !name.startsWith("present"));
  }
  if (d.kvLengths) d.past = 0;
  if (d.scores === "large") d.softmaxDtype = undefined; // rounding would decide the result
  if (d.scores === "large" && d.scale === 0) d.scale = undefined;
  const size = () =>
    d.batch * d.kvHeads * d.group * d.queries * (d.kv + d.past) * Math.max(d.depth, d.valueDepth);
  if (size() > work) d.batch = 1;
  if (size() > work) d.kvHeads = 1;
  if (size() > work) d.group = Math.min(d.group, 3);
  if (size() > work) [d.depth, d.valueDepth] = [Math.min(d.depth, 65), Math.min(d.valueDepth, 65)];
  if (size() > work) d.queries = Math.min(d.queries, 33);
  if (size() > work) d.kv = Math.min(d.kv, 129);
  if (size() > work) [d.depth, d.valueDepth] = [Math.min(d.depth, 8), Math.min(d.valueDepth, 8)];
  return d;
}

/** One call of attention, ready to be made. */
export interface AttentionCase {
  readonly description: AttentionCaseDescription;
  readonly query: Tensor;
  readonly key: Tensor;
  readonly value: Tensor;
  /** For `scaledDotProductAttention`. */
  readonly options: AttentionOptions<Tensor>;
  /** All the tensors, as kernels take them. */
  readonly inputs: AttentionInputs<Tensor>;
  readonly problem: AttentionProblem;
  readonly outputShapes: AttentionResults<TensorShape>;
  /** Every output, of the reference. Computed once, when first asked for. */
  expected(): ReferenceOutputs;
  /** What `output` may differ by on a device. */
  tolerance(device: "cpu" | "webgpu"): Tolerance;
  /**
   * How much further `output` and `weights` may be off in a row, of `[batch, queryHeads, queries]`, where a
   * mask adds float16's lowest number to every key that the row may see: float32 keeps of each score what
   * is left beside −65504. 0 in all other rows.
   */
  cancellation(row: number): number;
}

/** Makes the tensors of a description. */
export function attentionCase(description: AttentionCaseDescription): AttentionCase {
  const d = description;
  const generator = random(d.seed);
  const keys = d.kv + d.past;
  const queryHeads = d.kvHeads * d.group;
  const shapes: Record<AttentionCaseDescription["layout"], [Shape, Shape, Shape]> = {
    vector: [[d.depth], [d.kv, d.depth], [d.kv, d.valueDepth]],
    matrix: [
      [d.queries, d.depth],
      [d.kv, d.depth],
      [d.kv, d.valueDepth],
    ],
    packed: [
      [d.batch, d.queries, queryHeads * d.depth],
      [d.batch, d.kv, d.kvHeads * d.depth],
      [d.batch, d.kv, d.kvHeads * d.valueDepth],
    ],
    "4-D": [
      [d.batch, queryHeads, d.queries, d.depth],
      [d.batch, d.kvHeads, d.kv, d.depth],
      [d.batch, d.kvHeads, d.kv, d.valueDepth],
    ],
  };
  const [queryShape, keyShape, valueShape] = shapes[d.layout];

  // Scores have a standard deviation of scale · size² · √depth.
  const scale = d.scale ?? inverseRootDepth(d.depth);
  const size = d.scores === "small" ? 1 : Math.sqrt(5e3 / (Math.abs(scale) * Math.sqrt(d.depth)));
  const normal = (shape: Shape, factor: number) =>
    floatTensor(d.dtype, shape, () => factor * generator.normal());

  const query = normal(queryShape, size);
  const key = normal(keyShape, size);
  const value = normal(valueShape, 1);
  const options: AttentionOptions<Tensor> = {
    causal: d.causal,
    softcap: d.softcap,
    ...(d.scale !== undefined && { scale: d.scale }),
    ...(d.window && { window: d.window }),
    ...(d.softmaxDtype && { softmaxDtype: d.softmaxDtype }),
    ...(d.outputs.length > 0 && { outputs: d.outputs }),
    ...(d.layout === "packed" && { queryHeads, kvHeads: d.kvHeads }),
    ...(d.mask && { mask: maskTensor(d.mask, [d.batch, queryHeads, d.queries, keys], generator) }),
    ...(d.kvLengths && { kvLengths: lengthsTensor(d.batch, keys, generator) }),
    ...(d.past > 0 && {
      pastKey: normal([d.batch, d.kvHeads, d.past, d.depth], size),
      pastValue: normal([d.batch, d.kvHeads, d.past, d.valueDepth], 1),
    }),
  };
  const { mask, kvLengths, pastKey, pastValue } = options;
  const inputs = { query, key, value, mask, kvLengths, pastKey, pastValue };
  const { problem, outputShapes } = resolveAttention(
    "attention",
    query,
    key,
    value,
    options,
    inverseRootDepth,
  );
  const spread = scoreSpread(problem, inputs);
  if (d.plant !== "nothing") plant(d, problem, inputs, generator);

  let expected: ReferenceOutputs | undefined;
  return {
    description,
    query,
    key,
    value,
    options,
    inputs,
    problem,
    outputShapes,
    expected: () => (expected ??= attentionReferenceOf(problem, inputs)),
    tolerance(device) {
      // Scores of float32 kernels are off by a few units in their last place, and `softmaxDtype` can
      // round two nearly equal scores apart: an error in a score is a relative one in its weight.
      const unit = { float32: 2 ** -23, float16: 2 ** -10, bfloat16: 2 ** -7 };
      const rounding = problem.softmaxDtype ? unit[problem.softmaxDtype] * spread : 0;
      const arithmetic = (device === "webgpu" ? 2 : 1 / 16) * unit.float32 * spread;
      const base = toleranceFor(problem.dtype, device);
      const extra = 2 * (rounding + arithmetic);
      return { absolute: base.absolute + 4 * extra, relative: base.relative + extra };
    },
    cancellation(row) {
      // float32's own lowest number leaves nothing of a score, in float64 neither.
      const masked = problem.mask?.dtype === "float16" ? -this.expected().lse[row]! : 0;
      if (!(masked > 2 ** 15 && masked < 2 ** 17)) return 0;
      // A score is off by up to half a unit in the last place of its sum with the mask; the mean of values
      // of magnitudes up to 4 by 4 times that.
      return 4 * 2 ** -24 * masked;
    },
  };
}

/** Output tensors for a case, filled with NaN so that what is not written shows. */
export function poisonedOutputs(attention: AttentionCase): AttentionResults<Tensor> {
  return Object.fromEntries(
    Object.entries(attention.outputShapes).map(([name, type]) => {
      const { dtype, shape } = type as TensorShape;
      const data = allocateData(dtype, elementCount(shape));
      data.fill(data instanceof Uint16Array ? 0x7fff : Number.NaN);
      return [name, { dtype, shape, data }];
    }),
  ) as unknown as AttentionResults<Tensor>;
}

/** Compares what a device returned with the reference. */
export function assertCase(
  attention: AttentionCase,
  got: AttentionResults<HostView>,
  device: "cpu" | "webgpu",
): void {
  const context = `case (${seedSettings}): ${JSON.stringify(attention.description)}`;
  const expected = attention.expected();
  for (const name of attention.problem.outputs) {
    const view = got[name];
    if (view === undefined) throw new Error(`${name} is missing\n${context}`);
    const exact = name.startsWith("present");
    const tolerance = exact ? { absolute: 0, relative: 0 } : attention.tolerance(device);
    const cancellation = (element: number) =>
      name === "output" || name === "weights"
        ? attention.cancellation(rowOf(attention.problem, name, element))
        : 0;
    // WGSL lets a GPU assume that there are no NaN and infinities: where forbidden keys hold them, what
    // the raw scores show of them is not tested there.
    const raw = device === "webgpu" && (name === "scores" || name === "softcappedScores");
    const target = raw ? ignoringNonFinite(view, expected[name]) : expected[name];
    assertClose(name, view, target, tolerance, context, cancellation);
  }
}

/** The row, of `[batch, queryHeads, queries]`, that an element of an output belongs to. */
function rowOf(
  { queryHeads, queries, keys, strides }: AttentionProblem,
  name: "output" | "weights",
  element: number,
): number {
  if (name === "weights") return Math.floor(element / keys);
  const { batch, head, row } = strides.output;
  const b = Math.floor(element / batch);
  const h = Math.floor(element / head) % queryHeads;
  return (b * queryHeads + h) * queries + (Math.floor(element / row) % queries);
}

function ignoringNonFinite(got: HostView, expected: Float64Array): Float64Array {
  const values = toFloat64(got);
  return expected.map((target, i) =>
    Number.isFinite(target) ? target : (values[i] ?? Number.NaN),
  );
}

function floatTensor(dtype: DType, shape: Shape, next: () => number): Tensor {
  const values = new Float32Array(elementCount(shape));
  for (let i = 0; i < values.length; i++) values[i] = next();
  return dtype === "float16" || dtype === "bfloat16"
    ? tensor(fromFloat32(values, dtype), shape, dtype)
    : tensor(values, shape);
}

/** A mask with holes, whole rows without a key, and, where it is added, the lowest finite numbers. */
function maskTensor(mask: MaskDescription, target: Shape, generator: Random): Tensor {
  const [batch, head, query, keys] = target as [number, number, number, number];
  const short = keys > 2 ? generator.integer(2, keys - 1) : keys;
  const shape = [
    mask.batch ? batch : 1,
    mask.head ? head : 1,
    mask.query ? query : 1,
    { full: keys, one: 1, short }[mask.key],
  ].slice(-mask.rank);
  const width = shape.at(-1)!;
  const lowest = mask.dtype === "float16" ? -65504 : -(2 ** 127) * 1.9921875;
  let column = 0;
  let emptyRow = false;
  const next = () => {
    if (column === 0) emptyRow = generator.uniform() < 0.1;
    column = (column + 1) % width;
    const kind = generator.uniform();
    const forbidden = emptyRow || kind < 0.2;
    if (mask.dtype === "bool") return forbidden ? 0 : 1;
    if (forbidden) return -Infinity;
    return kind < 0.25 ? lowest : generator.normal();
  };
  if (mask.dtype === "bool")
    return tensor(Uint8Array.from({ length: elementCount(shape) }, next), shape);
  return floatTensor(mask.dtype, shape, next);
}

function lengthsTensor(batch: number, keys: number, generator: Random): Tensor {
  const length = () => {
    const kind = generator.uniform();
    if (kind < 0.1) return 0;
    return kind < 0.3 ? keys : generator.integer(1, keys);
  };
  return tensor(Int32Array.from({ length: batch }, length), [batch]);
}

/** A bound on the size of scores: what rounding errors in them are relative to. */
function scoreSpread(problem: AttentionProblem, inputs: AttentionInputs<Tensor>): number {
  const longest = (parts: (Tensor | undefined)[], width: number) => {
    let result = 0;
    for (const part of parts) {
      if (!part) continue;
      const data = toFloat64(part);
      for (let row = 0; row < data.length; row += width) {
        let square = 0;
        for (let c = 0; c < width; c++) square += data[row + c]! ** 2;
        result = Math.max(result, square);
      }
    }
    return Math.sqrt(result);
  };
  const { depth, scale } = problem;
  return (
    Math.abs(scale) * longest([inputs.query], depth) * longest([inputs.key, inputs.pastKey], depth)
  );
}

function plant(
  d: AttentionCaseDescription,
  problem: AttentionProblem,
  inputs: AttentionInputs<Tensor>,
  generator: Random,
): void {
  const { batch, kvHeads, keys, past, depth, valueDepth } = problem;
  const mask = inputs.mask && toFloat64(inputs.mask);
  const poisons = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  const put = (isKey: boolean, b: number, h: number, j: number, number: number) => {
    const width = isKey ? depth : valueDepth;
    const [fresh, old] = isKey ? [inputs.key, inputs.pastKey] : [inputs.value, inputs.pastValue];
    const inPast = j < past;
    const rows = inPast ? past : keys - past;
    const row = inPast ? j : j - past;
    const packed = d.layout === "packed" && !inPast;
    const at = packed ? (b * rows + row) * kvHeads + h : (b * kvHeads + h) * rows + row;
    const { data } = (inPast ? old : fresh)!;
    data[at * width + generator.integer(0, width - 1)] =
      problem.dtype === "float32" ? number : fromFloat32([number], problem.dtype)[0]!;
  };
  if (d.plant === "nan") {
    for (let count = 0; count < 2; count++) {
      const [b, h] = [generator.integer(0, batch - 1), generator.integer(0, kvHeads - 1)];
      put(generator.uniform() < 0.3, b, h, generator.integer(0, keys - 1), Number.NaN);
    }
    return;
  }
  for (let b = 0; b < batch; b++)
    for (let h = 0; h < kvHeads; h++) {
      const seen = seenKeys(problem, mask, inputs.kvLengths?.data[b] ?? keys, b, h);
      for (let j = 0; j < keys; j++)
        for (const isKey of [true, false])
          if (!seen[j]) put(isKey, b, h, j, poisons[generator.integer(0, 2)]!);
    }
}

/** Which keys of a key/value head any query may see. */
function seenKeys(
  problem: AttentionProblem,
  mask: Float64Array | undefined,
  kvLength: number,
  b: number,
  kvHead: number,
): Uint8Array {
  const group = problem.queryHeads / problem.kvHeads;
  const offset = positionOffset(problem, kvLength);
  const forbids = problem.mask?.dtype === "bool" ? 0 : -Infinity;
  const seen = new Uint8Array(problem.keys);
  for (let h = kvHead * group; h < (kvHead + 1) * group; h++)
    for (let i = 0; i < problem.queries; i++) {
      const end = endKey(problem, offset + i, kvLength);
      for (let j = firstKey(problem, offset + i); j < end; j++) {
        const { batch, head, query, key } = problem.mask?.strides ?? {
          batch: 0,
          head: 0,
          query: 0,
          key: 0,
        };
        if (!mask || mask[b * batch + h * head + i * query + j * key] !== forbids) seen[j] = 1;
      }
    }
  return seen;
}
