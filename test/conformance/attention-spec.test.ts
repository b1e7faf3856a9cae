import { describe, test } from "node:test";
import { assert } from "chai";
import type { TensorShape } from "../../src/devices/kernel.ts";
import { QkvError } from "../../src/errors.ts";
import {
  type AttentionOptions,
  checkKvLengths,
  inverseRootDepth,
  resolveAttention,
  unscaled,
} from "../../src/kernels/attention/spec.ts";
import type { DType } from "../../src/tensor/dtype.ts";
import { checkTensor, tensor } from "../../src/tensor/tensor.ts";

const type = (shape: readonly number[], dtype: DType = "float32"): TensorShape => ({
  dtype,
  shape,
});
// The types forbid some of what is tested here.
type Loose = { [Name in keyof AttentionOptions<TensorShape>]?: unknown } & Record<string, unknown>;
const resolve = (
  query: TensorShape,
  key: TensorShape,
  value: TensorShape,
  options: Loose = {},
  scale = inverseRootDepth,
) =>
  resolveAttention("attention", query, key, value, options as AttentionOptions<TensorShape>, scale);

// batch 2, 6 query heads, 3 key heads, 4 queries, 10 keys, depth 8, value depth 5
const q = type([2, 6, 4, 8]);
const k = type([2, 3, 10, 8]);
const v = type([2, 3, 10, 5]);
const past = { pastKey: type([2, 3, 7, 8]), pastValue: type([2, 3, 7, 5]) };

