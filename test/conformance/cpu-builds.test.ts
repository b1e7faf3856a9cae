import { after, before, describe, test } from "node:test";
import { assert } from "chai";
import fc from "fast-check";
import { CPUDevice } from "../../src/devices/cpu/device.ts";
import { threadStarter } from "../../src/devices/cpu/threads.ts";
import type { AnyKernel } from "../../src/devices/kernel.ts";
import { attention, type DeviceTensor, type Tensor, tensor } from "../../src/index.ts";
import { attentionCPU } from "../../src/kernels/attention/cpu-kernel.ts";
import type { AttentionOutput } from "../../src/kernels/attention/problem.ts";
import { toFloat64 } from "../../src/kernels/attention/reference.ts";
import { inverseRootDepth, resolveAttention } from "../../src/kernels/attention/spec.ts";
import { binary, copy, scale } from "../../src/kernels/elementwise/kernel.ts";
import { matmul } from "../../src/kernels/matmul/kernel.ts";
import { softmax, softmaxInPlace } from "../../src/kernels/softmax/kernel.ts";
import { permute, transpose } from "../../src/kernels/transpose/kernel.ts";
import { elementCount, type Shape } from "../../src/tensor/shape.ts";
import {
  type AttentionCase,
  type AttentionCaseDescription,
  assertCase,
  attentionCase,
  attentionCases,
} from "../support/attention-cases.ts";
import { assertClose } from "../support/compare.ts";
import { cpuVariants, relaxedSIMD, runOnCPU } from "../support/cpu-builds.ts";
import { onnxCall } from "../support/onnx.ts";
import { random, sweep } from "../support/random.ts";
import { onnxCases } from "../vectors/onnx-attention.ts";

// Every build of the CPU device, with one thread and several: the same results from all.

/** Large enough for several threads, and with keys in several parts; and each way through the kernels. */
const large: readonly Partial<AttentionCaseDescription>[] = [
  { queries: 1, kv: 5000, depth: 64, kvHeads: 1 },
  { queries: 1, kv: 14_000, depth: 16, group: 4, kvLengths: true, dtype: "float16" },
  { queries: 200, kv: 333, depth: 32, causal: true, dtype: "bfloat16", past: 65 },
  { queries: 70, kv: 1600, depth: 33, kvHeads: 1, window: [100, 7] },
  { queries: 3, kv: 3000, depth: 20, group: 5, plant: "forbidden", kvLengths: true },
  { queries: 1, kv: 3001, depth: 64, kvHeads: 8, layout: "packed" },
  { queries: 2, kv: 1500, depth: 22, kvHeads: 6, layout: "packed", dtype: "float16", causal: true },
  {
    ...{ queries: 1, kv: 900, depth: 32, kvHeads: 4, group: 2, layout: "packed" },
    ...{ plant: "forbidden", kvLengths: true, outputs: ["lse"] },
  },
  {
    ...{ queries: 90, kv: 200, depth: 24, layout: "packed", softcap: 3, outputs: ["lse"] },
    mask: { dtype: "bool", rank: 4, batch: true, head: true, query: true, key: "full" },
  },
];

const matrices = ["scores", "softcappedScores", "biasedScores", "weights"] as const;
const fullMask = { rank: 4, batch: true, head: true, query: true } as const;

/** With scores and weights: tiles of one panel and of several, blocks that a past or a short mask cuts. */
const withMatrices: readonly Partial<AttentionCaseDescription>[] = [
  { queries: 1, kv: 5001, depth: 20, kvHeads: 3, group: 3, outputs: [...matrices, "lse"] },
  { queries: 131, kv: 203, depth: 33, past: 101, causal: true, softcap: 2, outputs: matrices },
  {
    ...{ queries: 300, kv: 197, group: 2, layout: "packed", window: [40, 7], outputs: matrices },
    ...{ plant: "forbidden", kvLengths: true },
  },
  {
    ...{ queries: 77, kv: 310, dtype: "float16", softcap: 5, outputs: matrices, plant: "nan" },
    mask: { ...fullMask, dtype: "float16", key: "short" },
  },
  {
    ...{ queries: 45, kv: 290, dtype: "bfloat16", past: 65, plant: "forbidden", outputs: matrices },
    mask: { ...fullMask, dtype: "bool", key: "full" },
  },
  { queries: 97, kv: 500, depth: 12, plant: "nan", scores: "large", outputs: matrices },
  { queries: 9, kv: 13_000, kvHeads: 1, dtype: "float16", outputs: ["weights"] },
  { queries: 600, kv: 99, depth: 7, causal: true, outputs: ["scores"], dtype: "bfloat16" },
  { queries: 500, kv: 500, depth: 64, causal: true, outputs: ["biasedScores"] },
  {
    ...{ queries: 100, kv: 193, depth: 48, softmaxDtype: "float16", outputs: ["weights"] },
    mask: { ...fullMask, dtype: "float32", key: "one" },
  },
];

