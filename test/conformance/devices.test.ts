import { describe, test } from "node:test";
import { assert } from "chai";
import { BufferPool } from "../../src/devices/webgpu/buffer-pool.ts";
import {
  CompilationError,
  type Device,
  DeviceLostError,
  type DeviceTensor,
  type Dimension,
  defineKernel,
  defineOp,
  GPUOperationError,
  Graph,
  InferenceSession,
  type Model,
  ops,
  QkvError,
  requestDevice,
  TensorType,
  tensor,
  type WebGPUDevice,
} from "../../src/index.ts";
import { copy, scale } from "../../src/kernels/elementwise/kernel.ts";
import { allocateData } from "../../src/tensor/dtype.ts";
import { onEachDevice, onEachWebGPU, upload } from "../support/devices.ts";
import { rejection } from "../support/rejection.ts";

// Devices: tensors, reads in flight, the caller's own WebGPU work, and what goes wrong on a GPU.

const float32 = (...shape: Dimension[]) => new TensorType("float32", shape);
const values = async (x: DeviceTensor) => [...(await x.read()).data];

/** x + 1, in place. */
const increment = defineKernel({
  name: "increment",
  tensors: { values: "readwrite" },
  webgpu: ({ tensors }) => ({
    wgsl: `
      @group(0) @binding(0) var<storage, read_write> values: array<f32>;
      @compute @workgroup_size(1)
      fn main(@builtin(workgroup_id) id: vec3<u32>) { values[id.x] += 1; }`,
    workgroups: [tensors.values.shape[0]!, 1, 1],
  }),
  cpu: ({ values: { data } }) =>
    data.forEach((x, i) => {
      data[i] = x + 1;
    }),
});

/** 2x + 2y, by way of temporaries. */
const sumGraph = new Graph("sum", {
  inputTypes: [float32("n"), float32("n")],
  forward: (x, y) => ops.add(ops.mul(x!, 2), ops.mul(y!, 2)),
});