describe("attention: bad input", () => {
  const refused: [rule: string, call: () => unknown, message: string][] = [
    [
      "wrong rank of query",
      () => resolve(type([1, 2, 3, 4, 5]), k, v),
      "attention: query must have a rank of 1 (vector), 2 (matrix), 3 (packed) or 4, got [1, 2, 3, 4, 5]",
    ],
    [
      "a scalar query",
      () => resolve(type([]), k, v),
      "attention: query must have a rank of 1 (vector), 2 (matrix), 3 (packed) or 4, got []",
    ],
    [
      "wrong rank of key",
      () => resolve(q, type([10, 8]), v),
      "attention: key must have rank 4 where query has rank 4, got [10, 8]",
    ],
    [
      "wrong rank of key for a vector",
      () => resolve(type([8]), type([8]), type([10, 5])),
      "attention: key must have rank 2 where query has rank 1, got [8]",
    ],
    [
      "wrong rank of value",
      () => resolve(q, k, type([3, 10, 5])),
      "attention: value must have rank 4 where query has rank 4, got [3, 10, 5]",
    ],
    [
      "mismatched depths",
      () => resolve(type([64]), type([10, 80]), type([10, 5])),
      "attention: key depth must equal query depth, got 80 and 64",
    ],
    [
      "mismatched depths of packed heads",
      () =>
        resolve(type([2, 4, 48]), type([2, 10, 30]), type([2, 10, 15]), {
          queryHeads: 6,
          kvHeads: 3,
        }),
      "attention: key depth must equal query depth, got 10 and 8",
    ],
    [
      "a depth over 512",
      () => resolve(type([513]), type([10, 513]), type([10, 5])),
      "attention: depth must be at most 512, got 513",
    ],
    [
      "a value depth over 512",
      () => resolve(type([8]), type([10, 8]), type([10, 600])),
      "attention: value depth must be at most 512, got 600",
    ],
    [
      "mismatched key batch",
      () => resolve(q, type([1, 3, 10, 8]), v),
      "attention: key batch must equal query batch, got 1 and 2",
    ],
    [
      "mismatched value batch",
      () => resolve(q, k, type([3, 3, 10, 5])),
      "attention: value batch must equal query batch, got 3 and 2",
    ],
    [
      "mismatched sequence lengths",
      () => resolve(q, k, type([2, 3, 11, 5])),
      "attention: value sequence length must equal key sequence length, got 11 and 10",
    ],
    [
      "mismatched heads of key and value",
      () => resolve(q, k, type([2, 2, 10, 5])),
      "attention: value heads must equal key heads, got 2 and 3",
    ],
    [
      "heads that do not divide",
      () => resolve(type([2, 4, 4, 8]), k, v),
      "attention: query heads must be a multiple of key heads, got 4 and 3",
    ],
    [
      "packed heads that do not divide the query",
      () =>
        resolve(type([2, 4, 48]), type([2, 10, 24]), type([2, 10, 15]), {
          queryHeads: 5,
          kvHeads: 3,
        }),
      "attention: query's last axis must be a multiple of queryHeads, got 48 and 5",
    ],
    [
      "packed heads that do not divide the value",
      () =>
        resolve(type([2, 4, 48]), type([2, 10, 24]), type([2, 10, 16]), {
          queryHeads: 6,
          kvHeads: 3,
        }),
      "attention: value's last axis must be a multiple of kvHeads, got 16 and 3",
    ],
    [
      "packed without heads",
      () => resolve(type([2, 4, 48]), type([2, 10, 48]), type([2, 10, 48]), { kvHeads: 3 }),
      "attention: queryHeads must be given where query has rank 3, got [2, 4, 48]",
    ],
    [
      "heads that are no count",
      () => resolve(type([2, 4, 48]), type([2, 10, 48]), type([2, 10, 48]), { queryHeads: 1.5 }),
      "attention: queryHeads must be an integer of 1 or more, got 1.5",
    ],
    [
      "queryHeads that contradicts the shape",
      () => resolve(q, k, v, { queryHeads: 3 }),
      "attention: queryHeads must equal axis 1 of query, got 3 and 6",
    ],
    [
      "kvHeads that contradicts the shape",
      () => resolve(q, k, v, { kvHeads: 6 }),
      "attention: kvHeads must equal axis 1 of key, got 6 and 3",
    ],
    [
      "heads with a layout that has none",
      () => resolve(type([8]), type([10, 8]), type([10, 5]), { kvHeads: 1 }),
      "attention: kvHeads must not be given where query has rank 1, got 1",
    ],
    [
      "an unknown dtype",
      () => resolve(type([8], "float64" as DType), type([10, 8]), type([10, 5])),
      'attention: dtype must be one of float32, float16, bfloat16, int32, bool, got "float64"',
    ],
    [
      "a dtype that is no float",
      () => resolve(type([8], "int32"), type([10, 8]), type([10, 5])),
      'attention: query must be float32, float16 or bfloat16, got "int32"',
    ],
    [
      "mixed dtypes",
      () => resolve(type([8]), type([10, 8], "float16"), type([10, 5])),
      'attention: key must have query\'s dtype float32, got "float16"',
    ],
    [
      "a past of another dtype",
      () => resolve(q, k, v, { ...past, pastValue: type([2, 3, 7, 5], "bfloat16") }),
      'attention: pastValue must have query\'s dtype float32, got "bfloat16"',
    ],
    [
      "a mask that does not broadcast",
      () => resolve(q, k, v, { mask: type([3, 10]) }),
      "attention: mask must broadcast to [2, 6, 4, 10], got [3, 10]",
    ],
    [
      "a mask of kvHeads heads",
      () => resolve(q, k, v, { mask: type([3, 1, 1]) }),
      "attention: mask must broadcast to [2, 6, 4, 10], got [3, 1, 1]",
    ],
    [
      "a mask longer than the keys",
      () => resolve(q, k, v, { mask: type([11]) }),
      "attention: mask must broadcast to [2, 6, 4, 10], got [11]",
    ],
    [
      "a mask of rank 5",
      () => resolve(q, k, v, { mask: type([1, 1, 1, 1, 10]) }),
      "attention: mask must broadcast to [2, 6, 4, 10], got [1, 1, 1, 1, 10]",
    ],
    [
      "an integer mask",
      () => resolve(q, k, v, { mask: type([10], "int32") }),
      'attention: mask must be bool, float32, float16 or bfloat16, got "int32"',
    ],
    [
      "pastKey alone",
      () => resolve(q, k, v, { pastKey: past.pastKey }),
      "attention: pastValue must be given with pastKey",
    ],
    [
      "pastValue alone",
      () => resolve(q, k, v, { pastValue: past.pastValue }),
      "attention: pastKey must be given with pastValue",
    ],
    [
      "a past of another shape",
      () => resolve(q, k, v, { ...past, pastKey: type([2, 3, 7, 9]) }),
      "attention: pastKey must have shape [2, 3, past, 8], got [2, 3, 7, 9]",
    ],
    [
      "halves of the past of two lengths",
      () => resolve(q, k, v, { ...past, pastValue: type([2, 3, 6, 5]) }),
      "attention: pastValue's length must equal pastKey's, got 6 and 7",
    ],
    [
      "a past without heads",
      () => resolve(type([4, 8]), type([10, 8]), type([10, 5]), past),
      "attention: pastKey and pastValue need a query of rank 3 or 4, got [4, 8]",
    ],
    [
      "kvLengths with a past",
      () => resolve(q, k, v, { ...past, kvLengths: type([2], "int32") }),
      "attention: kvLengths must not be given with pastKey and pastValue",
    ],
    [
      "kvLengths of another shape",
      () => resolve(q, k, v, { kvLengths: type([3], "int32") }),
      "attention: kvLengths must have shape [2], got [3]",
    ],
    [
      "kvLengths of another dtype",
      () => resolve(q, k, v, { kvLengths: type([2]) }),
      'attention: kvLengths must be int32, got "float32"',
    ],
    [
      "kvLengths above the keys",
      () => lengths([10, 11]),
      "attention: kvLengths[1] must be an integer from 0 to 10, got 11",
    ],
    [
      "kvLengths below 0",
      () => lengths([-1, 10]),
      "attention: kvLengths[0] must be an integer from 0 to 10, got -1",
    ],
    [
      "a negative softcap",
      () => resolve(q, k, v, { softcap: -1 }),
      "attention: softcap must be a finite number of 0 or more, got -1",
    ],
    [
      "a softcap of NaN",
      () => resolve(q, k, v, { softcap: Number.NaN }),
      "attention: softcap must be a finite number of 0 or more, got NaN",
    ],
    [
      "an infinite scale",
      () => resolve(q, k, v, { scale: Infinity }),
      "attention: scale must be a finite number, got Infinity",
    ],
    [
      "a scale of NaN",
      () => resolve(q, k, v, { scale: Number.NaN }),
      "attention: scale must be a finite number, got NaN",
    ],
    [
      "a scale that is no number",
      () => resolve(q, k, v, { scale: "1" }),
      'attention: scale must be a finite number, got "1"',
    ],
    [
      "causal that is no boolean",
      () => resolve(q, k, v, { causal: 1 }),
      "attention: causal must be true or false, got 1",
    ],
    [
      "a window of one side",
      () => resolve(q, k, v, { window: [4] }),
      "attention: window must be two integers of -1 or more, got [4]",
    ],
    [
      "a window below -1",
      () => resolve(q, k, v, { window: [-2, 0] }),
      "attention: window must be two integers of -1 or more, got [-2, 0]",
    ],
    [
      "an unknown softmaxDtype",
      () => resolve(q, k, v, { softmaxDtype: "int32" }),
      'attention: softmaxDtype must be float32, float16 or bfloat16, got "int32"',
    ],
    [
      "an unknown output",
      () => resolve(q, k, v, { outputs: ["logits"] }),
      "attention: outputs must be among output, lse, scores, softcappedScores, biasedScores, weights, " +
        'presentKey, presentValue, got "logits"',
    ],
    [
      "outputs that are no list",
      () => resolve(q, k, v, { outputs: "lse" }),
      'attention: outputs must be an array of names, got "lse"',
    ],
    [
      "a present without heads",
      () => resolve(type([8]), type([10, 8]), type([10, 5]), { outputs: ["presentKey"] }),
      "attention: output presentKey needs a query of rank 3 or 4, got [8]",
    ],
    [
      "an unknown option name",
      () => resolve(q, k, v, { casual: true }),
      "attention: options must be among scale, causal, window, mask, softcap, kvLengths, pastKey, " +
        'pastValue, queryHeads, kvHeads, softmaxDtype, outputs, variant, got "casual"',
    ],
    [
      "options that are none",
      () => resolve(q, k, v, null as unknown as Loose),
      "attention: options must be an object, got null",
    ],
    [
      "a variant that is no name",
      () => resolve(q, k, v, { variant: 1 }),
      "attention: variant must be a string, got 1",
    ],
    [
      "a zero-size dimension",
      () => resolve(q, type([2, 3, 0, 8]), type([2, 3, 0, 5])),
      "attention: key must be a shape of integers of 1 or more, got [2, 3, 0, 8]",
    ],
    [
      "a past of length 0",
      () => resolve(q, k, v, { ...past, pastKey: type([2, 3, 0, 8]) }),
      "attention: pastKey must be a shape of integers of 1 or more, got [2, 3, 0, 8]",
    ],
    [
      "a tensor whose data is shorter than its shape",
      () =>
        checkTensor("attention", "query", {
          data: new Float32Array(7),
          shape: [8],
          dtype: "float32",
        }),
      "attention: query's data must hold the 8 elements of its shape [8], got 7",
    ],
  ];
  for (const [rule, call, message] of refused)
    test(rule, () => {
      let thrown: unknown;
      try {
        call();
      } catch (error) {
        thrown = error;
      }
      assert.instanceOf(thrown, QkvError);
      assert.equal((thrown as QkvError).message, message);
    });

  function lengths(values: number[]): void {
    const { problem } = resolve(q, k, v, { kvLengths: type([2], "int32") });
    checkKvLengths("attention", problem, tensor(new Int32Array(values)));
  }

  test("kvLengths from 0 to the number of keys pass", () => lengths([0, 10]));
});

