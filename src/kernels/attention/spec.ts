import type { HostView, TensorShape } from "../../devices/kernel.ts";
import { refuse } from "../../errors.ts";
import { checkDType, type DType } from "../../tensor/dtype.ts";
import { checkShape, type Shape } from "../../tensor/shape.ts";
import type {
  AttentionDType,
  AttentionOutput,
  AttentionProblem,
  MaskLayout,
  RowStrides,
} from "./problem.ts";

/** The longest query, key or value that the kernels take. */
export const maximumDepth = 512;

/** Every output, in the order in which attention computes them. */
export const attentionOutputs: readonly AttentionOutput[] = [
  "output",
  "lse",
  "scores",
  "softcappedScores",
  "biasedScores",
  "weights",
  "presentKey",
  "presentValue",
];

/**
 * What can be asked of attention, for tensors of kind `T`. The options cover ONNX `Attention`
 * (opsets 23 to 25) in full; `scale`, `causal` and `mask` are those of PyTorch's
 * `scaled_dot_product_attention`.
 *
 * For each query row: `scores = scale · q·kᵀ`; `softcap · tanh(scores / softcap)`; plus the mask, −∞ at
 * every forbidden key; `weights = softmax`; `output = weights · v`. A row without an allowed key is zeros.
 *
 * Sizes below: `past` keys of the cache, `kv` keys of the call, `keys = past + kv`.
 *
 * @see https://onnx.ai/onnx/operators/onnx__Attention.html
 * @see https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html
 */
export interface AttentionOptions<T> {
  /**
   * Multiplies q·kᵀ. Finite. Default: 1 for `attention`, 1/√depth for `scaledDotProductAttention`.
   */
  readonly scale?: number | undefined;
  /**
   * Key `j` is allowed to query row `i` only where `j ≤ i + offset`. The offset is the length of the
   * past; without a past, `kvLengths[batch] − queries`; without either, 0. Default: false.
   */
  readonly causal?: boolean | undefined;
  /**
   * Key `j` is allowed to the query at position `p = i + offset` only where `p − left ≤ j ≤ p + right`;
   * −1 leaves a side open. Default: `[-1, -1]`.
   */
  readonly window?: readonly [left: number, right: number] | undefined;
  /**
   * bool (1: may attend) or float32, float16, bfloat16 (added to the scores; −∞ forbids), whatever the
   * dtype of q. Any shape that broadcasts to `[batch, queryHeads, queries, keys]`, aligned on the right.
   * A last axis of 2 or more that is shorter than `keys` forbids the keys that it lacks.
   */
  readonly mask?: T | undefined;
  /** Where above 0, scores become `softcap · tanh(scores / softcap)`. Finite, not negative. Default: 0. */
  readonly softcap?: number | undefined;
  /** int32 `[batch]`: keys from `kvLengths[batch]` on are forbidden. Not together with a past. */
  readonly kvLengths?: T | undefined;
  /** `[batch, kvHeads, past, depth]`: keys put before `k`. Needs `pastValue`, and q of rank 3 or 4. */
  readonly pastKey?: T | undefined;
  /** `[batch, kvHeads, past, valueDepth]`: values put before `v`. Needs `pastKey`. */
  readonly pastValue?: T | undefined;
  /** Heads of a packed `q: [batch, queries, queryHeads·depth]`; needed there. */
  readonly queryHeads?: number | undefined;
  /** Heads of packed `k`, `v`: `[batch, kv, kvHeads·depth]`. Default: `queryHeads`. */
  readonly kvHeads?: number | undefined;
  /** Rounds the softmax's input to this dtype first. The arithmetic is float32 or better regardless. */
  readonly softmaxDtype?: AttentionDType | undefined;
  /**
   * What to return beside `output`. `lse` is float32, the rest has q's dtype.
   * - `lse`: `[batch, queryHeads, queries]`, or `[queries]` or `[]`: the natural log of each row's
   *   `Σ exp(biasedScores)`, −∞ for an empty row; what FlashAttention keeps of a row to merge or
   *   differentiate it (https://arxiv.org/abs/2205.14135).
   * - `scores`, `softcappedScores`, `biasedScores`, `weights`: `[batch, queryHeads, queries, keys]`, or
   *   `[queries, keys]` or `[keys]`: ONNX's `qk_matmul_output`, its modes 0 to 3.
   * - `presentKey`, `presentValue`: `[batch, kvHeads, keys, depth | valueDepth]`: the past and then
   *   `k`, `v`. For q of rank 3 or 4.
   */
  readonly outputs?: readonly AttentionOutput[] | undefined;
  /** Forces a kernel variant by name, for tests and benchmarks. Default: chosen by measured rules. */
  readonly variant?: string | undefined;
}