onEachDevice("device", (device) => {
  test("tensors of every dtype and of odd lengths come back", async () => {
    for (const dtype of ["float32", "float16", "bfloat16", "int32", "bool"] as const)
      for (const length of [1, 2, 3, 5, 1021]) {
        const data = allocateData(dtype, length);
        for (let i = 0; i < length; i++) data[i] = dtype === "bool" ? i % 2 : 7 * i + 1;
        const expected = data.slice();
        // Longer than its shape: the rest is not the tensor's.
        const longer = allocateData(dtype, length + 5);
        longer.set(data);
        const [x, y] = [
          device().upload(tensor(data, [length], dtype)),
          device().upload({ data: longer, shape: [length], dtype }),
        ];
        data.fill(0);
        for (const read of await Promise.all([x.read(), y.read()])) {
          assert.deepEqual(read.data, expected, `${dtype} [${length}]`);
          assert.deepEqual([read.dtype, read.shape], [dtype, [length]]);
        }
        x.destroy();
        y.destroy();
      }
  });

  test("a hundred reads in flight", async () => {
    const tensors = Array.from({ length: 50 }, (_, i) => upload(device(), [i, i + 1], [2]));
    const reads = [...tensors, ...tensors].map((x) => x.read());
    const results = await Promise.all(reads);
    for (const [i, { data }] of results.entries())
      assert.deepEqual([...data], [i % 50, (i % 50) + 1]);
    // Each is a copy of its own.
    results[0]!.data.fill(9);
    assert.deepEqual([...results[50]!.data], [0, 1]);
    assert.deepEqual(await values(tensors[0]!), [0, 1]);
  });

  test("a read sees what was enqueued before it, and nothing later", async () => {
    const x = upload(device(), [0, 10, 20], [3]);
    const reads: Promise<number[]>[] = [];
    for (let i = 0; i < 20; i++) {
      device().enqueue(increment, { values: x });
      if (i % 3 === 0) reads.push(values(x));
    }
    assert.deepEqual(
      await Promise.all(reads),
      reads.map((_, i) => [3 * i + 1, 3 * i + 11, 3 * i + 21]),
    );
  });

  test("destroy() right after read() or a call does no harm", async () => {
    const model = await new InferenceSession({ device: device() }).load(sumGraph);
    const pending: Promise<number[]>[] = [];
    for (let i = 0; i < 10; i++) {
      const [x, y] = [upload(device(), [i, 1], [2]), upload(device(), [i, 2], [2])];
      const [output] = model.execute(x, y) as [DeviceTensor];
      pending.push(values(x), values(output));
      for (const used of [x, y, output]) used.destroy();
    }
    model.destroy();
    assert.deepEqual(
      await Promise.all(pending),
      pending.map((_, i) => (i % 2 === 0 ? [i / 2, 1] : [2 * (i - 1), 6])),
    );
  });

  test("a destroyed tensor is destroyed once, and not read", async () => {
    const x = upload(device(), [1], [1]);
    assert.isFalse(x.destroyed);
    x.destroy();
    assert.isTrue(x.destroyed);
    x.destroy();
    assert.instanceOf(await rejection(() => x.read()), QkvError);
    // Destroyed twice, it is not handed out twice.
    const [y, z] = [upload(device(), [2], [1]), upload(device(), [3], [1])];
    assert.deepEqual([await values(y), await values(z)], [[2], [3]]);
    let kept: DeviceTensor;
    {
      using scoped = upload(device(), [4], [1]);
      kept = scoped;
    }
    assert.isTrue(kept.destroyed);
  });

  test("executeInto writes the caller's tensors", async () => {
    const model = await new InferenceSession({ device: device() }).load(sumGraph);
    const [x, y] = [upload(device(), [1, 2, 3], [3]), upload(device(), [10, 20, 30], [3])];
    const output = device().allocate("float32", [3]);
    model.executeInto([x, y], [output]);
    assert.deepEqual(await values(output), [22, 44, 66]);
    model.executeInto([output, tensor([1, 1, 1])], [x]);
    assert.deepEqual(
      [await values(x), await values(y)],
      [
        [46, 90, 134],
        [10, 20, 30],
      ],
    );
    assert.throws(() => model.executeInto([x, y], [y]), QkvError);
    assert.throws(() => model.executeInto([x, x], [x]), QkvError);
    assert.deepEqual(await values(x), [46, 90, 134]);
  });
});

/** Bits of `GPUBufferUsage`: Node has no such global. */
const usage = { mapRead: 0x1, copySource: 0x4, copyDestination: 0x8, uniform: 0x40, storage: 0x80 };
const allUsage = usage.storage | usage.copySource | usage.copyDestination;

