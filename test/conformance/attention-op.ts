import { test } from "node:test";
import { assert } from "chai";
import fc from "fast-check";
import { portableCapabilities } from "../../src/devices/capabilities.ts";
import {
  attention,
  attentionOp,
  type Device,
  type DeviceKind,
  type DeviceTensor,
  Graph,
  InferenceSession,
  type Model,
  ops,
  requestDevice,
  type Tensor,
  TensorType,
  tensor,
  type WebGPUDevice,
} from "../../src/index.ts";
import { fromBase64 } from "../support/base64.ts";
import { assertClose, toleranceFor } from "../support/compare.ts";
import { upload } from "../support/devices.ts";
import { countGPUCalls, type GPUCalls } from "../support/gpu-calls.ts";
import { PlanningDevice } from "../support/planning-device.ts";
import { random, sweep } from "../support/random.ts";
import {
  expected,
  k as keys42,
  q as query42,
  scores,
  v as values42,
  weights,
} from "../vectors/seed42.ts";

// softmax(Q·Kᵀ)·V as a custom op of a graph, on every device, against float64 loops written here.

interface Sizes {
  /** Absent for the vector layout. */
  readonly queries?: number;
  readonly keys: number;
  readonly d: number;
  readonly dv: number;
}

/** One problem on the host. */
interface Inputs {
  readonly q: Tensor;
  readonly k: Tensor;
  readonly v: Tensor;
}

function attentionGraph(rank: 1 | 2): Graph {
  const q = rank === 1 ? ["d"] : ["queries", "d"];
  return new Graph("attention of any size", {
    inputTypes: [q, ["keys", "d"], ["keys", "dv"]].map((shape) => new TensorType("float32", shape)),
    customExtensions: [attentionOp],
    forward: (...values) => ops.custom("attention", { values }),
  });
}

function reference({ q, k, v }: Inputs): Float64Array {
  const [keys, d] = k.shape as [number, number];
  const dv = v.shape[1]!;
  const queries = q.data.length / d;
  const output = new Float64Array(queries * dv);
  for (let i = 0; i < queries; i++) {
    const scores = Array.from({ length: keys }, (_, j) => {
      let score = 0;
      for (let c = 0; c < d; c++) score += q.data[i * d + c]! * k.data[j * d + c]!;
      return score;
    });
    const maximum = scores.reduce((a, b) => Math.max(a, b));
    const powers = scores.map((score) => (maximum === -Infinity ? 0 : Math.exp(score - maximum)));
    const sum = powers.reduce((a, b) => a + b);
    for (const [j, power] of powers.entries()) {
      const weight = sum === 0 ? 0 : power / sum;
      for (let c = 0; c < dv; c++) output[i * dv + c]! += weight * v.data[j * dv + c]!;
    }
  }
  return output;
}

/** Normal numbers, with scores of order 1. */
function normals({ queries, keys, d, dv }: Sizes, from?: number): Inputs {
  const { normal } = random(from);
  const fill = (shape: number[], factor: number) =>
    tensor(
      Array.from({ length: shape.reduce((a, b) => a * b) }, () => factor * normal()),
      shape,
    );
  return {
    q: fill(queries === undefined ? [d] : [queries, d], d ** -0.5),
    k: fill([keys, d], 1),
    v: fill([keys, dv], 1),
  };
}

async function run(model: Model, { q, k, v }: Inputs): Promise<Tensor> {
  const [output] = model.execute(q, k, v) as [DeviceTensor];
  try {
    return await output.read();
  } finally {
    output.destroy();
  }
}

const sizes: readonly Sizes[] = [
  { keys: 1, d: 1, dv: 1 },
  { keys: 2, d: 17, dv: 31 },
  { keys: 16, d: 16, dv: 16 },
  { keys: 17, d: 15, dv: 2 },
  { keys: 1021, d: 64, dv: 65 },
  { keys: 5003, d: 3, dv: 1 },
  { keys: 7, d: 512, dv: 129 },
  { queries: 1, keys: 1, d: 512, dv: 1 },
  { queries: 2, keys: 3, d: 5, dv: 7 },
  { queries: 15, keys: 16, d: 17, dv: 15 },
  { queries: 33, keys: 64, d: 65, dv: 17 },
  { queries: 61, keys: 67, d: 71, dv: 73 },
  { queries: 3, keys: 1009, d: 2, dv: 130 },
  { queries: 131, keys: 3, d: 1, dv: 2 },
];

