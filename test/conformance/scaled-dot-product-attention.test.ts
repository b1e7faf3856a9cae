import { before, describe, test } from "node:test";
import { assert } from "chai";
import fc from "fast-check";
import {
  attention,
  type Device,
  type DeviceKind,
  type DeviceTensor,
  requestDevice,
  scaledDotProductAttention,
  type Tensor,
  tensor,
  WebGPUDevice,
} from "../../src/index.ts";
import type { AttentionOutput } from "../../src/kernels/attention/problem.ts";
import { toFloat64 } from "../../src/kernels/attention/reference.ts";
import {
  type AttentionOptions,
  type AttentionResults,
  attentionOutputs,
} from "../../src/kernels/attention/spec.ts";
import {
  type AttentionCase,
  type AttentionCaseDescription,
  assertCase,
  attentionCase,
  attentionCases,
  type CaseOverrides,
} from "../support/attention-cases.ts";
import { fromBase64 } from "../support/base64.ts";
import { assertClose } from "../support/compare.ts";
import { compileAtOnce } from "../support/compile-at-once.ts";
import { onEachDevice } from "../support/devices.ts";
import { onnxCall } from "../support/onnx.ts";
import { poisonAllocations } from "../support/poison.ts";
import { part, seed, sweep, sweepCases } from "../support/random.ts";
import { onnxCases } from "../vectors/onnx-attention.ts";
import * as seed42 from "../vectors/seed42.ts";

// Attention as users call it, on every device: each layout and each option, host tensors and device
// tensors, against ONNX's vectors and the float64 reference. All memory begins poisoned. A GPU without
// hardware takes seconds to compile a kernel, so that cases share depths, and with them kernels.

type AnyTensor = Tensor | DeviceTensor;

/** Calls with options of any kind, and returns all outputs asked for by name. */
async function call(
  query: AnyTensor,
  key: AnyTensor,
  value: AnyTensor,
  options: AttentionOptions<AnyTensor> & { readonly device?: Device },
): Promise<AttentionResults<AnyTensor>> {
  const result = await scaledDotProductAttention(query, key, value, options);
  return options.outputs
    ? (result as unknown as AttentionResults<AnyTensor>)
    : { output: result as AnyTensor };
}

/** Reads and releases device tensors. */
async function toHost(results: AttentionResults<AnyTensor>): Promise<AttentionResults<Tensor>> {
  const read = async ([name, result]: [string, AnyTensor]) => {
    if (!("read" in result)) return [name, result] as const;
    const host = await result.read();
    result.destroy();
    return [name, host] as const;
  };
  const entries = Object.entries(results) as [string, AnyTensor][];
  return Object.fromEntries(await Promise.all(entries.map(read))) as never;
}

/** Makes a call for a case with host tensors, and compares all that it returns. */
async function check(attentionOfCase: AttentionCase, device: Device): Promise<void> {
  const { query, key, value, options } = attentionOfCase;
  const results = await toHost(await call(query, key, value, { ...options, device }));
  const { outputs } = attentionOfCase.problem;
  assert.sameMembers(Object.keys(results), [...outputs]);
  for (const name of outputs) {
    const { dtype, shape } = results[name]!;
    assert.deepEqual({ dtype, shape }, attentionOfCase.outputShapes[name]);
  }
  assertCase(attentionOfCase, results, device.kind);
}

const plain: AttentionCaseDescription = {
  seed,
  layout: "4-D",
  dtype: "float32",
  batch: 2,
  kvHeads: 2,
  group: 1,
  queries: 4,
  kv: 6,
  past: 0,
  depth: 8,
  valueDepth: 8,
  causal: false,
  softcap: 0,
  kvLengths: false,
  outputs: [],
  scores: "small",
  plant: "nothing",
};
const fullMask = { dtype: "float32", rank: 4, batch: true, head: true, query: true, key: "full" };
const mask = (overrides: object): CaseOverrides => ({
  mask: { ...fullMask, ...overrides } as never,
});