/** The input tensors of one attention call. */
export interface AttentionInputs<T> {
  readonly query: T;
  readonly key: T;
  readonly value: T;
  readonly pastKey?: T | undefined;
  readonly pastValue?: T | undefined;
  readonly mask?: T | undefined;
  readonly kvLengths?: T | undefined;
}

/** The output tensors of one attention call. */
export type AttentionResults<T> = { readonly output: T } & {
  readonly [Name in AttentionOutput]?: T | undefined;
};

/** A checked attention call. */
export interface ResolvedAttention {
  readonly problem: AttentionProblem;
  /** Dtype and shape of each output in `problem.outputs`. */
  readonly outputShapes: AttentionResults<TensorShape>;
  /** The variant asked for, unchecked: the choice of kernels knows which there are. */
  readonly variant?: string;
}

/** The default scale of `attention`. */
export const unscaled = (): number => 1;

/** The default scale of `scaledDotProductAttention`. */
export const inverseRootDepth = (depth: number): number => 1 / Math.sqrt(depth);

const optionNames: readonly (keyof AttentionOptions<unknown>)[] = [
  "scale",
  "causal",
  "window",
  "mask",
  "softcap",
  "kvLengths",
  "pastKey",
  "pastValue",
  "queryHeads",
  "kvHeads",
  "softmaxDtype",
  "outputs",
  "variant",
];

const floatDTypes: readonly DType[] = ["float32", "float16", "bfloat16"];

/**
 * Checks one attention call and reduces it to an {@link AttentionProblem}: the one answer to "is this
 * supported?" for every device.
 *
 * | layout | query | key | value | output |
 * |---|---|---|---|---|
 * | vector | `[d]` | `[kv, d]` | `[kv, dv]` | `[dv]` |
 * | matrix | `[q, d]` | `[kv, d]` | `[kv, dv]` | `[q, dv]` |
 * | 4-D | `[batch, queryHeads, q, d]` | `[batch, kvHeads, kv, d]` | `[batch, kvHeads, kv, dv]` | `[batch, queryHeads, q, dv]` |
 * | packed | `[batch, q, queryHeads·d]` | `[batch, kv, kvHeads·d]` | `[batch, kv, kvHeads·dv]` | `[batch, q, queryHeads·dv]` |
 *
 * @param operation Name that errors begin with.
 * @param query,key,value float32, float16 or bfloat16, one dtype for all three.
 * @param options See {@link AttentionOptions}; of the tensors among them only dtype and shape are read.
 * @param defaultScale {@link unscaled} or {@link inverseRootDepth}.
 * @throws QkvError naming the operation, the argument, the rule and what it got.
 */