const plain: AttentionCaseDescription = {
  ...{
    seed: 5,
    layout: "4-D",
    dtype: "float32",
    batch: 2,
    kvHeads: 2,
    group: 1,
    queries: 1,
    kv: 1,
  },
  ...{ past: 0, depth: 8, valueDepth: 24, causal: false, softcap: 0, kvLengths: false },
  ...{ outputs: [], scores: "small", plant: "nothing" },
};

/** Made once: the reference is slow. */
const [largeCases, matrixCases] = [large, withMatrices].map((parts) =>
  parts.map((part) => attentionCase({ ...plain, ...part })),
) as [AttentionCase[], AttentionCase[]];

/** A use of a small kernel, with what plain TypeScript makes of it. */
interface SmallCase {
  readonly kernel: AnyKernel;
  readonly given: Readonly<Record<string, Tensor>>;
  readonly parameters: object;
  readonly expected: Promise<Tensor>;
}

const shapesOfSmallKernels: readonly (readonly [AnyKernel, Record<string, Shape>, object?])[] = [
  [matmul, { a: [150, 300], b: [300, 90], output: [150, 90] }],
  [matmul, { a: [2, 3, 1, 700], b: [2, 3, 700, 333], output: [2, 3, 1, 333] }],
  [matmul, { a: [7, 513], b: [513, 7], output: [7, 7] }],
  [softmax, { input: [300, 257], output: [300, 257] }],
  [softmaxInPlace, { values: [3, 20_000] }],
  [transpose, { input: [3, 517, 301], output: [3, 301, 517] }],
  [permute, { input: [50, 31, 7, 48], output: [7, 50, 31, 48] }, { permutation: [2, 0, 1, 3] }],
  [permute, { input: [50, 31, 70], output: [70, 31, 50] }, { permutation: [2, 1, 0] }],
  [scale, { input: [500_003], output: [500_003] }, { factor: 0.37 }],
  [binary.mul, { a: [100_003], b: [100_003], output: [100_003] }],
  [binary.add, { a: [100_003], b: [100_003], output: [100_003] }],
  [copy, { input: [500_003], output: [500_003] }],
];

async function runSmall(
  on: CPUDevice,
  { kernel, given, parameters }: Omit<SmallCase, "expected">,
): Promise<Tensor> {
  const tensors = Object.fromEntries(
    Object.entries(given).map(([name, data]) => [name, on.upload(data)]),
  );
  on.enqueue(kernel, tensors, parameters);
  const result = await (tensors["output"] ?? tensors["values"])!.read();
  for (const each of Object.values(tensors)) each.destroy();
  return result;
}

const { normal } = random();
const numbers = (shape: Shape): Tensor =>
  tensor(Float32Array.from({ length: elementCount(shape) }, normal), shape);
const plainDevice = CPUDevice.open({ build: "typescript" });
const smallCases: readonly SmallCase[] = shapesOfSmallKernels.map(
  ([kernel, shapes, parameters = {}]) => {
    const given = Object.fromEntries(
      Object.entries(shapes).map(([name, shape]) => [name, numbers(shape)]),
    );
    const call = { kernel, given, parameters };
    return { ...call, expected: plainDevice.then((device) => runSmall(device, call)) };
  },
);

