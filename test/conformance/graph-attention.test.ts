import { before, describe, test } from "node:test";
import { assert } from "chai";
import { type Capabilities, portableCapabilities } from "../../src/devices/capabilities.ts";
import {
  type Dimension,
  type DType,
  Graph,
  InferenceSession,
  ops,
  TensorType,
  type Value,
  WebGPUDevice,
} from "../../src/index.ts";
import {
  type AttentionOptions,
  type AttentionResults,
  attentionOutputs,
} from "../../src/kernels/attention/spec.ts";
import {
  type AttentionCaseDescription,
  assertCase,
  attentionCase,
} from "../support/attention-cases.ts";
import { compileAtOnce } from "../support/compile-at-once.ts";
import { onEachDevice } from "../support/devices.ts";
import { countGPUCalls } from "../support/gpu-calls.ts";
import { PlanningDevice } from "../support/planning-device.ts";
import { random, seed } from "../support/random.ts";

// ops.scaledDotProductAttention in graphs whose dimensions have names: types, and plans for lengths that
// come with each execute, without a kernel compiled then.

const type = (shape: readonly Dimension[], dtype: DType = "float32") =>
  new TensorType(dtype, shape);

const tensorOptions = ["mask", "kvLengths", "pastKey", "pastValue"] as const;

/** The inputs of a graph of one attention. */
interface Inputs {
  readonly query: TensorType;
  readonly key: TensorType;
  readonly value: TensorType;
  readonly mask?: TensorType;
  readonly kvLengths?: TensorType;
  readonly pastKey?: TensorType;
  readonly pastValue?: TensorType;
}

/** A graph that is one attention, its outputs in the order of the documentation. */
function attentionGraph(inputs: Inputs, options: AttentionOptions<never> = {}): Graph {
  const given = tensorOptions.filter((name) => inputs[name]);
  return new Graph("attention", {
    inputTypes: [inputs.query, inputs.key, inputs.value, ...given.map((name) => inputs[name]!)],
    forward(query, key, value, ...rest) {
      const tensors = Object.fromEntries(given.map((name, i) => [name, rest[i]!]));
      const outputs = ["output", ...(options.outputs ?? [])] as const;
      const results = ops.scaledDotProductAttention(query!, key!, value!, {
        ...options,
        ...tensors,
        outputs,
      }) as AttentionResults<Value>;
      return attentionOutputs.filter((name) => results[name]).map((name) => results[name]!);
    },
  });
}

const withPast: Inputs = {
  query: type(["batch", 4, "queries", 8]),
  key: type(["batch", 2, "kv", 8]),
  value: type(["batch", 2, "kv", 6]),
  pastKey: type(["batch", 2, "past", 8]),
  pastValue: type(["batch", 2, "past", 6]),
};
const fourD: Inputs = {
  query: type(["batch", 4, "queries", 8]),
  key: type(["batch", 2, "kv", 8]),
  value: type(["batch", 2, "kv", 8]),
};
const packed: Inputs = {
  query: type(["batch", "queries", 32]),
  key: type(["batch", "kv", 16]),
  value: type(["batch", "kv", 12]),
};
const heads = { queryHeads: 4, kvHeads: 2 };
const matrix: Inputs = {
  query: type(["queries", 8]),
  key: type(["kv", 8]),
  value: type(["kv", 6]),
};

