import { describe, test } from "node:test";
import { assert } from "chai";
import fc from "fast-check";
import {
  attentionOp,
  type DeviceTensor,
  DeviceUnavailableError,
  type Dimension,
  defineKernel,
  defineOp,
  type ExplainedPlan,
  Graph,
  InferenceSession,
  matmul,
  ops,
  QkvError,
  softmax,
  softmaxInPlace,
  type Tensor,
  TensorType,
  tensor,
  transpose,
  type Value,
  WebGPUDevice,
} from "../../src/index.ts";
import { assertClose } from "../support/compare.ts";
import { onEachDevice, upload } from "../support/devices.ts";
import { countGPUCalls } from "../support/gpu-calls.ts";
import { random, sweep } from "../support/random.ts";
import { rejection } from "../support/rejection.ts";

// Graphs: shapes with names, the memory planner, ops of a user's own.

const float32 = (...shape: Dimension[]) => new TensorType("float32", shape);
const numbers = (...data: number[]) => tensor(data);

/** The README's kernel and op. */
const addOneKernel = defineKernel({
  name: "add_one",
  tensors: { input: "read", output: "write" },
  uniforms: { count: "u32" },
  webgpu: ({ tensors: { input } }) => {
    const count = input.shape.reduce((a, b) => a * b, 1);
    return {
      wgsl: `
        @group(0) @binding(0) var<storage, read> input: array<f32>;
        @group(0) @binding(1) var<storage, read_write> output: array<f32>;
        struct Uniforms { count: u32 }
        @group(0) @binding(2) var<uniform> uniforms: Uniforms;

        @compute @workgroup_size(64)
        fn main(@builtin(global_invocation_id) id: vec3<u32>) {
          if (id.x < uniforms.count) { output[id.x] = input[id.x] + 1; }
        }`,
      workgroups: [Math.ceil(count / 64), 1, 1],
      uniforms: { count },
    };
  },
  cpu({ input, output }) {
    for (let i = 0; i < output.data.length; i++) output.data[i] = input.data[i]! + 1;
  },
});

const addOneOp = defineOp({
  name: "add_one",
  infer: ([x]) => [x!],
  webgpu: ({ inputs: [input], outputs: [output], enqueue }) =>
    enqueue(addOneKernel, { input: input!, output: output! }),
  cpu: ({ inputs: [input], outputs: [output], enqueue }) =>
    enqueue(addOneKernel, { input: input!, output: output! }),
});

/** Two outputs, x + 1 and x + 2, by way of a temporary seen under another shape. */
const addBoth = defineOp({
  name: "add_both",
  infer: ([x]) => [x!, x!],
  record: ({ inputs: [x], outputs: [one, two], allocate, enqueue }) => {
    const flat = allocate("float32", [x!.shape.reduce((a, b) => a * b)]);
    enqueue(addOneKernel, { input: x!, output: flat });
    enqueue(addOneKernel, { input: flat.reshape(x!.shape), output: two! });
    enqueue(addOneKernel, { input: x!.reshape(flat.shape), output: one!.reshape(flat.shape) });
  },
});

const addOne = (x: Value) => ops.custom("add_one", { values: [x] })[0]!;

/** One of the 16 numbers that every value of a random graph holds. */
type Numbers = readonly number[];

interface Evaluated {
  readonly value: Value;
  readonly expected: Numbers;
}

/**
 * Nodes of a random graph: each makes a value of 16 numbers in [−1, 1] out of earlier ones, with its
 * counterpart in float64. Intermediates of 256 numbers make planning buffers worth while.
 */
