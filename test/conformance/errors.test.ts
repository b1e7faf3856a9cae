import { describe, test } from "node:test";
import { assert } from "chai";
import type { AnyOp } from "../../src/graph/op.ts";
import {
  attentionOp,
  type Device,
  type DeviceTensor,
  defineKernel,
  defineOp,
  Graph,
  InferenceSession,
  type Model,
  matmul,
  ops,
  QkvError,
  requestDevice,
  softmax,
  type Tensor,
  TensorType,
  tensor,
  transpose,
  type Value,
} from "../../src/index.ts";
import { binary, copy, scale } from "../../src/kernels/elementwise/kernel.ts";
import { permute } from "../../src/kernels/transpose/kernel.ts";
import { onEachDevice, upload } from "../support/devices.ts";
import { rejection } from "../support/rejection.ts";

// Bad input: each message names the operation, the argument, the rule and what was got.

/** What users of plain JavaScript may pass. */
// biome-ignore lint/suspicious/noExplicitAny: it is the point
type Anything = any;

type Rows = readonly (readonly [message: string, call: () => unknown])[];

/** Makes every call, and fails with all the messages that are not the expected ones. */
async function checkMessages(rows: Rows): Promise<void> {
  const failures: string[] = [];
  for (const [message, call] of rows) {
    const error = await rejection(call).catch((none: Error) => none);
    if (error.message !== message || !(error instanceof QkvError))
      failures.push(`expected QkvError: ${message}\n     got ${error.name}: ${error.message}`);
  }
  if (failures.length > 0) assert.fail(failures.join("\n"));
}

/** One test for a table of calls, each with the whole message. */
function table(title: string, rows: () => Rows): void {
  test(title, () => checkMessages(rows()));
}

const float32 = (...shape: (number | string)[]) => new TensorType("float32", shape);

/** Builds a graph of these inputs. */
const graph =
  (
    inputTypes: readonly TensorType[],
    forward: (...values: [Value, Value, Value]) => unknown,
    customExtensions: readonly AnyOp[] = [attentionOp],
  ) =>
  () =>
    new Graph("g", { inputTypes, customExtensions, forward: forward as Anything });