describe("attention: layouts", () => {
  const all = { outputs: ["lse", "scores", "softcappedScores", "biasedScores", "weights"] };
  const shapesOf = (resolved: ReturnType<typeof resolve>) =>
    Object.fromEntries(
      Object.entries(resolved.outputShapes).map(([name, t]) => [name, (t as TensorShape).shape]),
    );

  test("vector", () => {
    const resolved = resolve(type([8]), type([10, 8]), type([10, 5]), all);
    const { lse, output, ...rest } = shapesOf(resolved);
    assert.deepEqual(output, [5]);
    assert.deepEqual(lse, []);
    for (const shape of Object.values(rest)) assert.deepEqual(shape, [10]);
    assert.deepInclude(resolved.problem, {
      batch: 1,
      queryHeads: 1,
      kvHeads: 1,
      queries: 1,
      keys: 10,
    });
  });

  test("matrix", () => {
    const { lse, output, ...rest } = shapesOf(
      resolve(type([4, 8]), type([10, 8]), type([10, 5]), all),
    );
    assert.deepEqual(output, [4, 5]);
    assert.deepEqual(lse, [4]);
    for (const shape of Object.values(rest)) assert.deepEqual(shape, [4, 10]);
  });

  test("4-D with a past", () => {
    const outputs = [...all.outputs, "presentKey", "presentValue"];
    const resolved = resolve(q, k, v, { ...past, outputs });
    const { lse, output, presentKey, presentValue, ...rest } = shapesOf(resolved);
    assert.deepEqual(output, [2, 6, 4, 5]);
    assert.deepEqual(lse, [2, 6, 4]);
    assert.deepEqual(presentKey, [2, 3, 17, 8]);
    assert.deepEqual(presentValue, [2, 3, 17, 5]);
    for (const shape of Object.values(rest)) assert.deepEqual(shape, [2, 6, 4, 17]);
    assert.deepInclude(resolved.problem, {
      past: 7,
      keys: 17,
      queries: 4,
      depth: 8,
      valueDepth: 5,
    });
    assert.deepEqual(resolved.problem.strides.key, { batch: 3 * 17 * 8, head: 17 * 8, row: 8 });
  });

  test("packed: strides of heads side by side; contiguous behind a past", () => {
    const packed = [type([2, 4, 48]), type([2, 10, 24]), type([2, 10, 15])] as const;
    const heads = { queryHeads: 6, kvHeads: 3 };
    const { problem, outputShapes } = resolve(...packed, { ...heads, ...all });
    assert.deepEqual(outputShapes.output.shape, [2, 4, 30]);
    assert.deepEqual(outputShapes.lse?.shape, [2, 6, 4]);
    assert.deepEqual(outputShapes.weights?.shape, [2, 6, 4, 10]);
    assert.deepEqual(problem.strides, {
      query: { batch: 192, head: 8, row: 48 },
      key: { batch: 240, head: 8, row: 24 },
      value: { batch: 150, head: 5, row: 15 },
      output: { batch: 120, head: 5, row: 30 },
    });
    const behind = resolve(...packed, { ...heads, ...past }).problem.strides;
    assert.deepEqual(behind.key, { batch: 3 * 17 * 8, head: 17 * 8, row: 8 });
    assert.deepEqual(behind.output, problem.strides.output);
  });

  test("packed: kvHeads defaults to queryHeads", () => {
    const x = type([2, 4, 48]);
    assert.equal(resolve(x, x, x, { queryHeads: 6 }).problem.kvHeads, 6);
  });

  test("lse is float32, the other outputs have the dtype of query", () => {
    const half = (t: TensorShape) => type(t.shape, "float16");
    const { outputShapes } = resolve(half(q), half(k), half(v), all);
    for (const [name, t] of Object.entries(outputShapes))
      assert.equal((t as TensorShape).dtype, name === "lse" ? "float32" : "float16");
  });
});