const nodes: readonly ((a: Evaluated, b: Evaluated, pick: number) => Evaluated)[] = [
  (a, _, pick) => ({
    value: ops.reshape(a.value, ([[16], [4, 4], [2, 8], [2, 2, 4]] as const)[pick % 4]!),
    expected: a.expected,
  }),
  (a) => ({ value: ops.mul(a.value, -0.5), expected: a.expected.map((x) => x * -0.5) }),
  (a, b) => ({
    value: ops.mul(a.value, ops.reshape(b.value, a.value.type.shape)),
    expected: a.expected.map((x, i) => x * b.expected[i]!),
  }),
  (a, b) => ({
    value: ops.mul(ops.add(ops.reshape(a.value, b.value.type.shape), b.value), 0.5),
    expected: a.expected.map((x, i) => (x + b.expected[i]!) / 2),
  }),
  (a) => ({
    value: ops.mul(ops.add(a.value, constant(a.value.type)), 0.5),
    expected: a.expected.map((x, i) => (x + i / 16) / 2),
  }),
  (a) => ({
    value: ops.softmax(ops.reshape(a.value, [4, 4])),
    expected: softmaxRows(a.expected, 4),
  }),
  (a, _, pick) => {
    const shape = [2, 2, 4];
    const permutation = [
      [0, 2, 1],
      [2, 1, 0],
      [1, 0, 2],
      [1, 2, 0],
    ][pick % 4]!;
    return {
      value: ops.transpose(ops.reshape(a.value, shape), permutation),
      expected: permuted(a.expected, shape, permutation),
    };
  },
  (a, b) => {
    // 16 × 16 products, squared, as weights of b.
    const outer = ops.matmul(ops.reshape(a.value, [16, 1]), ops.reshape(b.value, [1, 16]));
    const weights = ops.softmax(ops.mul(outer, outer));
    const products = a.expected.flatMap((x) => b.expected.map((y) => (x * y) ** 2));
    return {
      value: ops.matmul(weights, ops.reshape(b.value, [16, 1])),
      expected: multiplied(softmaxRows(products, 16), b.expected, 16, 16, 1),
    };
  },
  (a, b) => {
    // An op with temporaries of its own.
    const [q, k] = [ops.reshape(a.value, [4, 4]), ops.reshape(b.value, [4, 4])];
    const scores = multiplied(a.expected, permuted(b.expected, [4, 4], [1, 0]), 4, 4, 4);
    return {
      value: ops.custom("attention", { values: [q, k, q] })[0]!,
      expected: multiplied(softmaxRows(scores, 4), a.expected, 4, 4, 4),
    };
  },
  (a, _, pick) => ({
    // One of two outputs, the other of which may go unused.
    value: ops.mul(ops.custom("add_both", { values: [a.value] })[pick % 2]!, 0.25),
    expected: a.expected.map((x) => (x + 1 + (pick % 2)) / 4),
  }),
];

const constant = ({ shape }: TensorType): Tensor =>
  tensor(
    Array.from({ length: 16 }, (_, i) => i / 16),
    shape as number[],
  );

function softmaxRows(data: Numbers, columns: number): number[] {
  return data.map((x, i) => {
    const start = i - (i % columns);
    const row = data.slice(start, start + columns);
    return Math.exp(x) / row.reduce((sum, y) => sum + Math.exp(y), 0);
  });
}

function multiplied(a: Numbers, b: Numbers, rows: number, inner: number, columns: number) {
  return Array.from({ length: rows * columns }, (_, i) => {
    const [row, column] = [Math.floor(i / columns), i % columns];
    let sum = 0;
    for (let k = 0; k < inner; k++) sum += a[row * inner + k]! * b[k * columns + column]!;
    return sum;
  });
}

function permuted(data: Numbers, shape: readonly number[], permutation: readonly number[]) {
  const strides = shape.map((_, axis) => shape.slice(axis + 1).reduce((a, b) => a * b, 1));
  const lengths = permutation.map((axis) => shape[axis]!);
  return data.map((_, flat) => {
    let rest = flat;
    let from = 0;
    for (let axis = lengths.length - 1; axis >= 0; axis--) {
      from += (rest % lengths[axis]!) * strides[permutation[axis]!]!;
      rest = Math.floor(rest / lengths[axis]!);
    }
    return data[from]!;
  });
}