export function resolveAttention(
  operation: string,
  query: TensorShape,
  key: TensorShape,
  value: TensorShape,
  options: AttentionOptions<TensorShape>,
  defaultScale: (depth: number) => number,
): ResolvedAttention {
  if (typeof options !== "object" || options === null || Array.isArray(options))
    refuse(operation, "options must be an object", options);
  for (const name of Object.keys(options))
    if (!(optionNames as readonly string[]).includes(name))
      refuse(operation, `options must be among ${optionNames.join(", ")}`, name);

  const dtype = checkInputs(operation, query, key, value);
  const layout = readLayout(operation, query.shape, key.shape, value.shape, options);
  const { rank, batch, queryHeads, kvHeads, queries, depth, valueDepth } = layout;
  if (queryHeads % kvHeads !== 0)
    refuse(
      operation,
      `query heads must be a multiple of key heads, got ${queryHeads} and ${kvHeads}`,
    );
  for (const [name, width] of [
    ["depth", depth],
    ["value depth", valueDepth],
  ] as const)
    if (width > maximumDepth) refuse(operation, `${name} must be at most ${maximumDepth}`, width);

  const past = checkPast(operation, options, layout, query.shape, dtype);
  const keys = past + layout.kv;
  const hasLengths = checkLengthsShape(operation, options.kvLengths, batch, past);
  const mask =
    options.mask && maskLayout(operation, options.mask, [batch, queryHeads, queries, keys]);
  const outputs = wantedOutputs(operation, options.outputs, query.shape);
  const scalars = checkScalars(operation, options, defaultScale(depth));

  const packed = rank === 3;
  const problem: AttentionProblem = {
    dtype,
    batch,
    queryHeads,
    kvHeads,
    queries,
    keys,
    depth,
    valueDepth,
    past,
    ...scalars,
    ...(mask && { mask }),
    kvLengths: hasLengths,
    outputs,
    strides: {
      query: strides(packed, queryHeads, queries, depth),
      key: strides(packed && past === 0, kvHeads, keys, depth),
      value: strides(packed && past === 0, kvHeads, keys, valueDepth),
      output: strides(packed, queryHeads, queries, valueDepth),
    },
  };

  const rows = [[], [queries], [batch, queryHeads, queries], [batch, queryHeads, queries]][
    rank - 1
  ]!;
  const shapes: Record<AttentionOutput, Shape> = {
    output: packed ? [batch, queries, queryHeads * valueDepth] : [...rows, valueDepth],
    lse: rows,
    scores: [...rows, keys],
    softcappedScores: [...rows, keys],
    biasedScores: [...rows, keys],
    weights: [...rows, keys],
    presentKey: [batch, kvHeads, keys, depth],
    presentValue: [batch, kvHeads, keys, valueDepth],
  };
  const outputShapes: Partial<Record<AttentionOutput, TensorShape>> = {};
  for (const name of outputs)
    outputShapes[name] = { dtype: name === "lse" ? "float32" : dtype, shape: shapes[name] };

  return {
    problem,
    outputShapes: outputShapes as AttentionResults<TensorShape>,
    ...(options.variant !== undefined && { variant: options.variant }),
  };
}

/**
 * Checks the elements of a host `kvLengths` tensor; those of a device tensor are not read back.
 *
 * @throws QkvError if an entry is not an integer from 0 to `problem.keys`.
 */
export function checkKvLengths(
  operation: string,
  problem: AttentionProblem,
  kvLengths: HostView,
): void {
  for (let b = 0; b < problem.batch; b++) {
    const length = kvLengths.data[b];
    if (length === undefined || !Number.isInteger(length) || length < 0 || length > problem.keys)
      refuse(operation, `kvLengths[${b}] must be an integer from 0 to ${problem.keys}`, length);
  }
}

/**
 * Strides of a contiguous key or value tensor as it is given, before any past is put in front: rank 2,
 * 3 (packed) or 4.
 */
export function inputStrides(shape: Shape, heads: number): RowStrides {
  const [rows, width] = shape.slice(-2) as [number, number];
  return shape.length === 3
    ? strides(true, heads, rows, width / heads)
    : strides(false, heads, rows, width);
}

function strides(packed: boolean, heads: number, rows: number, width: number): RowStrides {
  return packed
    ? { batch: rows * heads * width, head: width, row: heads * width }
    : { batch: heads * rows * width, head: rows * width, row: width };
}

function checkInputs(
  operation: string,
  query: TensorShape,
  key: TensorShape,
  value: TensorShape,
): AttentionDType {
  for (const [name, tensor] of Object.entries({ query, key, value })) {
    checkDType(operation, tensor.dtype);
    checkShape(operation, name, tensor.shape);
    if (!floatDTypes.includes(tensor.dtype))
      refuse(operation, `${name} must be float32, float16 or bfloat16`, tensor.dtype);
    if (tensor.dtype !== query.dtype)
      refuse(operation, `${name} must have query's dtype ${query.dtype}`, tensor.dtype);
  }
  return query.dtype as AttentionDType;
}

interface Layout {
  /** 1: vector, 2: matrix, 3: packed, 4: BHSD. */
  readonly rank: number;
  readonly batch: number;
  readonly queryHeads: number;
  readonly kvHeads: number;
  readonly queries: number;
  /** Keys of `key`, without the past. */
  readonly kv: number;
  readonly depth: number;
  readonly valueDepth: number;
}