/** Declares the tests of the op on one device. */
export function testAttentionOp(device: () => Device, kind: DeviceKind): void {
  const tolerance = toleranceFor("float32", kind);
  const models = new Map<number, Promise<Model>>();
  const modelFor = ({ shape }: { readonly shape: readonly number[] }): Promise<Model> => {
    const rank = shape.length as 1 | 2;
    let model = models.get(rank);
    if (!model) {
      model = new InferenceSession({ device: device() }).load(attentionGraph(rank));
      models.set(rank, model);
    }
    return model;
  };
  const compute = async (inputs: Inputs) => run(await modelFor(inputs.q), inputs);

  test("vectors and matrices of awkward sizes", async () => {
    await Promise.all(
      sizes.map(async (size) => {
        const inputs = normals(size);
        const output = await compute(inputs);
        const shape = size.queries === undefined ? [size.dv] : [size.queries, size.dv];
        assert.deepEqual(output.shape, shape);
        assertClose(JSON.stringify(size), output, reference(inputs), tolerance);
      }),
    );
  });

  test("NumPy's seed-42 vectors, step by step", async (context) => {
    const decode = (text: string) => new Float32Array(fromBase64(text).buffer);
    const named = (shape: (number | string)[]) => new TensorType("float32", shape);
    const graph = new Graph("steps", {
      inputTypes: [named([16]), named([16, 16]), named([16, 16])],
      customExtensions: [attentionOp],
      forward: (q, k, v) => {
        const scores = ops.matmul(ops.reshape(q!, [1, 16]), ops.transpose(k!));
        const [output] = ops.custom("attention", {
          values: [q!, k!, v!],
          outTypes: [named([16])],
          parameters: { seq_len: 16, d: 16, dtype: "float32" },
        });
        return [scores, ops.softmax(scores), output!];
      },
    });
    using model = await new InferenceSession({ device: device() }).load(graph);
    const inputs = [
      upload(device(), decode(query42), [16]),
      upload(device(), decode(keys42), [16, 16]),
      upload(device(), decode(values42), [16, 16]),
    ];
    const outputs = model.execute(...inputs);
    for (const [i, [name, vector]] of Object.entries({ scores, weights, expected }).entries()) {
      const { data } = await outputs[i]!.read();
      const worst = decode(vector).reduce(
        (most, x, j) => Math.max(most, Math.abs(x - data[j]!)),
        0,
      );
      context.diagnostic(`${name}: largest difference ${worst.toExponential(1)}`);
      assert.isAtMost(worst, 1e-6, name);
      assert.isAbove(Math.abs(data[0]!), 1e-3, `${name} is not all zeros`);
    }
  });

  test("scores of ±1e4, equal scores, and scores of −∞", async () => {
    const v = tensor([1, 2, 4, 8], [4, 1]);
    const cases: readonly (readonly [q: number[], k: number[], expected: number[]])[] = [
      [[1e4], [1, -1, 1, -1], [2.5]],
      [[-1e4], [1, -1, -1, 0], [3]],
      [[1e4], [3, 3, 3, 3], [3.75]],
      [[1], [-Infinity, 0, -Infinity, 0], [5]],
      [[1], [-Infinity, -Infinity, -Infinity, -Infinity], [0]],
    ];
    for (const [q, k, expected] of cases) {
      const output = await compute({ q: tensor(q), k: tensor(k, [4, 1]), v });
      assertClose(`q ${q}, k ${k}`, output, expected, tolerance);
    }
  });

  test("a query of NaN spoils its own row only", async () => {
    const inputs = normals({ queries: 19, keys: 70, d: 5, dv: 3 });
    inputs.q.data[7 * 5 + 2] = NaN;
    assertClose("row 7", await compute(inputs), reference(inputs), tolerance);
  });

  test("keys and values may be constants of the graph", async () => {
    const inputs = normals({ queries: 4, keys: 9, d: 3, dv: 5 });
    const graph = new Graph("constants", {
      inputTypes: [new TensorType("float32", ["queries", 3])],
      customExtensions: [attentionOp],
      forward: (q) => ops.custom("attention", { values: [q!, inputs.k, inputs.v] }),
    });
    using model = await new InferenceSession({ device: device() }).load(graph);
    const [output] = model.execute(inputs.q) as [DeviceTensor];
    assertClose("constants", await output.read(), reference(inputs), tolerance);
  });

  /** Shapes and contents of any problem. */
  const anyProblem = fc
    .record({
      queries: fc.integer({ min: 1, max: 40 }),
      keys: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 400 })),
      d: fc.integer({ min: 1, max: 40 }),
      dv: fc.integer({ min: 1, max: 40 }),
      from: fc.integer(),
      vector: fc.boolean(),
    })
    .map(({ queries, vector, from, ...rest }) => ({
      sizes: vector ? rest : { ...rest, queries },
      from,
    }));
  const forAll = (
    property: (inputs: Inputs, sizes: Sizes, from: number) => Promise<void>,
  ): Promise<void> =>
    fc.assert(
      fc.asyncProperty(anyProblem, (problem) =>
        property(normals(problem.sizes, problem.from), problem.sizes, problem.from),
      ),
      sweep(15),
    );
  const filled = (shape: readonly number[], value: number) =>
    tensor(new Float32Array(shape.reduce((a, b) => a * b)).fill(value), shape);

  test("weights sum to 1: values of one give one", () =>
    forAll(async ({ q, k, v }) => {
      const output = await compute({ q, k, v: filled(v.shape, 1) });
      assertClose("ones", output, filled(output.shape, 1).data, { absolute: 1e-5, relative: 0 });
    }));

  test("one key: its value is the output", () =>
    forAll(async (_, { queries, d, dv }, from) => {
      const inputs = normals({ ...(queries !== undefined && { queries }), keys: 1, d, dv }, from);
      const output = await compute(inputs);
      const expected = output.data.map((_, i) => inputs.v.data[i % dv]!);
      assertClose("one key", output, expected, { absolute: 0, relative: 1e-6 });
    }));

  test("the order of keys does not matter", () =>
    forAll(async ({ q, k, v }, { keys, d, dv }, from) => {
      const { integer } = random(from);
      const order = Array.from({ length: keys }, (_, j) => j);
      for (let j = keys - 1; j > 0; j--) {
        const other = integer(0, j);
        [order[j], order[other]] = [order[other]!, order[j]!];
      }
      const reordered = ({ data, shape }: Tensor, width: number) =>
        tensor(
          data.map((_, i) => data[order[Math.floor(i / width)]! * width + (i % width)]!),
          shape,
        );
      const output = await compute({ q, k, v });
      const again = await compute({ q, k: reordered(k, d), v: reordered(v, dv) });
      assertClose("reordered", again, output.data, tolerance);
    }));

  test("a constant added to all scores does not matter", () =>
    forAll(async ({ q, k, v }, { d }, from) => {
      // One more feature, 1 in every query and the constant in every key.
      const constant = random(from).integer(-16, 16);
      const widened = ({ data, shape }: Tensor, last: number) => {
        const rows = data.length / d;
        const wide = new Float32Array(rows * (d + 1)).fill(last);
        for (let i = 0; i < rows; i++)
          wide.set(data.subarray(i * d, (i + 1) * d) as Float32Array, i * (d + 1));
        return tensor(wide, [...shape.slice(0, -1), d + 1]);
      };
      const output = await compute({ q, k, v });
      const shifted = await compute({ q: widened(q, 1), k: widened(k, constant), v });
      assertClose("shifted", shifted, output.data, { absolute: 5e-5, relative: 1e-4 });
    }));

  test("the larger of two scores has the larger weight", () =>
    forAll(async ({ q, k }, { d }) => {
      // Values that pick out the weights of the first two keys.
      if (k.shape[0]! < 2) return;
      const v = filled([k.shape[0]!, 2], 0);
      v.data[0] = 1;
      v.data[3] = 1;
      const { data } = await compute({ q, k, v });
      for (let i = 0; i < data.length / 2; i++) {
        let difference = 0;
        for (let c = 0; c < d; c++)
          difference += q.data[i * d + c]! * (k.data[c]! - k.data[d + c]!);
        if (Math.abs(difference) < 1e-3) continue;
        assert.equal(Math.sign(data[2 * i]! - data[2 * i + 1]!), Math.sign(difference));
      }
    }));

  test("the plan", async () => {
    const model = await modelFor({ shape: [16] });
    const { steps, buffers, temporaryBytes } = model.plan({ d: 64, keys: 1000, dv: 32 });
    if (kind === "cpu") {
      assert.deepEqual(
        steps.map(({ op }) => op),
        ["attention"],
      );
      return;
    }
    const seen = steps.map(({ kernel, tensors }) => [
      kernel,
      ...tensors.map(({ type, buffer }) => {
        const { role, holds } = buffers[buffer]!;
        return `${type.replace("float32", "")} ${role === "temporary" ? holds.join() : `${role}`}`;
      }),
    ]);
    const [keyTransposed, scores] = ["attention temporary 0", "attention temporary 1"];
    assert.deepEqual(seen, [
      ["view", "[64] input", "[1, 64] input"],
      ["transpose", "[1000, 64] input", `[64, 1000] ${keyTransposed}`],
      ["matmul", "[1, 64] input", `[64, 1000] ${keyTransposed}`, `[1, 1000] ${scores}`],
      ["view", `[1, 1000] ${scores}`, `[1000] ${scores}`],
      ["softmax", `[1000] ${scores}`],
      ["view", `[1000] ${scores}`, `[1, 1000] ${scores}`],
      ["matmul", `[1, 1000] ${scores}`, "[1000, 32] input", "[1, 32] output"],
    ]);
    const temporaries = buffers.filter(({ role }) => role === "temporary");
    assert.deepEqual(
      temporaries.map(({ bytes }) => bytes),
      [4 * 64 * 1000, 4 * 1000],
    );
    assert.equal(temporaryBytes, 4 * 65 * 1000);
    assert.isUndefined(buffers.find(({ role }) => role === "constant"));

    // A matrix of queries is softmaxed as it is: two views fewer change its shape.
    const matrix = await modelFor({ shape: [2, 16] });
    assert.deepEqual(
      matrix.plan({ queries: 5, d: 64, keys: 1000, dv: 32 }).steps.map(({ kernel }) => kernel),
      ["transpose", "matmul", "softmax", "matmul"],
    );

    const text = model.explain({ d: 64, keys: 1000, dv: 32 });
    for (const part of [
      "attention of any size on WebGPU",
      "2. transpose (of attention): 32×32 tiles; grid 64×1×1; 4,224 B of workgroup memory",
      "5. softmax (of attention): 256 lanes a row",
      "float32[64, 1000]",
      "attention temporary 1",
      "temporaries: 260,000 B",
    ])
      assert.include(text, part);
  });

  if (kind === "webgpu") {
    test("lengths bring no new pipelines", async () => {
      const { gpuDevice } = device() as WebGPUDevice;
      const fresh = await requestDevice("webgpu", { gpuDevice });
      for (const rank of [1, 2] as const) {
        using model = await new InferenceSession({ device: fresh }).load(attentionGraph(rank));
        const { pipelines } = fresh.created;
        assert.isAbove(pipelines, 2);
        for (const keys of [1, 5, 9, 20, 40, 100, 200, 300, 600, 1100]) {
          const queries = Math.ceil(keys / 10);
          await run(model, normals({ ...(rank === 2 && { queries }), keys, d: 3, dv: 2 }));
        }
        assert.equal(fresh.created.pipelines, pipelines, `rank ${rank}`);
      }
    });

    test("a second execute creates nothing, nor do many", async () => {
      const gpu = device() as WebGPUDevice;
      const { q, k, v } = normals({ keys: 3, d: 3, dv: 3 });
      const [key, value] = [gpu.upload(k), gpu.upload(v)];
      const row = tensor(q.data, [1, 3]);
      for (const [name, inputs] of [
        ["vector on the device", [gpu.upload(q), key, value]],
        ["vector on the host", [q, k, v]],
        ["matrix on the device", [gpu.upload(row), key, value]],
        ["matrix on the host", [row, k, v]],
      ] as const) {
        const model = await modelFor(inputs[0]);
        const execute = () => {
          const [output] = model.execute(...inputs) as [DeviceTensor];
          const result = output.read();
          output.destroy();
          return result;
        };
        const first = await execute();
        const calls = countGPUCalls(gpu.gpuDevice);
        await execute();
        assert.deepEqual(created(calls), [], `${name}, the second execute`);
        // Reads in flight at once need a buffer each; the next such reads find them.
        const { createBuffer } = calls.counts;
        await Promise.all(Array.from({ length: 20 }, execute));
        const afterMany = calls.counts.createBuffer;
        assert.isAtMost(afterMany - createBuffer, 20, `${name}, reads at once`);
        const results = await Promise.all(Array.from({ length: 20 }, execute));
        assert.equal(calls.counts.createBuffer, afterMany, `${name}, reads at once again`);
        for (const { data } of results) assert.deepEqual(data, first.data);
        for (let i = 0; i < 50; i++) model.execute(...inputs)[0]!.destroy();
        assert.deepEqual((await execute()).data, first.data);
        assert.equal(calls.counts.createBuffer, afterMany, `${name}, many executes`);
        assert.deepEqual(created(calls, ["createBuffer"]), [], `${name}, many executes`);
        calls.stop();
      }
    });
  }
}