onEachWebGPU("WebGPU device", (device) => {
  const newBuffer = (size: number, bits = allUsage) =>
    device().gpuDevice.createBuffer({ size, usage: bits });
  const bufferOf = (numbers: readonly number[], byteOffset = 0, size = 1024) => {
    const buffer = newBuffer(size);
    device().gpuDevice.queue.writeBuffer(buffer, byteOffset, new Float32Array(numbers));
    return buffer;
  };
  const loadSum = () => new InferenceSession({ device: device() }).load(sumGraph);

  test("work in the caller's encoders and passes, on the caller's buffers", async () => {
    const { gpuDevice } = device();
    using model = await loadSum();
    const buffer = bufferOf([1, 2, 3], 256);
    const x = device().wrap(buffer, "float32", [3], 256);
    const y = upload(device(), [10, 20, 30], [3]);
    const results = newBuffer(1024);
    const [first, second] = [0, 512].map((at) => device().wrap(results, "float32", [3], at));
    assert.strictEqual(x.gpuBuffer, buffer);
    assert.equal(x.byteOffset, 256);

    const encoder = gpuDevice.createCommandEncoder();
    model.encode(encoder, [x, y], [first!]);
    const copied = device().allocate("float32", [3]);
    encoder.copyBufferToBuffer(results, 0, copied.gpuBuffer, 0, 12);
    const pass = encoder.beginComputePass();
    // Twice in one pass, the second time for other lengths.
    model.encode(pass, [copied, y], [second!]);
    const longer = upload(device(), Array(300).fill(1), [300]);
    const sums = device().allocate("float32", [300]);
    model.encode(pass, [longer, longer], [sums]);
    pass.end();
    assert.deepEqual(await values(second!), [0, 0, 0], "nothing runs before it is submitted");
    gpuDevice.queue.submit([encoder.finish()]);
    assert.deepEqual(await values(first!), [22, 44, 66]);
    assert.deepEqual(await values(second!), [64, 128, 192]);
    assert.deepEqual(await values(sums), Array(300).fill(4));
    assert.deepEqual(await values(x), [1, 2, 3]);
    x.destroy();
    assert.deepEqual(await values(device().wrap(buffer, "float32", [3], 256)), [1, 2, 3]);
  });

  test("what was encoded may be submitted after its model is destroyed", async () => {
    const { gpuDevice } = device();
    const model = await loadSum();
    const [x, output] = [upload(device(), [1, 2], [2]), device().allocate("float32", [2])];
    const encoder = gpuDevice.createCommandEncoder();
    model.encode(encoder, [x, x], [output]);
    model.destroy();
    // Would take the temporaries, were they given back.
    const others = Array.from({ length: 8 }, () => upload(device(), [9, 9], [2]));
    gpuDevice.queue.submit([encoder.finish()]);
    assert.deepEqual(await values(output), [4, 8]);
    for (const other of others) assert.deepEqual(await values(other), [9, 9]);
  });

  test("a GPUBuffer is an input as it is", async () => {
    using model = await new InferenceSession({ device: device() }).load(
      new Graph("fixed", {
        inputTypes: [float32("n"), float32(2)],
        forward: (x, y) => [ops.mul(x!, 2), ops.mul(y!, 3)],
      }),
    );
    const [twice, thrice] = model.execute(tensor([1]), bufferOf([5, 6, 7]));
    assert.deepEqual([await values(twice!), await values(thrice!)], [[2], [15, 18]]);
    const error = await rejection(() => model.execute(bufferOf([1]), bufferOf([5, 6, 7])));
    assert.instanceOf(error, QkvError);
    assert.equal(
      error.message,
      'fixed: input 0 must be a tensor, since a GPUBuffer does not tell dimension "n"',
    );
  });

  test("what cannot be wrapped", async () => {
    const alignment = device().gpuDevice.limits.minStorageBufferOffsetAlignment;
    const wrap = (buffer: GPUBuffer, length: number, byteOffset?: number) => () =>
      device().wrap(buffer, "float32", [length], byteOffset);
    const uniform = newBuffer(64, usage.uniform);
    for (const [message, call] of [
      ["wrap: gpuBuffer must have STORAGE usage, got 64", wrap(uniform, 4)],
      [
        `wrap: byteOffset must be a multiple of minStorageBufferOffsetAlignment, ${alignment}, got 4`,
        wrap(newBuffer(64), 4, 4),
      ],
      ["wrap: gpuBuffer must hold 80 bytes from offset 0 on, got 64", wrap(newBuffer(64), 20)],
      [
        `wrap: gpuBuffer must hold 4 bytes from offset ${alignment} on, got ${alignment}`,
        wrap(newBuffer(alignment), 1, alignment),
      ],
      ["wrap: shape must be a shape of integers of 1 or more, got [0]", wrap(newBuffer(64), 0)],
    ] as const) {
      const error = await rejection(call);
      assert.instanceOf(error, QkvError);
      assert.equal(error.message, message);
    }
  });

  test("a destroyed buffer fails the call that used it, and no other", async () => {
    using model = await loadSum();
    const [x, y] = [upload(device(), [1, 2], [2]), upload(device(), [3, 4], [2])];
    const gone = bufferOf([1, 2]);
    const wrapped = device().wrap(gone, "float32", [2]);
    gone.destroy();
    const [before] = model.execute(x, y) as [DeviceTensor];
    const [bad] = model.execute(x, wrapped) as [DeviceTensor];
    const [after] = model.execute(x, y) as [DeviceTensor];
    const [fromBad] = model.execute(bad, x) as [DeviceTensor];
    const copied = device().allocate("float32", [2]);
    device().enqueue(copy, { input: bad, output: copied });
    for (const failed of [bad, fromBad, copied]) {
      const error = await rejection(() => failed.read());
      assert.instanceOf(error, GPUOperationError);
      assert.match(error.message, /^sum: /, "names the call at fault");
    }
    for (const good of [before, after]) assert.deepEqual(await values(good), [8, 12]);
    assert.deepEqual(await values(x), [1, 2]);
    assert.instanceOf(await rejection(() => wrapped.read()), GPUOperationError);
    // What failed may be written anew.
    model.executeInto([x, y], [bad]);
    assert.deepEqual(await values(bad), [8, 12]);
  });

  test("a buffer that must not be copied from is read in vain, and otherwise used", async () => {
    const buffer = newBuffer(16, usage.storage | usage.copyDestination);
    const x = device().wrap(buffer, "float32", [4]);
    device().enqueue(
      scale,
      { input: upload(device(), [1, 2, 3, 4], [4]), output: x },
      { factor: 2 },
    );
    assert.instanceOf(await rejection(() => x.read()), GPUOperationError);
    const output = device().allocate("float32", [4]);
    device().enqueue(copy, { input: x, output });
    assert.deepEqual(await values(output), [2, 4, 6, 8]);
  });

  /** A kernel with a fault in line 4. */
  const faulty = defineKernel({
    name: "faulty",
    tensors: { input: "read", output: "write" },
    webgpu: () => ({
      wgsl: `@group(0) @binding(0) var<storage, read> input: array<f32>;
@group(0) @binding(1) var<storage, read_write> output: array<f32>;
@compute @workgroup_size(1) fn main() {
  output[0] = inptu[0];
}`,
      workgroups: [1, 1, 1],
    }),
  });

  test("WGSL that does not compile", async () => {
    const check = (error: Error) => {
      assert.instanceOf(error, CompilationError);
      assert.instanceOf(error, GPUOperationError);
      assert.match(error.message, /^faulty: its WGSL does not compile:.*\b4:\d+ .*inptu/s);
      // bun-webgpu has the compiler's output, but not its messages one by one.
      for (const { line } of error.messages) assert.equal(line, 4);
      assert.equal(error.kernel, "faulty");
      assert.include(error.wgsl.split("\n")[3], "inptu");
    };
    const [input, output] = [upload(device(), [1], [1]), upload(device(), [2], [1])];
    // The second call finds a pipeline, which is no better.
    for (let i = 0; i < 2; i++) {
      device().enqueue(faulty, { input, output });
      check(await rejection(() => output.read()));
    }
    assert.deepEqual(await values(input), [1], "it was only read");
    const copied = device().allocate("float32", [1]);
    device().enqueue(faulty, { input, output });
    device().enqueue(copy, { input: output, output: copied });
    check(await rejection(() => copied.read()));
    check(await rejection(() => output.read()));
    device().enqueue(copy, { input, output });
    assert.deepEqual(await values(output), [1], "written anew");

    // The failure of what it held is the failure of what is made of it in place.
    device().enqueue(faulty, { input, output });
    device().enqueue(increment, { values: output });
    check(await rejection(() => output.read()));

    const op = defineOp({
      name: "faulty op",
      infer: ([x]) => [x!],
      webgpu: ({ inputs: [x], outputs: [y], enqueue }) =>
        enqueue(faulty, { input: x!, output: y! }),
    });
    const graph = new Graph("faulty graph", {
      inputTypes: [float32(1)],
      customExtensions: [op],
      forward: (x) => ops.custom("faulty op", { values: [x!] }),
    });
    const session = new InferenceSession({ device: device() });
    check(await rejection(() => session.load(graph)));
    check(await rejection(() => session.load(graph)));
  });

  test("a size over a limit is refused by the limit's name", async () => {
    const { limits } = device().gpuDevice;
    const { capabilities } = device();
    const refused = async (message: string, call: () => unknown) => {
      const error = await rejection(call);
      assert.instanceOf(error, QkvError);
      assert.equal(error.message, message);
    };
    const elements = Math.floor(limits.maxBufferSize / 4) + 1;
    await refused(
      `allocate: a tensor may take the device's maxBufferSize of ${limits.maxBufferSize} bytes, got ${4 * elements}`,
      () => device().allocate("float32", [elements]),
    );
    using model = await loadSum();
    const n = Math.floor(capabilities.bindingBytes / 4) + 1;
    await refused(
      `scale: input may take the device's maxStorageBufferBindingSize of ${capabilities.bindingBytes} bytes, got ${4 * n}`,
      () => model.plan({ n }),
    );

    const many = Array.from({ length: capabilities.storageBuffers + 1 }, (_, i) => `x${i}`);
    const launch = { wgsl: "", workgroups: [1, 1, 1] } as const;
    const kernel = (change: object, names = ["x0"]) =>
      defineKernel({
        name: "k",
        tensors: Object.fromEntries(names.map((name) => [name, "readwrite"])),
        webgpu: () => ({ ...launch, ...change }),
      });
    const tensors = (names = ["x0"]) =>
      Object.fromEntries(names.map((name) => [name, upload(device(), [1], [1])]));
    const run = (k: ReturnType<typeof kernel>, names?: string[]) => () =>
      device().enqueue(k, tensors(names));
    await refused(
      `k: a kernel may bind the device's maxStorageBuffersPerShaderStage of ${capabilities.storageBuffers}, got ${many.length}`,
      run(kernel({}, many), many),
    );
    for (const workgroups of [
      [65_536, 1, 1],
      [1, 0, 1],
      [1, 1, 1.5],
    ])
      await refused(
        `k: workgroups must be integers from 1 to the device's limit of 65535, got [${workgroups.join(", ")}]`,
        run(kernel({ workgroups })),
      );
    await refused(
      `k: workgroup memory is limited to ${capabilities.workgroupBytes} bytes on this device, got ${capabilities.workgroupBytes + 4}`,
      run(kernel({ workgroupBytes: capabilities.workgroupBytes + 4 })),
    );
  });

  test("a kernel must give its uniforms", () => {
    const k = defineKernel({
      name: "k",
      tensors: { x: "readwrite" },
      uniforms: { count: "u32" },
      webgpu: () => ({ wgsl: "", workgroups: [1, 1, 1] }),
    });
    assert.throws(
      () => device().enqueue(k, { x: upload(device(), [1], [1]) }),
      QkvError,
      "k: its launch must give the uniform count",
    );
  });

  test("uniforms of every type, and tensors left out", async () => {
    const k = defineKernel({
      name: "k",
      tensors: { a: "read?", output: "write", b: "read?" },
      uniforms: { big: "u32", negative: "i32", fraction: "f32" },
      webgpu: ({ tensors: { a, b } }) => ({
        wgsl: `
          struct Uniforms { big: u32, negative: i32, fraction: f32 }
          ${a ? "@group(0) @binding(0) var<storage, read> a: array<f32>;" : ""}
          @group(0) @binding(${a ? 1 : 0}) var<storage, read_write> output: array<f32>;
          ${b ? `@group(0) @binding(${a ? 2 : 1}) var<storage, read> b: array<f32>;` : ""}
          @group(0) @binding(${1 + (a ? 1 : 0) + (b ? 1 : 0)}) var<uniform> uniforms: Uniforms;
          @compute @workgroup_size(1) fn main() {
            output[0] = f32(uniforms.big);
            output[1] = f32(uniforms.negative);
            output[2] = uniforms.fraction;
            output[3] = ${a ? "a[0]" : "-1.0"};
            output[4] = ${b ? "b[0]" : "-1.0"};
          }`,
        workgroups: [1, 1, 1],
        uniforms: { big: 2 ** 31, negative: -7, fraction: 0.25 },
      }),
    });
    const [a, b] = [upload(device(), [3], [1]), upload(device(), [4], [1])];
    for (const [given, expected] of [
      [{}, [-1, -1]],
      [{ a }, [3, -1]],
      [{ b }, [-1, 4]],
      [{ a, b }, [3, 4]],
      [{ a: undefined, b }, [-1, 4]],
    ] as const) {
      const output = device().allocate("float32", [5]);
      device().enqueue(k, { ...given, output });
      assert.deepEqual(await values(output), [2 ** 31, -7, 0.25, ...expected]);
    }
  });
});