describe("errors of building", () => {
  table("tensors and types", () => [
    [
      'TensorType: dtype must be one of float32, float16, bfloat16, int32, bool, got "float64"',
      () => new TensorType("float64" as Anything, []),
    ],
    [
      "TensorType: shape must be an array of dimensions, got 3",
      () => new TensorType("float32", 3 as Anything),
    ],
    ...[0, -1, 1.5, 2 ** 53, "", "n+", "2*", "n-1", "a b", "2n", null, [2]].map(
      (dimension): Rows[number] => [
        `TensorType: a dimension must be an integer of 1 or more, or a name, got ${JSON.stringify(dimension)}`,
        () => float32(dimension as Anything),
      ],
    ),
    [
      "tensor: dtype must be given for Uint16Array data: float16 or bfloat16",
      () => tensor(new Uint16Array(2)),
    ],
    [
      "tensor: data must hold the 6 elements of shape [2, 3], got 5",
      () => tensor([1, 2, 3, 4, 5], [2, 3]),
    ],
    [
      "tensor: data must be the typed array of dtype int32, got a Float32Array",
      () => tensor(new Float32Array(2), [2], "int32"),
    ],
    [
      "tensor: data for float16 must be a Uint16Array of bits (see fromFloat32), got [1, 2]",
      () => tensor([1, 2], [2], "float16"),
    ],
    [
      "tensor: shape must be a shape of integers of 1 or more, got [2, 0]",
      () => tensor([1, 2], [2, 0]),
    ],
    ["tensor: shape must be a shape of integers of 1 or more, got [0]", () => tensor([])],
    [
      "tensor: shape must be a shape of integers of 1 or more, got 2",
      () => tensor([1, 2], 2 as Anything),
    ],
    [
      "tensor: shape must have fewer than 2^53 elements, got [4294967296, 4294967296]",
      () => tensor([1], [2 ** 32, 2 ** 32]),
    ],
  ]);

  table("graphs", () => [
    [
      'Graph: name must be a string, got ""',
      () => new Graph("", { inputTypes: [], forward: (x) => x! }),
    ],
    [
      'g: inputTypes must be an array of TensorType, got ["float32"]',
      graph(["float32"] as Anything, (x) => x),
    ],
    [
      'g: customExtensions must have distinct names, got "attention"',
      graph([float32(1)], (x) => x, [attentionOp, attentionOp]),
    ],
    ["g: forward must return at least one value", graph([float32(1)], () => [])],
    [
      "g: what forward returns must be a tensor, got undefined",
      graph([float32(1)], () => undefined),
    ],
    [
      "g: what forward returns must be a tensor, got a Promise",
      graph([float32(1)], async (x) => x),
    ],
    [
      'add: y must be a value of graph "g", got one of "other"',
      () => {
        let other: Value;
        new Graph("other", {
          inputTypes: [float32(1)],
          forward: (x) => {
            other = x!;
            return x!;
          },
        });
        graph([float32(1)], (x) => ops.add(x, other))();
      },
    ],
  ]);

  const [square, vector, int] = [float32(2, 2), float32(4), new TensorType("int32", [2, 2])];
  table("ops", () => [
    [
      'matmul: a and b must be float32, got ["int32", "float32"]',
      graph([int, square], (a, b) => ops.matmul(a, b)),
    ],
    [
      "matmul: a and b must have one rank of 2 or more, got [float32[2, 2], float32[4]]",
      graph([square, vector], (a, b) => ops.matmul(a, b)),
    ],
    [
      "matmul: a and b must have one rank of 2 or more, got [float32[4], float32[4]]",
      graph([vector], (a) => ops.matmul(a, a)),
    ],
    [
      "matmul: the columns of a must equal the rows of b, got [float32[2, 2], float32[n, 2]]",
      graph([square, float32("n", 2)], (a, b) => ops.matmul(a, b)),
    ],
    [
      "matmul: the leading axes of a and b must be equal, got [float32[3, 2, 2], float32[1, 2, 2]]",
      graph([float32(3, 2, 2), float32(1, 2, 2)], (a, b) => ops.matmul(a, b)),
    ],
    [
      "matmul: at least one argument must be a value of a graph, got [a host tensor float32[1, 1], a host tensor float32[1, 1]]",
      () => ops.matmul(tensor([1], [1, 1]), tensor([1], [1, 1])),
    ],
    ["matmul: b must be a tensor, got 2", graph([square], (a) => ops.matmul(a, 2 as Anything))],
    [
      "matmul: b's data must hold the 4 elements of its shape [2, 2], got 3",
      graph([square], (a) =>
        ops.matmul(a, { data: new Float32Array(3), shape: [2, 2], dtype: "float32" }),
      ),
    ],
    ['transpose: x must be float32, got "int32"', graph([int], (x) => ops.transpose(x))],
    [
      "transpose: x must have two axes or more, got float32[4]",
      graph([vector], (x) => ops.transpose(x)),
    ],
    [
      "transpose: permutation must hold each axis of float32[2, 2] once, got [0, 0]",
      graph([square], (x) => ops.transpose(x, [0, 0])),
    ],
    [
      "transpose: permutation must hold each axis of float32[2, 2] once, got [0, 1, 2]",
      graph([square], (x) => ops.transpose(x, [0, 1, 2])),
    ],
    [
      "transpose: permutation must be an array of axes, got 1",
      graph([square], (x) => ops.transpose(x, 1 as Anything)),
    ],
    ['softmax: x must be float32, got "int32"', graph([int], (x) => ops.softmax(x))],
    [
      "softmax: x must have an axis to normalise, got float32[]",
      graph([float32()], (x) => ops.softmax(x)),
    ],
    [
      "reshape: shape must have the 4 elements of float32[2, 2], got [3, 2]",
      graph([square], (x) => ops.reshape(x, [3, 2])),
    ],
    [
      "reshape: shape must have the 4 elements of float32[2, 2], got [3, -1]",
      graph([square], (x) => ops.reshape(x, [3, -1])),
    ],
    [
      'reshape: shape must have the 2*n elements of float32[n, 2], got ["n"]',
      graph([float32("n", 2)], (x) => ops.reshape(x, ["n"])),
    ],
    [
      "reshape: one axis of shape at most may be -1, got [-1, -1]",
      graph([square], (x) => ops.reshape(x, [-1, -1])),
    ],
    [
      "reshape: shape must be an array of dimensions, got 4",
      graph([square], (x) => ops.reshape(x, 4 as Anything)),
    ],
    [
      "mul: a number to multiply by must be finite, got Infinity",
      graph([square], (x) => ops.mul(x, Infinity)),
    ],
    ['mul: x must be float32, got "int32"', graph([int], (x) => ops.mul(x, 2))],
    [
      "mul: x and y must be float32 of one shape, got [float32[2, 2], float32[4]]",
      graph([square, vector], (x, y) => ops.mul(x, y)),
    ],
    [
      "add: x and y must be float32 of one shape, got [int32[2, 2], int32[2, 2]]",
      graph([int], (x) => ops.add(x, x)),
    ],
    ["add: y must be a tensor, got 1", graph([square], (x) => ops.add(x, 1 as Anything))],
  ]);

  const custom = (use: object, inputTypes = [float32(16), float32("n", 16), float32("n", 8)]) =>
    graph(inputTypes, (...values) => ops.custom("attention", { values, ...use }));
  table("ops.custom", () => [
    [
      'ops.custom: name must be among the graph\'s customExtensions ("attention"), got "attenshun"',
      graph([square], (x) => ops.custom("attenshun", { values: [x] })),
    ],
    [
      'ops.custom: name must be among the graph\'s customExtensions (none), got "attention"',
      graph([square], (x) => ops.custom("attention", { values: [x] }), []),
    ],
    [
      'ops.custom "attention": values must be an array, got undefined',
      custom({ values: undefined }),
    ],
    [
      'ops.custom "attention": outTypes must be the types it infers, float32[8], got [float32[16]]',
      custom({ outTypes: [float32(16)] }),
    ],
    [
      'ops.custom "attention": outTypes must be the types it infers, float32[8], got [float32[8], float32[8]]',
      custom({ outTypes: [float32(8), float32(8)] }),
    ],
    [
      'ops.custom "attention": outTypes must be an array of TensorType, got [[8]]',
      custom({ outTypes: [[8]] }),
    ],
    ["attention: inputs must be q, k and v, got 2", custom({}, [float32(16), float32("n", 16)])],
    [
      'attention: v must be float32, got "float16"',
      custom({}, [float32(16), float32("n", 16), new TensorType("float16", ["n", 8])]),
    ],
    [
      "attention: q must have shape [d] or [queries, d], got float32[1, 1, 16]",
      custom({}, [float32(1, 1, 16), float32("n", 16), float32("n", 8)]),
    ],
    [
      "attention: k must have shape [seq_len, d], got float32[16]",
      custom({}, [float32(16), float32(16), float32("n", 8)]),
    ],
    [
      "attention: v must have shape [seq_len, dv], got float32[8]",
      custom({}, [float32(16), float32("n", 16), float32(8)]),
    ],
    [
      "attention: key depth must equal query depth, got 80 and 64",
      custom({}, [float32(64), float32("n", 80), float32("n", 8)]),
    ],
    [
      'attention: value length must equal key length, got "m" and "n"',
      custom({}, [float32(16), float32("n", 16), float32("m", 8)]),
    ],
    [
      'attention: seq_len must be that of the inputs, "n", got 16',
      custom({ parameters: { seq_len: 16 } }),
    ],
    ["attention: d must be that of the inputs, 16, got 8", custom({ parameters: { d: 8 } })],
    [
      'attention: dtype must be that of the inputs, "float32", got "float16"',
      custom({ parameters: { dtype: "float16" } }),
    ],
    [
      'attention: parameters must be among seq_len, d, dtype, got "scale"',
      custom({ parameters: { scale: 1 } }),
    ],
  ]);

  const kernel = { name: "k", tensors: { x: "read" }, cpu() {} };
  table("kernels and ops of one's own", () => [
    [
      "defineKernel: name must be a string, got undefined",
      () => defineKernel({ ...kernel, name: undefined } as Anything),
    ],
    [
      'defineKernel "k": tensors must name at least one tensor, got {}',
      () => defineKernel({ ...kernel, tensors: {} }),
    ],
    [
      'defineKernel "k": tensors.x must be read, write, readwrite, read? or write?, got "in"',
      () => defineKernel({ ...kernel, tensors: { x: "in" } } as Anything),
    ],
    [
      'defineKernel "k": uniforms.n must be u32, i32 or f32, got "f16"',
      () => defineKernel({ ...kernel, uniforms: { n: "f16" } } as Anything),
    ],
    [
      'defineKernel "k": webgpu or cpu must be given',
      () => defineKernel({ ...kernel, cpu: undefined } as Anything),
    ],
    [
      "defineOp: name must be a string, got 5",
      () => defineOp({ name: 5, infer: () => [], cpu() {} } as Anything),
    ],
    [
      'defineOp "o": infer must be a function, got undefined',
      () => defineOp({ name: "o", cpu() {} } as Anything),
    ],
    [
      'defineOp "o": record, webgpu or cpu must be given',
      () => defineOp({ name: "o", infer: () => [] }),
    ],
    [
      'defineOp "o": record must stand alone, without webgpu and cpu',
      () => defineOp({ name: "o", infer: () => [], record() {}, cpu() {} }),
    ],
    [
      "g: customExtensions must be ops made by defineOp, got undefined",
      graph([square], (x) => x, [undefined] as Anything),
    ],
    [
      "o: infer must return an array of TensorType, got float32[2, 2]",
      graph([square], (x) => ops.custom("o", { values: [x] }), [
        defineOp({ name: "o", infer: ([x]) => x as Anything, cpu() {} }),
      ]),
    ],
  ]);

  table("devices and sessions", () => [
    [
      'requestDevice: kind must be "webgpu" or "cpu", got "gpu"',
      () => requestDevice("gpu" as Anything),
    ],
    [
      'InferenceSession: device must be a device (see requestDevice), got "cpu"',
      () => new InferenceSession({ device: "cpu" } as Anything),
    ],
    [
      "InferenceSession: device must be a device (see requestDevice), got a Promise",
      () => new InferenceSession({ device: requestDevice("cpu") } as Anything),
    ],
    [
      "InferenceSession.load: graph must be a Graph, got {}",
      async () => {
        using device = await requestDevice("cpu");
        await new InferenceSession({ device }).load({} as Anything);
      },
    ],
  ]);

  test("an unknown option of requestDevice is named", async () => {
    const error = await rejection(() => requestDevice("cpu", { gpu: 1 } as Anything));
    assert.instanceOf(error, QkvError);
    assert.match(error.message, /^requestDevice: options must be among gpuDevice, .*, got "gpu"$/);
  });
});