function readLayout(
  operation: string,
  query: Shape,
  key: Shape,
  value: Shape,
  options: AttentionOptions<TensorShape>,
): Layout {
  const rank = query.length;
  if (rank < 1 || rank > 4)
    refuse(operation, "query must have a rank of 1 (vector), 2 (matrix), 3 (packed) or 4", query);
  const kvRank = Math.max(2, rank);
  for (const [name, shape] of Object.entries({ key, value }))
    if (shape.length !== kvRank)
      refuse(operation, `${name} must have rank ${kvRank} where query has rank ${rank}`, shape);
  for (const name of ["queryHeads", "kvHeads"] as const) {
    const heads = options[name];
    if (heads !== undefined && !(Number.isSafeInteger(heads) && heads >= 1))
      refuse(operation, `${name} must be an integer of 1 or more`, heads);
  }

  const layout =
    rank === 3
      ? packedLayout(operation, query, key, value, options)
      : unpackedLayout(query, key, value);
  const [keyBatch, valueBatch] = rank > 2 ? [key[0]!, value[0]!] : [1, 1];
  const valueKeys = value.at(-2)!;
  const keyDepth = key.at(-1)! / (rank === 3 ? layout.kvHeads : 1);
  const equal = (name: string, got: number, rule: string, expected: number) => {
    if (got !== expected)
      refuse(operation, `${name} must equal ${rule}, got ${got} and ${expected}`);
  };
  equal("key batch", keyBatch, "query batch", layout.batch);
  equal("value batch", valueBatch, "query batch", layout.batch);
  if (rank === 4) equal("value heads", value[1]!, "key heads", layout.kvHeads);
  equal("value sequence length", valueKeys, "key sequence length", layout.kv);
  equal("key depth", keyDepth, "query depth", layout.depth);
  if (rank === 4) {
    equal(
      "queryHeads",
      options.queryHeads ?? layout.queryHeads,
      "axis 1 of query",
      layout.queryHeads,
    );
    equal("kvHeads", options.kvHeads ?? layout.kvHeads, "axis 1 of key", layout.kvHeads);
  }
  if (rank < 3)
    for (const name of ["queryHeads", "kvHeads"] as const)
      if (options[name] !== undefined)
        refuse(operation, `${name} must not be given where query has rank ${rank}`, options[name]);
  return layout;
}

function unpackedLayout(query: Shape, key: Shape, value: Shape): Layout {
  const rank = query.length;
  return {
    rank,
    batch: rank === 4 ? query[0]! : 1,
    queryHeads: rank === 4 ? query[1]! : 1,
    kvHeads: rank === 4 ? key[1]! : 1,
    queries: rank === 1 ? 1 : query.at(-2)!,
    kv: key.at(-2)!,
    depth: query.at(-1)!,
    valueDepth: value.at(-1)!,
  };
}

function packedLayout(
  operation: string,
  query: Shape,
  key: Shape,
  value: Shape,
  options: AttentionOptions<TensorShape>,
): Layout {
  const { queryHeads } = options;
  if (queryHeads === undefined)
    refuse(operation, "queryHeads must be given where query has rank 3", query);
  const kvHeads = options.kvHeads ?? queryHeads;
  for (const [name, shape, option, heads] of [
    ["query", query, "queryHeads", queryHeads],
    ["key", key, "kvHeads", kvHeads],
    ["value", value, "kvHeads", kvHeads],
  ] as const)
    if (shape[2]! % heads !== 0)
      refuse(
        operation,
        `${name}'s last axis must be a multiple of ${option}, got ${shape[2]} and ${heads}`,
      );
  return {
    rank: 3,
    batch: query[0]!,
    queryHeads,
    kvHeads,
    queries: query[1]!,
    kv: key[1]!,
    depth: query[2]! / queryHeads,
    valueDepth: value[2]! / kvHeads,
  };
}

/** The number of keys in the past; 0 where there is none. */
function checkPast(
  operation: string,
  options: AttentionOptions<TensorShape>,
  layout: Layout,
  query: Shape,
  dtype: AttentionDType,
): number {
  const { pastKey, pastValue } = options;
  if (pastKey === undefined && pastValue === undefined) return 0;
  if (pastKey === undefined) refuse(operation, "pastKey must be given with pastValue");
  if (pastValue === undefined) refuse(operation, "pastValue must be given with pastKey");
  if (layout.rank < 3)
    refuse(operation, "pastKey and pastValue need a query of rank 3 or 4", [...query]);
  for (const [name, tensor, width] of [
    ["pastKey", pastKey, layout.depth],
    ["pastValue", pastValue, layout.valueDepth],
  ] as const) {
    checkDType(operation, tensor.dtype);
    checkShape(operation, name, tensor.shape);
    if (tensor.dtype !== dtype)
      refuse(operation, `${name} must have query's dtype ${dtype}`, tensor.dtype);
    const { shape } = tensor;
    const fits =
      shape.length === 4 &&
      shape[0] === layout.batch &&
      shape[1] === layout.kvHeads &&
      shape[3] === width;
    if (!fits)
      refuse(
        operation,
        `${name} must have shape [${layout.batch}, ${layout.kvHeads}, past, ${width}]`,
        shape,
      );
  }
  const past = pastKey.shape[2]!;
  if (pastValue.shape[2] !== past)
    refuse(
      operation,
      `pastValue's length must equal pastKey's, got ${pastValue.shape[2]} and ${past}`,
    );
  return past;
}