describe("WebGPU device, the caller's own and lost ones", () => {
  const open = async () => (await requestDevice("webgpu")).gpuDevice;

  test("a caller's GPUDevice stays open", async () => {
    const gpuDevice = await open();
    const device = await requestDevice("webgpu", { gpuDevice });
    assert.strictEqual(device.gpuDevice, gpuDevice);
    const x = upload(device, [1, 2], [2]);
    const read = values(x);
    device.destroy();
    assert.deepEqual(await read, [1, 2]);
    const again = await requestDevice("webgpu", { gpuDevice });
    assert.isFalse(again.lost);
    assert.deepEqual(await values(upload(again, [3], [1])), [3]);
    gpuDevice.destroy();
  });

  for (const [name, lose] of [
    ["destroyed by its owner", (device: WebGPUDevice) => device.gpuDevice.destroy()],
    ["destroyed through qkv", (device: WebGPUDevice) => device.destroy()],
  ] as const)
    test(`a lost device, ${name}`, async () => {
      const device = await requestDevice("webgpu");
      const model: Model = await new InferenceSession({ device }).load(sumGraph);
      const [x, y] = [upload(device, [1, 2], [2]), upload(device, [3, 4], [2])];
      const [output] = model.execute(x, y) as [DeviceTensor];
      const isLost = async (call: () => unknown) => {
        const error = await rejection(call);
        assert.instanceOf(error, DeviceLostError);
        assert.match(
          error.message,
          /^the GPU device is lost \(.*\); request a new one with requestDevice\(\)$/,
        );
      };
      const pending = Array.from({ length: 10 }, () => values(output));
      lose(device);
      // Enqueued in the moments before anyone can know. bun-webgpu has errors of its own for these.
      const late =
        "Bun" in globalThis && !device.lost
          ? []
          : [values(output), (async () => values(model.execute(x, y)[0]!))()];
      for (const [i, result] of (await Promise.allSettled([...late, ...pending])).entries())
        if (result.status === "rejected") await isLost(() => Promise.reject(result.reason));
        else {
          // Of those before the loss, some may have been done already.
          assert.isAtLeast(i, late.length);
          assert.deepEqual(result.value, [8, 12]);
        }
      assert.isTrue(device.lost);
      await isLost(() => output.read());
      await isLost(() => upload(device, [1], [1]));
      await isLost(() => device.allocate("float32", [1]));
      await isLost(() => model.execute(x, y));
      await isLost(() => model.execute(tensor([1]), tensor([1])));
      await isLost(() => model.executeInto([x, y], [output]));
      await isLost(() => device.enqueue(scale, { input: x, output }, { factor: 1 }));
      await isLost(() => new InferenceSession({ device }).load(sumGraph));
      for (const tensor of [x, y, output]) tensor.destroy();
      model.destroy();
      device.destroy();

      const next: Device = await requestDevice("webgpu");
      assert.deepEqual(await values(upload(next, [5], [1])), [5]);
      next.destroy();
    });
});

test("memory that could not be had is not handed out again", async () => {
  let outOfMemory = true;
  const gpuDevice = {
    limits: { maxBufferSize: 2 ** 30 },
    createBuffer: () => ({ destroy() {} }),
    pushErrorScope() {},
    popErrorScope: async () => (outOfMemory ? { message: "no memory" } : null),
  } as unknown as GPUDevice;
  const pool = new BufferPool(gpuDevice, allUsage, "test");
  const failing = [pool.acquire("allocate", 1000), pool.acquire("allocate", 1000)];
  pool.release(failing[0]!); // before it is known
  for (const { failure } of failing) {
    const error = await failure;
    assert.instanceOf(error, GPUOperationError);
    assert.equal(error.message, "allocate: no memory for 1024 bytes on the GPU (no memory)");
  }
  pool.release(failing[1]!);
  outOfMemory = false;
  const good = pool.acquire("allocate", 1000);
  assert.isUndefined(await good.failure);
  pool.release(good);
  assert.strictEqual(pool.acquire("allocate", 900), good, "as large when rounded up");
  assert.notStrictEqual(pool.acquire("allocate", 900), good);
  assert.equal(pool.created, 4);
});