describe("attention: options", () => {
  test("defaults", () => {
    const { problem, variant } = resolve(q, k, v, { causal: undefined, mask: undefined });
    assert.deepInclude(problem, { softcap: 0, causal: false, kvLengths: false, past: 0 });
    assert.deepEqual(problem.window, [-1, -1]);
    assert.deepEqual(problem.outputs, ["output"]);
    assert.equal(problem.scale, 1 / Math.sqrt(8));
    assert.notProperty(problem, "mask");
    assert.isUndefined(variant);
    assert.equal(resolve(q, k, v, {}, unscaled).problem.scale, 1);
    assert.equal(resolve(q, k, v, { scale: -2 }, unscaled).problem.scale, -2);
  });

  test("outputs come in one order, output among them, each once", () => {
    const { problem } = resolve(q, k, v, { outputs: ["weights", "lse", "lse"] });
    assert.deepEqual(problem.outputs, ["output", "lse", "weights"]);
  });

  test("a variant is passed on", () => {
    assert.equal(resolve(q, k, v, { variant: "decode" }).variant, "decode");
  });

  const strides = (batch: number, head: number, query: number, key: number) => ({
    batch,
    head,
    query,
    key,
  });
  for (const [shape, expected, keys] of [
    [[], strides(0, 0, 0, 0), 10],
    [[1], strides(0, 0, 0, 0), 10],
    [[10], strides(0, 0, 0, 1), 10],
    [[7], strides(0, 0, 0, 1), 7],
    [[4, 10], strides(0, 0, 10, 1), 10],
    [[4, 1], strides(0, 0, 1, 0), 10],
    [[6, 1, 10], strides(0, 10, 0, 1), 10],
    [[2, 1, 4, 10], strides(40, 0, 10, 1), 10],
    [[2, 6, 4, 3], strides(72, 12, 3, 1), 3],
    [[2, 1, 1, 1], strides(1, 0, 0, 0), 10],
  ] as const)
    test(`a mask of shape [${shape}]`, () => {
      const { problem } = resolve(q, k, v, { mask: type(shape, "bool") });
      assert.deepEqual(problem.mask, { dtype: "bool", strides: expected, keys });
    });
});