describe("ops.scaledDotProductAttention, types", () => {
  const cases: [string, Inputs, AttentionOptions<never>, Record<string, string>][] = [
    [
      "4-D with a past",
      withPast,
      { outputs: attentionOutputs },
      {
        output: "float32[batch, 4, queries, 6]",
        lse: "float32[batch, 4, queries]",
        scores: "float32[batch, 4, queries, kv + past]",
        softcappedScores: "float32[batch, 4, queries, kv + past]",
        biasedScores: "float32[batch, 4, queries, kv + past]",
        weights: "float32[batch, 4, queries, kv + past]",
        presentKey: "float32[batch, 2, kv + past, 8]",
        presentValue: "float32[batch, 2, kv + past, 6]",
      },
    ],
    [
      "lengths of the caller's own names",
      { ...withPast, key: type(["batch", 2, "n", 8]), value: type(["batch", 2, "n", 6]) },
      { outputs: ["presentValue"] },
      {
        output: "float32[batch, 4, queries, 6]",
        presentValue: "float32[batch, 2, n + past, 6]",
      },
    ],
    [
      "packed",
      packed,
      { ...heads, outputs: ["lse", "presentKey"] },
      {
        output: "float32[batch, queries, 24]",
        lse: "float32[batch, 4, queries]",
        presentKey: "float32[batch, 2, kv, 8]",
      },
    ],
    [
      "packed, of a named depth",
      {
        query: type(["batch", "queries", "4*d"]),
        key: type(["batch", "kv", "2*d"]),
        value: type(["batch", "kv", "2*dv"]),
      },
      heads,
      { output: "float32[batch, queries, 4*dv]" },
    ],
    [
      "matrix",
      matrix,
      { outputs: ["lse", "weights"] },
      {
        output: "float32[queries, 6]",
        lse: "float32[queries]",
        weights: "float32[queries, kv]",
      },
    ],
    [
      "vector",
      { query: type(["d"]), key: type(["seq_len", "d"]), value: type(["seq_len", "d"]) },
      { outputs: ["lse", "scores"] },
      { output: "float32[d]", lse: "float32[]", scores: "float32[seq_len]" },
    ],
    [
      "half types",
      {
        query: type(["n", 8], "bfloat16"),
        key: type([5, 8], "bfloat16"),
        value: type([5, 8], "bfloat16"),
      },
      { outputs: ["lse", "weights"] },
      { output: "bfloat16[n, 8]", lse: "float32[n]", weights: "bfloat16[n, 5]" },
    ],
  ];
  for (const [name, inputs, options, expected] of cases)
    test(name, () => {
      const { outputs } = attentionGraph(inputs, options);
      assert.deepEqual(
        outputs.map((output) => output.type.toString()),
        Object.values(expected),
      );
    });

  test("without outputs it is one value, with outputs an object of them", () => {
    let single: unknown;
    let several: AttentionResults<Value> | undefined;
    new Graph("both", {
      inputTypes: [matrix.query, matrix.key, matrix.value],
      forward(q, k, v) {
        single = ops.scaledDotProductAttention(q!, k!, v!);
        several = ops.scaledDotProductAttention(q!, k!, v!, { outputs: ["lse"] });
        return several.lse!;
      },
    });
    assert.equal((single as Value).type.toString(), "float32[queries, 6]");
    assert.hasAllKeys(several, ["output", "lse"]);
  });

  const refused: [string, Inputs, AttentionOptions<never>, RegExp][] = [
    [
      "depths of different names",
      { ...matrix, key: type(["kv", "d"]) },
      {},
      /^scaledDotProductAttention: key depth must equal query depth, got d and 8$/,
    ],
    [
      "lengths of different names",
      { ...matrix, value: type(["n", 6]) },
      {},
      /^scaledDotProductAttention: value sequence length must equal key sequence length, got n and kv$/,
    ],
    [
      "ranks that are no layout",
      { ...matrix, query: type(["batch", "queries", 8, 8]) },
      {},
      /^scaledDotProductAttention: query, key and value must be of the vector, matrix, packed or 4-D layout/,
    ],
    [
      "packed heads that do not divide",
      packed,
      { queryHeads: 5, kvHeads: 2 },
      /^scaledDotProductAttention: an axis of 5 heads must be a multiple of them, got 32$/,
    ],
  ];
  for (const [name, inputs, options, message] of refused)
    test(`refused as the graph is built: ${name}`, () => {
      assert.throws(() => attentionGraph(inputs, options), message);
    });

  test("refused at load: what only numbers can tell", async () => {
    const session = new InferenceSession({ device: new PlanningDevice(portableCapabilities) });
    const load = (inputs: Inputs, options: object = {}) =>
      session.load(attentionGraph(inputs, options)).then(
        () => assert.fail("not refused"),
        ({ message }: Error) => message,
      );
    assert.equal(
      await load({ ...fourD, query: type(["batch", 5, "queries", 8]) }),
      "scaledDotProductAttention: query heads must be a multiple of key heads, got 5 and 2",
    );
    assert.match(
      await load(matrix, { sacle: 1 }),
      /^scaledDotProductAttention: options must be among .*, got "sacle"$/,
    );
    assert.match(
      await load(matrix, { outputs: ["logits"] }),
      /^scaledDotProductAttention: outputs must be among .*, got "logits"$/,
    );
  });
});