onEachDevice("graph", (device, kind) => {
  const load = (graph: Graph) => new InferenceSession({ device: device() }).load(graph);
  const read = async (outputs: readonly DeviceTensor[]): Promise<Tensor[]> => {
    const results = outputs.map((output) => output.read());
    for (const output of outputs) output.destroy();
    return Promise.all(results);
  };
  const arrays = async (outputs: readonly DeviceTensor[]) =>
    (await read(outputs)).map(({ data }) => [...data]);
  const temporaries = (plan: ExplainedPlan) =>
    plan.buffers.filter(({ role }) => role === "temporary");

  test("random graphs give what their ops give one by one", () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(nodes.length - 1), fc.nat(), fc.nat(), fc.nat()), {
          minLength: 1,
          maxLength: 14,
        }),
        fc.array(fc.nat(), { minLength: 1, maxLength: 4 }),
        fc.integer(),
        async (made, returned, from) => {
          const { uniform } = random(from);
          const draw = (): Numbers =>
            Array.from({ length: 16 }, () => Math.fround(2 * uniform() - 1));
          // The same graph twice over, for different inputs.
          const inputs = [0, 1].map(() => [draw(), draw()] as const);
          const expected: Numbers[][] = [];
          const build = (numbers: readonly [Numbers, Numbers]) =>
            new Graph("random", {
              inputTypes: [float32(16), float32(4, 4)],
              customExtensions: [attentionOp, addBoth],
              forward: (...values) => {
                const known = values.map((value, i) => ({ value, expected: numbers[i]! }));
                for (const [node, a, b, pick] of made) {
                  const [left, right] = [known[a % known.length]!, known[b % known.length]!];
                  known.push(nodes[node]!(left, right, pick));
                }
                // The last, and any others: inputs, views and duplicates among them.
                const results = [known.length - 1, ...returned].map(
                  (i) => known[i % known.length]!,
                );
                expected.push(results.map((result) => result.expected));
                return results.map(({ value }) => value);
              },
            });
          const [graph] = inputs.map(build);
          using model = await load(graph!);
          // Both are enqueued before either is read.
          const outputs = inputs.map(([x, y]) => model.execute(tensor(x), tensor(y, [4, 4])));
          for (const [run, tensors] of outputs.entries())
            for (const [i, result] of (await read(tensors)).entries())
              assertClose(`output ${i} of run ${run}`, result, expected[run]![i]!, {
                absolute: 1e-5,
                relative: 0,
              });
        },
      ),
      sweep(40),
    ));

  test("a chain of six ops takes two temporaries", async () => {
    const graph = new Graph("chain", {
      inputTypes: [float32("n")],
      customExtensions: [addOneOp],
      forward: (x) => addOne(addOne(addOne(addOne(addOne(addOne(x!)))))),
    });
    using model = await load(graph);
    const plan = model.plan({ n: 100 });
    assert.deepEqual(
      plan.buffers.map(({ role, bytes, holds }) => [role, bytes, holds.length]),
      [
        ["input", 400, 1],
        ["output", 400, 1],
        ["temporary", 400, 3],
        ["temporary", 400, 2],
      ],
    );
    assert.equal(plan.temporaryBytes, 800);
    assert.equal(plan.steps.length, 6);
    assert.deepEqual(await arrays(model.execute(numbers(1, 2))), [[7, 8]]);
  });

  test("a buffer is reused by what fits, else enlarged", async () => {
    // Two lines that meet: 16 numbers all along, and 16 that grow to 256 and shrink again.
    const graph = new Graph("two lines", {
      inputTypes: [float32(16, 1)],
      customExtensions: [addOneOp],
      forward: (x) => {
        const small = addOne(x!);
        const large = addOne(ops.matmul(addOne(x!), ops.reshape(x!, [1, 16])));
        return ops.add(ops.matmul(large, x!), small);
      },
    });
    using model = await load(graph);
    // small; addOne(x), grown to take addOne of the product, shrunk to take large · x; the product.
    assert.deepEqual(
      temporaries(model.plan()).map(({ bytes, holds }) => [bytes, holds.length]),
      [
        [64, 1],
        [1024, 2],
        [1024, 2],
      ],
    );
    const x = Array.from({ length: 16 }, (_, i) => (i - 8) / 8);
    const square = x.reduce((sum, b) => sum + b * b, 0);
    const total = x.reduce((sum, b) => sum + b, 0);
    const expected = x.map((a) => (a + 1) * square + total + a + 1);
    const [output] = await read(model.execute(tensor(x, [16, 1])));
    assertClose("two lines", output!, expected, { absolute: 1e-4, relative: 0 });
  });

  test("a reshape is the same memory", async () => {
    const graph = new Graph("views", {
      inputTypes: [float32("n", 6)],
      customExtensions: [addOneOp],
      forward: (x) => {
        const flat = ops.reshape(x!, [-1]);
        const thirds = ops.reshape(addOne(flat), ["n", 2, 3]);
        return ops.reshape(addOne(thirds), [3, "2*n"]);
      },
    });
    assert.deepEqual(graph.outputs[0]!.type.shape, [3, "2*n"]);
    using model = await load(graph);
    const { steps, buffers } = model.plan({ n: 2 });
    assert.deepEqual(
      steps.map(({ op }) => op),
      ["view", "add_one", "view", "add_one", "view"],
    );
    for (const { op, tensors } of steps)
      if (op === "view") assert.equal(tensors[0]!.buffer, tensors[1]!.buffer);
    assert.deepEqual(
      buffers.map(({ role }) => role),
      ["input", "output", "temporary"],
    );
    const [output] = await read(model.execute(tensor([...Array(12).keys()], [2, 6])));
    assert.deepEqual(output!.shape, [3, 4]);
    assert.deepEqual([...output!.data], [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
  });

  test("outputs that are inputs, constants, views or each other are copied", async () => {
    const graph = new Graph("copies", {
      inputTypes: [float32("n"), new TensorType("bool", ["m"])],
      customExtensions: [addOneOp],
      forward: (x, flags) => {
        const y = addOne(x!);
        const fixed = ops.mul(x!, 0); // keeps the constant in a graph with a node
        const constantOutput = numbers(7, 8, 9) as unknown as Value;
        return [
          x!,
          y,
          y,
          ops.reshape(y, [1, "n"]),
          ops.reshape(x!, ["n", 1]),
          flags!,
          fixed,
        ].concat(constantOutput);
      },
    });
    using model = await load(graph);
    const x = upload(device(), [1, 2, 3, 4, 5], [5]);
    const flags = tensor(new Uint8Array([1, 0, 1, 1, 0, 0, 1]));
    const outputs = model.execute(x, flags);
    assert.equal(new Set(outputs.map(({ memory }) => memory)).size, outputs.length);
    x.destroy();
    const results = await read(outputs);
    assert.deepEqual(
      results.map(({ data }) => [...data]),
      [
        [1, 2, 3, 4, 5],
        [2, 3, 4, 5, 6],
        [2, 3, 4, 5, 6],
        [2, 3, 4, 5, 6],
        [1, 2, 3, 4, 5],
        [1, 0, 1, 1, 0, 0, 1],
        [0, 0, 0, 0, 0],
        [7, 8, 9],
      ],
    );
    assert.deepEqual(
      results.map(({ shape }) => shape),
      [[5], [5], [5], [1, 5], [5, 1], [7], [5], [3]],
    );
  });

  test("what no output needs is neither recorded nor run", async () => {
    const never = defineOp({
      name: "never",
      infer: ([x]) => [x!],
      webgpu: () => assert.fail("recorded"),
      cpu: () => assert.fail("run"),
    });
    const graph = new Graph("unused", {
      inputTypes: [float32(2), float32(3)],
      customExtensions: [never, addOneOp],
      forward: (x, unused) => {
        ops.custom("never", { values: [addOne(unused!)] });
        return addOne(x!);
      },
    });
    using model = await load(graph);
    assert.equal(model.plan().steps.length, 1);
    assert.deepEqual(await arrays(model.execute(numbers(1, 2), numbers(1, 2, 3))), [[2, 3]]);
  });

  test("a constant reaches as far as its shape, and is read by the time the graph is loaded", async () => {
    const data = new Float32Array(1000).fill(10);
    const graph = new Graph("constant", {
      inputTypes: [float32(3)],
      forward: (x) => ops.add(x!, { data, shape: [3], dtype: "float32" }),
    });
    using model = await load(graph);
    data.fill(0);
    assert.deepEqual(await arrays(model.execute(numbers(1, 2, 3))), [[11, 12, 13]]);
  });

  test("scalars", async () => {
    const graph = new Graph("scalars", {
      inputTypes: [float32(), float32(1)],
      forward: (x, y) => [
        ops.add(ops.mul(x!, 3), ops.reshape(y!, [])),
        ops.transpose(ops.reshape(x!, [1, 1])),
      ],
    });
    using model = await load(graph);
    const outputs = model.execute(tensor([2], []), tensor([5], [1]));
    assert.deepEqual(outputs[0]!.shape, []);
    assert.deepEqual(await arrays(outputs), [[11], [2]]);
  });

  test("lengths bind by name, and many of them", async () => {
    const graph = new Graph("lengths", {
      inputTypes: [float32("n"), float32("2*n + past"), float32("past")],
      customExtensions: [addOneOp],
      forward: (x, long, past) => [addOne(x!), ops.mul(long!, 2), addOne(past!)],
    });
    using model = await load(graph);
    const ramp = (length: number) => Array.from({ length }, (_, i) => i);
    // More sets of lengths than are kept, and the first ones again.
    for (const n of [1, 2, 3, 5, 7, 11, 13, 64, 65, 300, 1, 2])
      for (const past of [1, 4]) {
        const lengths = [n, 2 * n + past, past];
        const outputs = await arrays(
          model.execute(...lengths.map((length) => numbers(...ramp(length)))),
        );
        assert.deepEqual(outputs, [
          ramp(n).map((x) => x + 1),
          ramp(2 * n + past).map((x) => x * 2),
          ramp(past).map((x) => x + 1),
        ]);
      }
    const [five, four, eleven] = [5, 4, 11].map((length) => numbers(...ramp(length)));
    assert.throws(
      () => model.execute(five!, eleven!, four!),
      QkvError,
      "lengths: input 1 must be float32[2*n + past] with n = 5, past = 4, got float32[11]",
    );
  });

  test("one name has one length", async () => {
    const graph = new Graph("same", {
      inputTypes: [float32("n", 2), float32("n", 2)],
      forward: (x, y) => ops.add(x!, y!),
    });
    using model = await load(graph);
    assert.throws(
      () => model.execute(tensor([1, 2], [1, 2]), tensor([1, 2, 3, 4], [2, 2])),
      QkvError,
      "same: input 1 must be float32[n, 2] with n = 1, got float32[2, 2]",
    );
  });

  test("names that objects have by nature are names like others", async () => {
    const graph = new Graph("names", {
      inputTypes: [float32("constructor"), float32("toString + 1"), float32("toString")],
      customExtensions: [addOneOp],
      forward: (x, y) => [addOne(x!), addOne(y!)],
    });
    using model = await load(graph);
    const outputs = model.execute(numbers(1, 2), numbers(1, 2, 3, 4), numbers(1, 2, 3));
    assert.deepEqual(await arrays(outputs), [
      [2, 3],
      [2, 3, 4, 5],
    ]);
  });

  test("many names on one tensor load, whatever lengths are tried", async () => {
    const graph = new Graph("many names", {
      inputTypes: [float32("a", "b", "c", "d", "e", "f")],
      forward: (x) => ops.mul(x!, 2),
    });
    using model = await load(graph);
    const [output] = await arrays(model.execute(tensor([1, 2, 3, 4], [1, 2, 1, 2, 1, 1])));
    assert.deepEqual(output, [2, 4, 6, 8]);
  });

  test("a thousand executes create what the first one did", async () => {
    const graph = new Graph("busy", {
      inputTypes: [float32(4), float32(4)],
      customExtensions: [addBoth],
      // Outputs and inputs that might take each other's buffers.
      forward: (x, y) => [ops.add(ops.mul(x!, 2), y!), ...ops.custom("add_both", { values: [x!] })],
    });
    using model = await load(graph);
    const [x, y] = [numbers(1, 2, 3, 4), numbers(5, 6, 7, 8)];
    const execute = () => {
      const outputs = model.execute(x, y);
      return arrays(outputs);
    };
    const first = await execute();
    const gpu = device() instanceof WebGPUDevice ? (device() as WebGPUDevice) : undefined;
    const calls = gpu && countGPUCalls(gpu.gpuDevice);
    assert.deepEqual(await execute(), first);
    for (let i = 0; i < 1000; i++) for (const output of model.execute(x, y)) output.destroy();
    assert.deepEqual(await execute(), first);
    calls?.stop();
    for (const [name, count] of Object.entries(calls?.counts ?? {}))
      if (/^create(?!CommandEncoder)/.test(name)) assert.equal(count, 0, name);
  });

  test("an op of a user's own, and its kernel alone", async () => {
    const input = upload(device(), [0, 1, 2], [3]);
    const output = device().allocate("float32", [3]);
    device().enqueue(addOneKernel, { input, output });
    assert.deepEqual([...(await output.read()).data], [1, 2, 3]);

    const graph = new Graph("user's op", {
      inputTypes: [float32("n")],
      customExtensions: [addOneOp],
      forward: (x) =>
        ops.custom("add_one", { values: [x!], outTypes: [float32("n")], parameters: {} })[0]!,
    });
    using model = await load(graph);
    assert.deepEqual(await arrays(model.execute(input)), [[1, 2, 3]]);
    assert.deepEqual(await arrays(model.execute(numbers(...Array(1009).fill(4)))), [
      Array(1009).fill(5),
    ]);
  });

  test("parameters reach an op on every device", async () => {
    const seen: object[] = [];
    const op = defineOp<{ readonly by: number }>({
      name: "plus",
      infer: ([x], parameters) => {
        seen.push(parameters);
        return [x!];
      },
      webgpu: ({ inputs: [input], outputs: [output], parameters, allocate, enqueue }) => {
        seen.push(parameters);
        let from = input!;
        for (let i = 1; i < parameters.by; i++) {
          const to = allocate("float32", from.shape);
          enqueue(addOneKernel, { input: from, output: to });
          from = to;
        }
        enqueue(addOneKernel, { input: from, output: output! });
      },
      cpu: ({ inputs: [input], outputs: [output], parameters }) => {
        seen.push(parameters);
        for (let i = 0; i < output!.data.length; i++)
          output!.data[i] = input!.data[i]! + parameters.by;
      },
    });
    const graph = new Graph("parameters", {
      inputTypes: [float32(2)],
      customExtensions: [op],
      forward: (x) => ops.custom("plus", { values: [x!], parameters: { by: 5 } }),
    });
    using model = await load(graph);
    assert.deepEqual(await arrays(model.execute(numbers(1, 2))), [[6, 7]]);
    assert.isAbove(seen.length, 1);
    for (const parameters of seen) assert.deepEqual(parameters, { by: 5 });
    if (kind === "webgpu") assert.equal(temporaries(model.plan()).length, 2);
  });

  test("an op for the other kind of device only", async () => {
    const other = kind === "cpu" ? { webgpu: addOneOp.webgpu! } : { cpu: addOneOp.cpu! };
    const op = defineOp({ name: "elsewhere", infer: addOneOp.infer, ...other });
    const graph = new Graph("elsewhere", {
      inputTypes: [float32(1)],
      customExtensions: [op],
      forward: (x) => ops.custom("elsewhere", { values: [x!] }),
    });
    const error = await rejection(async () => (await load(graph)).execute(numbers(1)));
    assert.instanceOf(error, DeviceUnavailableError);
    const [has, hasNot] = kind === "cpu" ? ["WebGPU", "CPU"] : ["the CPU", "WebGPU"];
    assert.equal(
      error.message,
      `elsewhere: it has no ${hasNot} implementation; load the graph for ${has}`,
    );

    const kernel = defineKernel({
      ...addOneKernel,
      name: "elsewhere",
      [kind]: undefined,
    } as typeof addOneKernel);
    const input = upload(device(), [1], [1]);
    assert.throws(
      () => device().enqueue(kernel, { input, output: upload(device(), [0], [1]) }),
      DeviceUnavailableError,
      /^elsewhere: it has no (WebGPU|CPU) implementation; run it on /,
    );
  });

  test("an op must not write its inputs, which others read too", async () => {
    const op = defineOp({
      name: "overwrite",
      infer: ([x]) => [x!],
      webgpu: ({ inputs: [x], outputs: [output], enqueue }) => {
        enqueue(softmaxInPlace, { values: x! });
        enqueue(softmax, { input: x!, output: output! });
      },
      cpu: ({ inputs: [x], outputs: [output], enqueue }) => {
        enqueue(softmaxInPlace, { values: x! });
        enqueue(softmax, { input: x!, output: output! });
      },
    });
    const graphs = {
      "a graph's input": (x: Value) => x,
      "another op's output": (x: Value) => ops.mul(x, 2),
      "a view": (x: Value) => ops.reshape(ops.mul(x, 2), [1, 3]),
    };
    for (const [name, make] of Object.entries(graphs)) {
      const graph = new Graph("overwrite", {
        inputTypes: [float32(3)],
        customExtensions: [op],
        forward: (x) => {
          const y = make(x!);
          return [y, ops.custom("overwrite", { values: [y] })[0]!];
        },
      });
      const error = await rejection(async () => {
        await read((await load(graph)).execute(numbers(1, 2, 3)));
      });
      assert.instanceOf(error, QkvError, name);
      assert.equal(
        error.message,
        "softmax: values is written, so it must not be an input of op overwrite",
        name,
      );
    }
  });

  test("a kernel must not read and write one tensor under two names", async () => {
    const square = upload(device(), [1, 2, 3, 4], [2, 2]);
    assert.throws(
      () => device().enqueue(transpose, { input: square, output: square }),
      QkvError,
      "transpose: output must not share a buffer with input: one of them is written",
    );
    const eye = upload(device(), [1, 0, 0, 1], [2, 2]);
    assert.throws(() => device().enqueue(matmul, { a: eye, b: square, output: square }), QkvError);
    assert.deepEqual([...(await square.read()).data], [1, 2, 3, 4]);
    // Reading one twice is well.
    const output = device().allocate("float32", [2, 2]);
    device().enqueue(matmul, { a: square, b: square, output });
    assert.deepEqual([...(await output.read()).data], [7, 10, 15, 22]);

    const op = defineOp({
      name: "aliased",
      infer: ([x]) => [x!],
      webgpu: ({ inputs: [x], outputs: [y], enqueue }) => {
        enqueue(addOneKernel, { input: x!, output: y! });
        enqueue(transpose, { input: y!, output: y!.reshape([2, 2]) });
      },
      cpu: ({ inputs: [x], outputs: [y], enqueue }) => {
        enqueue(addOneKernel, { input: x!, output: y! });
        enqueue(transpose, { input: y!, output: y!.reshape([2, 2]) });
      },
    });
    const graph = new Graph("aliased", {
      inputTypes: [float32(2, 2)],
      customExtensions: [op],
      forward: (x) => ops.custom("aliased", { values: [x!] }),
    });
    const error = await rejection(async () => {
      await read((await load(graph)).execute(square));
    });
    assert.instanceOf(error, QkvError);
    assert.match(error.message, /^transpose: output must not share a buffer with input/);
  });
});