const optionCases: Readonly<Record<string, CaseOverrides>> = {
  "layout: vector": { layout: "vector", batch: 1, kvHeads: 1, queries: 1 },
  "layout: matrix": { layout: "matrix", batch: 1, kvHeads: 1 },
  "layout: 4-D": {},
  "layout: 4-D, grouped heads": { group: 3, kv: 7 },
  "layout: 4-D, one key/value head": { group: 4, kvHeads: 1 },
  "layout: packed": { layout: "packed" },
  "layout: packed, grouped heads": { layout: "packed", group: 3 },
  "layout: packed, values of another depth": { layout: "packed", valueDepth: 10 },
  "one key": { kv: 1 },
  scale: { scale: 0.3 },
  "scale: negative": { scale: -0.25 },
  "scale: 0": { scale: 0 },
  causal: { causal: true, plant: "forbidden" },
  "causal, with more queries than keys": { causal: true, kv: 2 },
  window: { window: [2, 1], plant: "forbidden" },
  "window: open to the left": { window: [-1, 0] },
  "window: open to the right, rows without a key": { window: [0, -1], kv: 2 },
  "window, causal": { window: [1, 1], causal: true },
  "mask: float32": mask({}),
  "mask: float32, of the keys alone": mask({ rank: 1 }),
  "mask: float32, one head for all": mask({ head: false }),
  "mask: float32, 3-D": mask({ rank: 3 }),
  "mask: float32, one key for all": mask({ key: "one" }),
  "mask: float32, fewer keys": { ...mask({ key: "short" }), plant: "forbidden" },
  "mask: bool": { ...mask({ dtype: "bool" }), plant: "forbidden" },
  "mask: bool, one query for all": mask({ dtype: "bool", query: false }),
  "mask: float16, beside float32 queries": mask({ dtype: "float16" }),
  softcap: { softcap: 2 },
  kvLengths: { kvLengths: true, batch: 5, plant: "forbidden" },
  "kvLengths, causal": { kvLengths: true, batch: 5, causal: true, plant: "forbidden" },
  "pastKey, pastValue": { past: 5 },
  "pastKey, pastValue, causal and window": { past: 5, causal: true, window: [3, -1] },
  "pastKey, pastValue, packed": { past: 5, layout: "packed", outputs: ["presentKey"] },
  softmaxDtype: { softmaxDtype: "float16" },
  "outputs: all": { ...mask({}), softcap: 2, past: 5, outputs: attentionOutputs },
  "dtype: float16": { dtype: "float16" },
  "dtype: float16, causal": { dtype: "float16", causal: true, plant: "forbidden" },
  "dtype: bfloat16": { dtype: "bfloat16" },
};

/** What changes a kernel's text, of a description; the rest varies from case to case. */
function kernelOf(description: AttentionCaseDescription): CaseOverrides {
  const { depth, valueDepth, softcap, kvLengths, softmaxDtype, mask } = description;
  return { depth, valueDepth, softcap, kvLengths, softmaxDtype, mask };
}

/** That of most of ONNX's cases. */
const commonKernels: readonly CaseOverrides[] = [
  { ...kernelOf(plain), layout: "4-D", queries: 4, group: 1, outputs: [] },
  { ...kernelOf(plain), layout: "packed", queries: 2, group: 2, outputs: [] },
];

const dtypes = ["float32", "float16", "bfloat16"] as const;

/** Cases for a sweep of `count`: of the common kernels, and of one more for every 80 cases. */
function randomCases(
  dtype: (typeof dtypes)[number],
  kind: DeviceKind,
  count: number,
): fc.Arbitrary<AttentionCaseDescription> {
  const kernels = fc
    .sample(attentionCases(), {
      seed: seed + dtypes.indexOf(dtype),
      numRuns: Math.floor(count / 80),
    })
    .map(kernelOf);
  return fc.oneof(
    ...[...commonKernels, ...kernels].map((kernel) =>
      attentionCases({ nan: kind === "cpu", work: 3e5, dtypes: [dtype] }, kernel),
    ),
  );
}