/** The calls counted that create something to keep, but for those excepted. */
function created({ counts }: GPUCalls, except: readonly string[] = []): string[] {
  return Object.entries(counts)
    .filter(([name, count]) => /^create(?!CommandEncoder)/.test(name) && count > 0)
    .map(([name]) => name)
    .filter((name) => !except.includes(name));
}

/** Declares the tests of the op that need no device. */
export function testAttentionPlans(): void {
  for (const [name, capabilities] of [
    ["portable", portableCapabilities],
    ["with subgroups", { ...portableCapabilities, subgroups: { min: 4, max: 128 } }],
  ] as const)
    test(`load compiles all that any lengths need, ${name}`, async () => {
      for (const rank of [1, 2] as const) {
        const device = new PlanningDevice(capabilities);
        const model = await new InferenceSession({ device }).load(attentionGraph(rank));
        const lengths = [1, 3, 7, 17, 33, 65, 129, 257, 513, 1025, 16_383, 16_384, 100_003];
        for (const keys of lengths)
          for (const dv of [1, 5, 64, 16_384])
            for (const queries of rank === 1 ? [1] : [1, 2, 33])
              if (keys * Math.max(dv, queries) < 2 ** 25)
                model.prepare({ queries, keys, d: 16, dv });
        assert.deepEqual([...device.missed.values()], [], `rank ${rank}`);
      }
    });
}

/** Declares the tests of the one-line form that need no device given. */
export function testAttentionCall(): void {
  test("a call that names no device opens one, and keeps it", async () => {
    const inputs = normals({ keys: 3, d: 2, dv: 2 });
    const { q, k, v } = inputs;
    const outputs = await Promise.all([attention(q, k, v), attention(q, k, v)]);
    for (const output of outputs)
      assertClose("output", output, reference(inputs), toleranceFor("float32", "webgpu"));
  });

  test("forty shapes at once outlive the cache of models", async () => {
    using device = await requestDevice("cpu");
    await Promise.all(
      Array.from({ length: 40 }, async (_, i) => {
        const inputs = normals({ keys: i + 1, d: 2, dv: 3 });
        const { q, k, v } = inputs;
        const output = await attention(q, k, v, { device });
        assertClose(`${i + 1} keys`, output, reference(inputs), toleranceFor("float32", "cpu"));
      }),
    );
  });
}