const adapters: Readonly<Record<string, Capabilities>> = {
  "the defaults of WebGPU": portableCapabilities,
  "subgroups of 8 to 32": {
    ...portableCapabilities,
    subgroups: { min: 8, max: 32 },
    float16: true,
    workgroupBytes: 32768,
    invocations: 1024,
  },
  "subgroups of 32, matrix units": {
    ...portableCapabilities,
    subgroups: { min: 32, max: 32 },
    float16: true,
    matrixShapes: [
      { M: 16, N: 16, K: 16, component: "f16", result: "f32" },
      { M: 16, N: 16, K: 16, component: "f16", result: "f16" },
      { M: 16, N: 8, K: 16, component: "f16", result: "f32" },
    ],
    workgroupBytes: 49152,
    invocations: 1024,
    bindingBytes: 2 ** 31 - 4,
  },
  "subgroups of 4 to 128": {
    ...portableCapabilities,
    subgroups: { min: 4, max: 128 },
    float16: true,
  },
};

const halves = (inputs: Inputs, dtype: DType): Inputs =>
  Object.fromEntries(
    Object.entries(inputs).map(([name, { shape }]) => [name, type(shape, dtype)]),
  ) as unknown as Inputs;

const replanned: Readonly<Record<string, [Inputs, AttentionOptions<never>]>> = {
  "4-D": [fourD, {}],
  "4-D, causal with a window": [fourD, { causal: true, window: [300, 0] }],
  "4-D, one batch, many heads, depth 128": [
    {
      query: type([1, 32, "queries", 128]),
      key: type([1, 8, "kv", 128]),
      value: type([1, 8, "kv", 128]),
    },
    { causal: true },
  ],
  "4-D, float16, depth 64": [
    halves(
      {
        query: type([1, 8, "queries", 64]),
        key: type([1, 8, "kv", 64]),
        value: type([1, 8, "kv", 64]),
      },
      "float16",
    ),
    {},
  ],
  "a cache": [withPast, { causal: true, outputs: ["presentKey", "presentValue"] }],
  "a cache of one new key": [
    {
      query: type([1, 4, 1, 8]),
      key: type([1, 2, 1, 8]),
      value: type([1, 2, 1, 6]),
      pastKey: type([1, 2, "past", 8]),
      pastValue: type([1, 2, "past", 6]),
    },
    { outputs: ["presentKey", "presentValue"] },
  ],
  "every output": [fourD, { outputs: ["lse", "scores", "weights"] }],
  "packed, bfloat16": [halves(packed, "bfloat16"), heads],
  "a mask": [{ ...matrix, mask: type(["queries", "kv"], "bool") }, {}],
  lengths: [{ ...fourD, kvLengths: type(["batch"], "int32") }, { softcap: 30 }],
};