describe("scaledDotProductAttention, what 2,000 random cases of each dtype have among them", () => {
  const drawn = dtypes.flatMap((dtype) =>
    fc.sample(randomCases(dtype, "webgpu", 2000), { seed, numRuns: 2000 }),
  );
  const kinds: Record<string, (d: AttentionCaseDescription) => boolean> = {
    "NaN and ±∞ in keys forbidden by position": (d) => d.plant === "forbidden" && d.causal,
    "NaN and ±∞ in keys forbidden by lengths": (d) => d.plant === "forbidden" && d.kvLengths,
    "NaN and ±∞ in keys forbidden by a mask": (d) => d.plant === "forbidden" && !!d.mask,
    "scores near ±1e4, in float16": (d) => d.scores === "large" && d.dtype === "float16",
    "groups of 1": ({ group }) => group === 1,
    "groups of 3": ({ group }) => group === 3,
    "groups of 8": ({ group }) => group === 8,
    "one key": ({ kv, past }) => kv + past === 1,
    "far more queries than keys": ({ queries, kv, past }) => queries > 50 * (kv + past),
    "far more keys than queries": ({ queries, kv }) => kv > 50 * queries,
    "a past": ({ past }) => past > 0,
    "values of another depth": ({ depth, valueDepth }) => depth !== valueDepth,
    // Lengths shorter than the queries: the first rows sit before the first key.
    "first rows without a key": (d) => {
      if (!d.causal || !d.kvLengths || d.queries === 1) return false;
      const { kvLengths } = attentionCase(d).inputs;
      return kvLengths!.data.some((length) => length > 0 && length < d.queries);
    },
  };
  for (const [name, is] of Object.entries(kinds))
    test(name, () => assert.isAbove(drawn.filter(is).length, 4));
});