describe("dimensions", () => {
  test("have one spelling each", () => {
    const spellings: Readonly<Record<string, Dimension>> = {
      n: "n",
      " n ": "n",
      "16": 16,
      "2*8": 16,
      "3 + 4": 7,
      "b + a": "a + b",
      "kv+past": "kv + past",
      "n*2": "2*n",
      "n + n": "2*n",
      "1*n": "n",
      "3 + n": "n + 3",
      "b*a + a*b": "2*a*b",
      "n*n": "n*n",
      "2*n + 1 + n": "3*n + 1",
      _a1: "_a1",
    };
    for (const [written, canonical] of Object.entries(spellings))
      assert.deepEqual(float32(written).shape, [canonical], written);
    assert.isTrue(float32("a + b", 2).equals(float32("b+a", "2")));
    assert.isFalse(float32("a").equals(float32("b")));
    assert.isFalse(float32("a").equals(new TensorType("int32", ["a"])));
    assert.equal(String(float32("2*n", 3)), "float32[2*n, 3]");
    assert.sameMembers(float32("b + a*b", "a", "c").names, ["a", "b", "c"]);
    assert.deepEqual(float32("2*n + past", 3).resolve({ n: 4, past: 1 }), [9, 3]);
  });

  test("sums and products follow ops", () => {
    new Graph("symbolic", {
      inputTypes: [float32("past + kv", "2*d"), float32("d", "kv")],
      forward: (x, y) => {
        const shapeOf = ({ type }: Value) => type.shape;
        assert.deepEqual(shapeOf(ops.reshape(x!, ["kv + past", 2, "d"])), ["kv + past", 2, "d"]);
        assert.deepEqual(shapeOf(ops.reshape(x!, [-1])), ["2*d*kv + 2*d*past"]);
        assert.deepEqual(shapeOf(ops.reshape(x!, ["d", -1])), ["d", "2*kv + 2*past"]);
        assert.deepEqual(shapeOf(ops.transpose(x!)), ["2*d", "kv + past"]);
        const halves = ops.reshape(x!, ["2*kv + 2*past", "d"]);
        assert.deepEqual(shapeOf(ops.matmul(halves, y!)), ["2*kv + 2*past", "kv"]);
        assert.throws(() => ops.reshape(x!, [3, -1]), QkvError);
        assert.throws(() => ops.reshape(x!, ["kv", -1]), QkvError);
        return x!;
      },
    });
  });

  test("must come from an input's axis", async () => {
    using device = { prepare() {}, [Symbol.dispose]() {} } as never;
    const session = new InferenceSession({ device });
    const refused = async (graph: Graph, message: string) => {
      const error = await rejection(() => session.load(graph));
      assert.instanceOf(error, QkvError);
      assert.equal(error.message, message);
    };
    await refused(
      new Graph("half", { inputTypes: [float32("2*n")], forward: (x) => x! }),
      'half: dimension "n" must be the whole of some input\'s axis, to get its length from',
    );
    const invent = defineOp({ name: "invent", infer: () => [float32("z")], cpu() {} });
    await refused(
      new Graph("invented", {
        inputTypes: [float32("n")],
        customExtensions: [invent],
        forward: (x) => ops.custom("invent", { values: [x!] }),
      }),
      'invented: dimension "z" must be that of an input',
    );
  });
});