describe("ops.scaledDotProductAttention, lengths that change", () => {
  const lengths = {
    batch: [1, 1, 2, 3],
    queries: [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 32, 33, 64, 65, 100, 129, 300],
    kv: [1, 2, 31, 32, 33, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 2049, 5000],
    past: [1, 2, 40, 511, 1000, 5000, 20_000],
  };

  for (const [adapter, capabilities] of Object.entries(adapters))
    test(`load compiles all kernels of kv 1 to 5,000 and queries 1 to 300: ${adapter}`, async () => {
      const { integer } = random(7);
      const draw = (of: readonly number[]) => of[integer(0, of.length - 1)]!;
      for (const [name, [inputs, options]] of Object.entries(replanned)) {
        const device = new PlanningDevice(capabilities);
        const graph = attentionGraph(inputs, options);
        using model = await new InferenceSession({ device }).load(graph);
        const names = new Set(graph.inputTypes.flatMap((type) => type.names));
        for (let i = 0; i < 40; i++) {
          const values = {
            batch: draw(lengths.batch),
            queries: draw(lengths.queries),
            kv: draw(lengths.kv),
            past: draw(lengths.past),
          };
          const own = Object.entries(values).filter(([dimension]) => names.has(dimension));
          model.prepare(Object.fromEntries(own)); // as an execute does
          assert.deepEqual(
            [...device.missed.values()],
            [],
            `${name}, ${JSON.stringify(Object.fromEntries(own))}`,
          );
        }
        assert.isAbove(device.programs, names.size > 1 ? 30 : 3);
      }
    });

  test("a graph of a named depth loads, whatever depths kernels do not take", async () => {
    const session = new InferenceSession({ device: new PlanningDevice(portableCapabilities) });
    const model = await session.load(
      attentionGraph({
        query: type(["d"]),
        key: type(["seq_len", "d"]),
        value: type(["seq_len", "d"]),
      }),
    );
    assert.lengthOf(model.plan({ d: 512, seq_len: 100 }).steps, 1);
    assert.throws(
      () => model.plan({ d: 513, seq_len: 100 }),
      "scaledDotProductAttention: depth must be at most 512, got 513",
    );
  });
});

onEachDevice("ops.scaledDotProductAttention, a cache of any length", (device) => {
  before(() => compileAtOnce(device()));
  const step: AttentionCaseDescription = {
    seed,
    layout: "4-D",
    dtype: "float32",
    batch: 1,
    kvHeads: 2,
    group: 2,
    queries: 1,
    kv: 1,
    past: 1,
    depth: 8,
    valueDepth: 8,
    causal: true,
    softcap: 0,
    kvLengths: false,
    outputs: ["presentKey", "presentValue"],
    scores: "small",
    plant: "nothing",
  };

  test("an execute plans anew, right, and compiles nothing", async () => {
    const graph = attentionGraph(
      {
        query: type([1, 4, 1, 8]),
        key: type([1, 2, 1, 8]),
        value: type([1, 2, 1, 8]),
        pastKey: type([1, 2, "past", 8]),
        pastValue: type([1, 2, "past", 8]),
      },
      { causal: true, outputs: ["presentKey", "presentValue"] },
    );
    using model = await new InferenceSession({ device: device() }).load(graph);
    const gpu = device();
    const calls = gpu instanceof WebGPUDevice ? countGPUCalls(gpu.gpuDevice) : undefined;
    const pipelines = gpu instanceof WebGPUDevice ? gpu.created.pipelines : 0;
    for (const past of [1, 2, 510, 511, 512, 600, 5000, 20_000, 3]) {
      const attention = attentionCase({ ...step, past });
      const { query, key, value, pastKey, pastValue } = attention.inputs;
      const results = model.execute(query, key, value, pastKey!, pastValue!);
      const [output, presentKey, presentValue] = await Promise.all(
        results.map((result) => result.read()),
      );
      for (const result of results) result.destroy();
      assertCase(attention, { output: output!, presentKey, presentValue }, device().kind);
    }
    calls?.stop();
    if (!calls || !(gpu instanceof WebGPUDevice)) return;
    assert.equal(gpu.created.pipelines, pipelines, "pipelines");
    const { createShaderModule, createComputePipeline, createComputePipelineAsync } = calls.counts;
    assert.deepEqual(
      { createShaderModule, createComputePipeline, createComputePipelineAsync },
      { createShaderModule: 0, createComputePipeline: 0, createComputePipelineAsync: 0 },
    );
    assert.isAbove(calls.counts.submit, 0); // so that the counts count
  });
});