for (const { title, ...options } of cpuVariants) {
  const missing = options.build === "relaxed" ? relaxedSIMD().missing : undefined;
  describe(`CPU device, ${title}`, { skip: missing ?? false }, () => {
    let device: CPUDevice;
    before(async () => {
      device = await CPUDevice.open(options);
    });
    after(() => device?.destroy());

    test("it is what was asked for", () => {
      const threads = threadStarter() ? options.threads : 1;
      assert.equal(device.build, options.build);
      assert.equal(device.threads, threads);
      const simd = options.build === "simd" ? "SIMD" : "relaxed SIMD";
      assert.equal(
        device.description,
        options.build === "typescript"
          ? "CPU (TypeScript)"
          : `CPU (WebAssembly, ${simd}, ${threads} ${threads === 1 ? "thread" : "threads"})`,
      );
    });

    test("attention, drawn at random", async () => {
      const check = async (description: AttentionCaseDescription) => {
        const attention = attentionCase(description);
        assertCase(attention, await runOnCPU(device, attention), "cpu");
      };
      await fc.assert(fc.asyncProperty(attentionCases({ work: 1e5 }), check), sweep(60));
    });

    test("attention, large", async () => {
      for (const attention of largeCases)
        assertCase(attention, await runOnCPU(device, attention), "cpu");
    });

    test("attention, sums of thousands of small weights beside large ones", async () => {
      const { normal } = random();
      const keys = Float32Array.from({ length: 12_288 }, normal);
      const query = tensor(new Float32Array(9).fill(3.3), [9, 1]);
      let total = 0;
      let sum = 0;
      for (const key of keys) {
        const weight = Math.exp(Math.fround(3.3) * key);
        total += weight;
        sum += weight * key;
      }
      for (const width of [1, 8, 10]) {
        const values = Float32Array.from(
          { length: keys.length * width },
          (_, i) => keys[Math.floor(i / width)]!,
        );
        const value = tensor(values, [keys.length, width]);
        const output = await attention(query, tensor(keys, [keys.length, 1]), value, { device });
        const expected = new Float64Array(9 * width).fill(sum / total);
        assertClose("output", output, expected, { absolute: 1e-5, relative: 0 });
      }
    });

    test("attention with scores and weights", async () => {
      for (const attention of matrixCases)
        assertCase(attention, await runOnCPU(device, attention), "cpu");
    });

    test("scores and weights, drawn at random", async () => {
      const drawn = fc.tuple(
        attentionCases({ work: 5e4 }),
        fc.subarray([...matrices], { minLength: 1 }),
      );
      const check = async ([description, outputs]: [
        AttentionCaseDescription,
        AttentionOutput[],
      ]) => {
        const attention = attentionCase({ ...description, outputs });
        assertCase(attention, await runOnCPU(device, attention), "cpu");
      };
      await fc.assert(fc.asyncProperty(drawn, check), sweep(60));
    });

    test("ONNX's cases", async () => {
      for (const onnx of onnxCases) {
        const { name } = onnx;
        const { query, key, value, options: given, expected, tolerance } = onnxCall(onnx);
        const { problem } = resolveAttention(name, query, key, value, given, inverseRootDepth);
        const { mask, kvLengths, pastKey, pastValue } = given;
        const inputs = { query, key, value, mask, kvLengths, pastKey, pastValue };
        const names = problem.outputs;
        const tensors = Object.fromEntries([
          ...Object.entries(inputs).flatMap(([key, t]) => (t ? [[key, device.upload(t)]] : [])),
          ...names.map((key) => [key, device.allocate(expected[key]!.dtype, expected[key]!.shape)]),
        ]);
        device.enqueue(attentionCPU, tensors as never, { problem, operation: name });
        for (const key of names) {
          const target = expected[key]!;
          const got = await tensors[key]!.read();
          assertClose(`${name} ${key}`, got, toFloat64(target), tolerance);
        }
        for (const each of Object.values<DeviceTensor>(tensors)) each.destroy();
      }
    });

    test("the small kernels agree with TypeScript", async () => {
      for (const call of smallCases) {
        const got = await runSmall(device, call);
        const expected = Float64Array.from((await call.expected).data);
        assertClose(call.kernel.name, got, expected, { absolute: 1e-4, relative: 1e-5 });
      }
    });

    test("a chain of calls, none awaited, and tensors destroyed at once", async () => {
      const shape = [300, 300];
      const ones = tensor(new Float32Array(300 * 300).fill(1 / 300), shape);
      let product = device.upload(ones);
      const factor = device.upload(ones);
      for (let i = 0; i < 10; i++) {
        const next = device.allocate("float32", shape);
        device.enqueue(matmul, { a: product, b: factor, output: next });
        product.destroy();
        product = next;
      }
      const reading = product.read();
      product.destroy();
      factor.destroy();
      const { data } = await reading;
      const worst = Math.max(...Array.from(data, (x) => Math.abs(x - 1 / 300)));
      assert.isBelow(worst, 1e-6);
    });

    test("all memory is given back", () => {
      const scratch = device.memory.used;
      const t = device.allocate("float32", [1000]);
      assert.isAbove(device.memory.used, scratch);
      t.destroy();
      t.destroy();
      assert.equal(device.memory.used, scratch);
    });
  });
}