function checkLengthsShape(
  operation: string,
  kvLengths: TensorShape | undefined,
  batch: number,
  past: number,
): boolean {
  if (kvLengths === undefined) return false;
  if (past > 0) refuse(operation, "kvLengths must not be given with pastKey and pastValue");
  checkDType(operation, kvLengths.dtype);
  checkShape(operation, "kvLengths", kvLengths.shape);
  if (kvLengths.dtype !== "int32") refuse(operation, "kvLengths must be int32", kvLengths.dtype);
  if (kvLengths.shape.length !== 1 || kvLengths.shape[0] !== batch)
    refuse(operation, `kvLengths must have shape [${batch}]`, kvLengths.shape);
  return true;
}

function maskLayout(
  operation: string,
  mask: TensorShape,
  target: readonly [batch: number, queryHeads: number, queries: number, keys: number],
): MaskLayout {
  const { dtype, shape } = mask;
  checkDType(operation, dtype);
  checkShape(operation, "mask", shape);
  if (dtype !== "bool" && !floatDTypes.includes(dtype))
    refuse(operation, "mask must be bool, float32, float16 or bfloat16", dtype);
  const keys = target[3];
  const axes = [1, 1, 1, 1, ...shape].slice(-4) as [number, number, number, number];
  const broadcasts =
    shape.length <= 4 &&
    axes.every(
      (length, axis) => length === 1 || (axis === 3 ? length <= keys : length === target[axis]),
    );
  if (!broadcasts) refuse(operation, `mask must broadcast to [${target.join(", ")}]`, shape);

  const stride = (axis: number) =>
    axes[axis] === 1 ? 0 : axes.slice(axis + 1).reduce((product, length) => product * length, 1);
  return {
    dtype,
    strides: { batch: stride(0), head: stride(1), query: stride(2), key: stride(3) },
    keys: axes[3] === 1 ? keys : axes[3],
  };
}

function wantedOutputs(
  operation: string,
  outputs: readonly AttentionOutput[] | undefined,
  query: Shape,
): readonly AttentionOutput[] {
  if (outputs === undefined) return ["output"];
  if (!Array.isArray(outputs)) refuse(operation, "outputs must be an array of names", outputs);
  for (const name of outputs) {
    if (!attentionOutputs.includes(name))
      refuse(operation, `outputs must be among ${attentionOutputs.join(", ")}`, name);
    if (name.startsWith("present") && query.length < 3)
      refuse(operation, `output ${name} needs a query of rank 3 or 4`, [...query]);
  }
  return attentionOutputs.filter((name) => name === "output" || outputs.includes(name));
}

/** The options that are no tensors, no heads and no outputs, with their defaults. */
function checkScalars(
  operation: string,
  options: AttentionOptions<TensorShape>,
  defaultScale: number,
): Pick<AttentionProblem, "scale" | "softcap" | "causal" | "window" | "softmaxDtype"> {
  const { scale = defaultScale, softcap = 0, causal = false, window = [-1, -1] } = options;
  const { softmaxDtype, variant } = options;
  if (!Number.isFinite(scale)) refuse(operation, "scale must be a finite number", scale);
  if (!Number.isFinite(softcap) || softcap < 0)
    refuse(operation, "softcap must be a finite number of 0 or more", softcap);
  if (typeof causal !== "boolean") refuse(operation, "causal must be true or false", causal);
  const sides: unknown = window;
  const isWindow =
    Array.isArray(sides) &&
    sides.length === 2 &&
    sides.every((side) => Number.isSafeInteger(side) && side >= -1);
  if (!isWindow) refuse(operation, "window must be two integers of -1 or more", sides);
  if (softmaxDtype !== undefined && !floatDTypes.includes(softmaxDtype))
    refuse(operation, "softmaxDtype must be float32, float16 or bfloat16", softmaxDtype);
  if (variant !== undefined && typeof variant !== "string")
    refuse(operation, "variant must be a string", variant);
  return {
    scale,
    softcap,
    causal,
    window: [window[0], window[1]],
    ...(softmaxDtype && { softmaxDtype }),
  };
}