onEachDevice("scaledDotProductAttention", (device, kind) => {
  before(() => {
    compileAtOnce(device());
    poisonAllocations(device());
  });

  describe("ONNX Attention", () => {
    // All in flight at once.
    const results = new Map<string, Promise<AttentionResults<Tensor>>>();
    const cases = kind === "cpu" ? onnxCases : part(onnxCases);
    before(() => {
      for (const onnxCase of cases) {
        const { query, key, value, options } = onnxCall(onnxCase);
        const result = call(query, key, value, { ...options, device: device() }).then(toHost);
        result.catch(() => {}); // reported by the case's own test
        results.set(onnxCase.name, result);
      }
    });

    for (const onnxCase of cases)
      test(onnxCase.name, async () => {
        const { expected, tolerance } = onnxCall(onnxCase);
        const got = await results.get(onnxCase.name)!;
        const names = Object.keys(expected) as AttentionOutput[];
        assert.sameMembers(Object.keys(got), names);
        for (const name of names) {
          const { dtype, shape } = expected[name]!;
          assert.deepInclude(got[name], { dtype, shape });
          assertClose(name, got[name]!, toFloat64(expected[name]!), tolerance);
        }
      });
  });

  describe("options and layouts", () => {
    const cases = Object.entries(optionCases);
    for (const [name, overrides] of kind === "cpu" ? cases : part(cases))
      test(name, () => check(attentionCase({ ...plain, ...overrides }), device()));

    test("scale defaults to 1/√depth, and to 1 for attention", async () => {
      const { query, key, value } = attentionCase(plain);
      const run = async (of: typeof attention, scale?: number) =>
        (await of(query, key, value, { device: device(), scale })).data;
      const scaled = await run(scaledDotProductAttention);
      const unscaled = await run(attention);
      assert.notDeepEqual(scaled, unscaled);
      assert.deepEqual(await run(scaledDotProductAttention, 1), unscaled);
      assert.deepEqual(await run(attention, 1 / Math.sqrt(8)), scaled);
    });

    test("an option that is undefined is one that is not given", async () => {
      const { query, key, value } = attentionCase(plain);
      const options = Object.fromEntries(
        ["scale", "causal", "window", "mask", "softcap", "kvLengths", "pastKey", "pastValue"]
          .concat("queryHeads", "kvHeads", "softmaxDtype", "outputs", "variant")
          .map((name) => [name, undefined]),
      );
      assert.deepEqual(
        await scaledDotProductAttention(query, key, value, { ...options, device: device() }),
        await scaledDotProductAttention(query, key, value, { device: device() }),
      );
    });

    test("outputs: an object of output and those named, in any order", async () => {
      const { query, key, value } = attentionCase(plain);
      const run = (outputs: readonly AttentionOutput[]) =>
        call(query, key, value, { device: device(), outputs });
      const { output } = await call(query, key, value, { device: device() });
      for (const names of [[], ["output"], ["presentValue", "presentKey"]] as const) {
        const results = await run(names);
        assert.sameMembers(Object.keys(results), [...new Set(["output", ...names])]);
        assert.deepEqual(results.output, output);
        for (const name of names)
          assert.deepEqual(results[name], { output, presentKey: key, presentValue: value }[name]);
      }
    });
  });

  test("NumPy's seed-42 example: attention agrees to 1e-6", async () => {
    const read = (text: string, shape: readonly number[]) =>
      tensor(new Float32Array(fromBase64(text).buffer), shape);
    const [q, k, v] = [seed42.q, seed42.k, seed42.v].map((text, i) =>
      read(text, i === 0 ? [16] : [16, 16]),
    ) as [Tensor, Tensor, Tensor];
    const expected = read(seed42.expected, [16]).data;
    const output = await attention(q, k, v, { device: device() });
    assertClose("vector", output, expected, { absolute: 1e-6, relative: 0 });
    const row = await attention({ ...q, shape: [1, 16] }, k, v, { device: device() });
    assert.deepEqual(row, { ...output, shape: [1, 16] });
  });

  describe("where tensors lie", () => {
    const description = { ...plain, ...mask({}), past: 5 };

    test("host tensors in, host tensors out, and all memory given back", async () => {
      const attentionOfCase = attentionCase(description);
      await check(attentionOfCase, device());
      const gpu = device();
      const created = gpu instanceof WebGPUDevice ? gpu.created : undefined;
      for (let i = 0; i < 3; i++) await check(attentionOfCase, gpu);
      if (gpu instanceof WebGPUDevice) assert.deepEqual(gpu.created, created);
    });

    // Which of the tensors lie on the device.
    for (const [title, there] of [
      ["device tensors", ["query", "key", "value", "mask", "pastKey", "pastValue"]],
      ["only the query on the device", ["query"]],
      ["only an option on the device", ["pastValue"]],
      ["the cache on the device", ["pastKey", "pastValue"]],
    ] as const)
      test(`${title}: the result stays on their device`, async () => {
        const attentionOfCase = attentionCase({ ...description, outputs: ["presentKey"] });
        const { inputs, options } = attentionOfCase;
        const uploads: DeviceTensor[] = [];
        const placed = Object.fromEntries(
          Object.entries(inputs).map(([name, host]) => {
            if (!host || !(there as readonly string[]).includes(name)) return [name, host];
            uploads.push(device().upload(host));
            return [name, uploads.at(-1)!];
          }),
        ) as typeof inputs;
        const { query, key, value, ...tensors } = placed;
        const rest = { ...options, ...tensors };
        // No device is named: the tensors' own is meant.
        const results = await call(query, key, value, rest);
        for (const name of ["output", "presentKey"] as const) {
          const result = results[name] as DeviceTensor;
          assert.strictEqual(result.device, device());
          const { dtype, shape } = result;
          assert.deepEqual({ dtype, shape }, attentionOfCase.outputShapes[name]);
        }
        assertCase(attentionOfCase, await toHost(results), device().kind);
        // Inputs are the caller's: not released, not written.
        for (const upload of uploads) {
          const name = Object.keys(placed).find((key) => placed[key as never] === upload)!;
          assert.deepEqual(await upload.read(), inputs[name as keyof typeof inputs]);
          upload.destroy();
        }
      });
  });

  for (const dtype of dtypes)
    test(`random cases of ${dtype}`, async () => {
      const ownNumber = 6;
      const cases = randomCases(dtype, kind, sweepCases(ownNumber));
      await fc.assert(
        fc.asyncProperty(cases, (description) => check(attentionCase(description), device())),
        sweep(ownNumber),
      );
    });

  test("a cache grows step by step: 40 steps after a prompt of 5", async () => {
    // 2 key/value heads, each for 2 query heads. What each step returns is checked against all of the keys
    // and values so far.
    const shape = { ...plain, batch: 1, group: 2 };
    const run = async () => {
      const prompt = attentionCase({ ...shape, queries: 5, kv: 5, causal: true });
      let cache = [device().upload(prompt.key), device().upload(prompt.value)] as const;
      let rows = [prompt.key, prompt.value] as readonly [Tensor, Tensor];
      const created: WebGPUDevice["created"][] = [];
      for (let step = 0; step < 40; step++) {
        const next = attentionCase({
          ...shape,
          seed: seed + step,
          queries: 1,
          kv: 1,
          causal: true,
        });
        const options = { causal: true, outputs: ["presentKey", "presentValue"] as const };
        const results = await scaledDotProductAttention(next.query, next.key, next.value, {
          ...options,
          pastKey: cache[0],
          pastValue: cache[1],
        });
        for (const tensor of cache) tensor.destroy();
        cache = [results.presentKey!, results.presentValue!];
        rows = [append(rows[0], next.key), append(rows[1], next.value)];

        // The same call without a cache.
        const whole = attentionCase({ ...shape, queries: 1, kv: 6 + step });
        whole.query.data.set(next.query.data);
        whole.key.data.set(rows[0].data);
        whole.value.data.set(rows[1].data);
        const output = await results.output.read();
        results.output.destroy();
        assertCase(whole, { output }, device().kind);
        const gpu = device();
        if (gpu instanceof WebGPUDevice) created.push(gpu.created);
      }
      assert.deepEqual(await cache[0].read(), rows[0]);
      assert.deepEqual(await cache[1].read(), rows[1]);
      for (const tensor of cache) tensor.destroy();
      return created;
    };

    const first = await run();
    const again = await run();
    if (first.length === 0) return;
    const last = first.at(-1)!;
    assert.equal(last.pipelines, first[2]!.pipelines, "pipelines after the first steps");
    assert.equal(again.at(-1)!.pipelines, last.pipelines, "pipelines of a second run");
    // Models of 32 lengths are kept, each with a buffer of uniforms; caches of 46 lengths fall into few
    // sizes of buffers.
    assert.isAtMost(last.buffers - first[0]!.buffers, 32 + 24, "buffers of a run");
    assert.isAtMost(again.at(-1)!.buffers - last.buffers, 2, "buffers of a second run");
  });
});