onEachDevice("errors of calls", (device, kind) => {
  let other: Device;
  const put = (...shape: number[]) =>
    upload(device(), new Float32Array(shape.reduce((a, b) => a * b, 1)), shape);
  const elsewhere = (...shape: number[]) =>
    upload(other, new Float32Array(shape.reduce((a, b) => a * b, 1)), shape);
  const released = (...shape: number[]) => {
    const x = put(...shape);
    x.destroy();
    return x;
  };
  const ints = (...shape: number[]) =>
    device().upload(tensor(new Int32Array(shape.reduce((a, b) => a * b, 1)), shape));
  const run =
    (kernel: Anything, tensors: Readonly<Record<string, unknown>>, parameters?: object) => () =>
      device().enqueue(kernel, tensors as Anything, parameters as Anything);

  test("another device", async () => {
    other = await requestDevice("cpu");
  });

  table("kernels", () => [
    ["transpose: tensor output must be given", run(transpose, { input: put(2, 3) })],
    [
      'transpose: tensors must be among input, output, got "out"',
      run(transpose, { input: put(2, 3), out: put(3, 2) }),
    ],
    [
      "transpose: output must have shape [3, 2], got [2, 3]",
      run(transpose, { input: put(2, 3), output: put(2, 3) }),
    ],
    [
      "transpose: input must have two axes or more, got [3]",
      run(transpose, { input: put(3), output: put(3) }),
    ],
    [
      'transpose: input must be float32, got "int32"',
      run(transpose, { input: ints(2, 3), output: put(3, 2) }),
    ],
    [
      `transpose: input must be on the same device, got a tensor on ${other.description}`,
      run(transpose, { input: elsewhere(2, 3), output: put(3, 2) }),
    ],
    [
      "transpose: input must be a device tensor (see device.upload), got a host tensor float32[1, 2]",
      run(transpose, { input: tensor([1, 2], [1, 2]), output: put(2, 1) }),
    ],
    [
      "transpose: output must be a device tensor (see device.upload), got null",
      run(transpose, { input: put(1, 2), output: null }),
    ],
    [
      "transpose: output must not be a released tensor",
      run(transpose, { input: put(2, 3), output: released(3, 2) }),
    ],
    [
      "matmul: b must have shape [3, 5] for a of [2, 3], got [4, 5]",
      run(matmul, { a: put(2, 3), b: put(4, 5), output: put(2, 5) }),
    ],
    [
      "matmul: output must have shape [2, 5] for a of [2, 3], got [5, 2]",
      run(matmul, { a: put(2, 3), b: put(3, 5), output: put(5, 2) }),
    ],
    [
      "matmul: a, b and output must have one rank of 2 or more, got [[6], [6, 1], [1, 1]]",
      run(matmul, { a: put(6), b: put(6, 1), output: put(1, 1) }),
    ],
    [
      "softmax: output must have the shape of input, [2, 3], got [3, 2]",
      run(softmax, { input: put(2, 3), output: put(3, 2) }),
    ],
    [
      "softmax: input must have an axis to normalise, got []",
      run(softmax, { input: put(), output: put() }),
    ],
    [
      "scale: output must have the shape of input, [2], got [3]",
      run(scale, { input: put(2), output: put(3) }, { factor: 1 }),
    ],
    [
      "add: b must have the shape of a, [2], got [1]",
      run(binary.add, { a: put(2), b: put(1), output: put(2) }),
    ],
    [
      'copy: output must have the dtype of input, float32, got "int32"',
      run(copy, { input: put(2), output: ints(2) }),
    ],
    [
      "permute: permutation must hold each axis of input once, got [1, 1]",
      run(permute, { input: put(2, 3), output: put(3, 2) }, { permutation: [1, 1] }),
    ],
    [
      "permute: output must have shape [3, 2], got [2, 3]",
      run(permute, { input: put(2, 3), output: put(2, 3) }, { permutation: [1, 0] }),
    ],
    [
      "permute: permutation must be of four groups of axes at most, got [4, 3, 2, 1, 0]",
      run(
        permute,
        { input: put(2, 2, 2, 2, 2), output: put(2, 2, 2, 2, 2) },
        { permutation: [4, 3, 2, 1, 0] },
      ),
    ],
    ["upload: tensor must be a tensor, got [1, 2]", () => device().upload([1, 2] as Anything)],
    [
      "upload: tensor's data must hold the 6 elements of its shape [2, 3], got 5",
      () => device().upload({ data: new Float32Array(5), shape: [2, 3], dtype: "float32" }),
    ],
    [
      "allocate: shape must be a shape of integers of 1 or more, got [0]",
      () => device().allocate("float32", [0]),
    ],
    [
      'allocate: dtype must be one of float32, float16, bfloat16, int32, bool, got "float64"',
      () => device().allocate("float64" as Anything, [1]),
    ],
  ]);

  test("models", async () => {
    const session = new InferenceSession({ device: device() });
    const model: Model = await session.load(
      new Graph("g", {
        inputTypes: [float32("n", 2), float32("n")],
        forward: (x, y) => [ops.mul(x!, 2), ops.mul(y!, 2)],
      }),
    );
    const host = (...shape: number[]): Tensor =>
      tensor(new Float32Array(shape.reduce((a, b) => a * b, 1)), shape);
    const execute =
      (...inputs: unknown[]) =>
      () =>
        model.execute(...(inputs as Anything[]));
    const into =
      (outputs: unknown, inputs: unknown[] = [host(3, 2), host(3)]) =>
      () =>
        model.executeInto(inputs as Anything, outputs as Anything);
    const x = put(3, 2);
    const or = kind === "webgpu" ? " or a GPUBuffer" : "";
    const rows: Rows = [
      ["g: it takes 2 inputs, got 1", execute(host(3, 2))],
      [`g: input 0 must be a tensor${or}, got [1, 2]`, execute([1, 2], host(3))],
      [`g: input 1 must be a tensor${or}, got undefined`, execute(host(3, 2), undefined)],
      ["g: input 0 must be float32[n, 2], got int32[3, 2]", execute(ints(3, 2), host(3))],
      ["g: input 0 must be float32[n, 2], got float32[3]", execute(host(3), host(3))],
      [
        "g: input 0 must be float32[n, 2] with n = 3, got float32[3, 4]",
        execute(host(3, 4), host(3)),
      ],
      ["g: input 1 must be float32[n] with n = 3, got float32[4]", execute(host(3, 2), host(4))],
      ["g: input 1 must not be a released tensor", execute(x, released(3))],
      [
        `g: input 1 must be on the same device, got a tensor on ${other.description}`,
        execute(x, elsewhere(3)),
      ],
      [
        "g: input 1's data must hold the 3 elements of its shape [3], got 2",
        execute(x, { data: new Float32Array(2), shape: [3], dtype: "float32" }),
      ],
      ["g: outputs must be 2 device tensors, got 1", into([put(3, 2)])],
      ["g: outputs must be 2 device tensors, got undefined", into(undefined)],
      [
        "g: output 1 must be a device tensor, got a host tensor float32[3]",
        into([put(3, 2), host(3)]),
      ],
      ["g: output 1 must be float32[3], got float32[4]", into([put(3, 2), put(4)])],
      ["g: output 0 must be float32[3, 2], got int32[3, 2]", into([ints(3, 2), put(3)])],
      ["g: output 0 must not be a released tensor", into([released(3, 2), put(3)])],
      [
        "g: output 0 must not share a buffer with an input or another output",
        into([x, put(3)], [x, put(3)]),
      ],
      ['g: dimension "n" must be given an integer of 1 or more, got undefined', () => model.plan()],
      [
        'g: dimension "n" must be given an integer of 1 or more, got 0',
        () => model.explain({ n: 0 }),
      ],
      [
        'g: dimension "n" must be given an integer of 1 or more, got 1.5',
        () => model.plan({ n: 1.5 }),
      ],
      ...(kind === "cpu"
        ? ([
            [
              'g.encode: the device must be WebGPU, got "cpu"',
              () => model.encode({} as Anything, [x, put(3)], [put(3, 2), put(3)]),
            ],
          ] as Rows)
        : []),
      [
        "g.encode: input 1 must be on the device (see device.upload), got a host tensor float32[3]",
        () => model.encode({} as Anything, [x, host(3) as Anything], [put(3, 2), put(3)]),
      ],
    ];
    await checkMessages(rows);
    // None of them did harm.
    const outputs: DeviceTensor[] = model.execute(x, host(3));
    assert.deepEqual([...(await outputs[0]!.read()).data], [0, 0, 0, 0, 0, 0]);
    const [output] = outputs as [DeviceTensor];
    output.destroy();
    const error = await rejection(() => output.read());
    assert.instanceOf(error, QkvError);
    assert.match(
      error.message,
      /^(read: the tensor must not be a released tensor|CPU tensor: it must not be used after destroy\(\))$/,
    );
    model.destroy();
    assert.throws(execute(x, host(3)), QkvError, "g: the model must not be used after destroy()");
  });
});