/** Puts one more row after the rows of each head. */
function append(past: Tensor, row: Tensor): Tensor {
  const [batch, heads, rows, width] = past.shape as [number, number, number, number];
  const data = new Float32Array(batch * heads * (rows + 1) * width);
  for (let head = 0; head < batch * heads; head++) {
    const at = head * (rows + 1) * width;
    data.set(past.data.subarray(head * rows * width, (head + 1) * rows * width), at);
    data.set(row.data.subarray(head * width, (head + 1) * width), at + rows * width);
  }
  return tensor(data, [batch, heads, rows + 1, width]);
}

describe("scaledDotProductAttention, the device that is meant", () => {
  const { query, key, value, expected, tolerance } = attentionCase(plain);

  test("without a device or device tensors: one shared device, WebGPU where there is one", async () => {
    const [output, again] = await Promise.all([
      scaledDotProductAttention(query, key, value),
      scaledDotProductAttention(query, key, value, { device: undefined }),
    ]);
    assertClose("output", output, expected().output, tolerance("webgpu"));
    assert.deepEqual(again, output);
  });

  test("two devices are refused", async () => {
    using cpu = await requestDevice("cpu");
    using other = await requestDevice("cpu");
    const q = cpu.upload(query);
    const k = other.upload(key);
    const calls = [
      () => scaledDotProductAttention(q, k, value),
      () => scaledDotProductAttention(query, k, value, { device: cpu }),
      () => scaledDotProductAttention(q, key, value, { mask: other.upload(tensor([0])) }),
    ];
    for (const refused of calls) {
      const error = await refused().then(
        () => assert.fail("not refused"),
        (error: Error) => error,
      );
      assert.equal(error.name, "QkvError");
      assert.match(error.message, /must be on the same device, got "?a tensor on CPU/);
    }
  });
});
