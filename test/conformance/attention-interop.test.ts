import { before, describe, test } from "node:test";
import { assert } from "chai";
import { portableCapabilities } from "../../src/devices/capabilities.ts";
import {
  type DType,
  Graph,
  InferenceSession,
  ops,
  requestDevice,
  type Shape,
  scaledDotProductAttention,
  type Tensor,
  TensorType,
  tensor,
  type Value,
  type WebGPUDevice,
  type WebGPUTensor,
} from "../../src/index.ts";
import { selectAttention } from "../../src/kernels/attention/select.ts";
import {
  type AttentionOptions,
  inverseRootDepth,
  resolveAttention,
} from "../../src/kernels/attention/spec.ts";
import {
  type AttentionCase,
  type AttentionCaseDescription,
  assertCase,
  attentionCase,
} from "../support/attention-cases.ts";
import { assertClose } from "../support/compare.ts";
import { compileAtOnce } from "../support/compile-at-once.ts";
import { guardedTensor, onEachWebGPU } from "../support/devices.ts";
import { countGPUCalls } from "../support/gpu-calls.ts";
import { PlanningDevice } from "../support/planning-device.ts";
import { seed } from "../support/random.ts";

// Fused attention amid the caller's own WebGPU work: buffers, device, encoder and passes of the caller's.
// And what its plan takes beside the caller's tensors, which is nothing for a prefill.

// The bits of GPUBufferUsage and GPUMapMode, which are no globals in Node and Bun.
const usage = { mapRead: 0x1, copySource: 0x4, copyDestination: 0x8, storage: 0x80 } as const;

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

function graphOf(
  [q, k, v]: readonly [Shape, Shape, Shape],
  options: AttentionOptions<never> = {},
  dtype: DType = "float32",
): Graph {
  return new Graph("attention", {
    inputTypes: [q, k, v].map((shape) => new TensorType(dtype, shape)),
    forward(query, key, value) {
      const results = ops.scaledDotProductAttention(query!, key!, value!, {
        outputs: [],
        ...options,
      });
      return Object.values(results) as Value[];
    },
  });
}

const graphOfCase = ({ query, key, value, options }: AttentionCase): Graph =>
  graphOf([query.shape, key.shape, value.shape], options as AttentionOptions<never>, query.dtype);

/** A buffer of the caller's, with `data` at an offset. */
function buffer({ gpuDevice }: WebGPUDevice, bytes: number, ...parts: [number, Tensor][]) {
  const result = gpuDevice.createBuffer({
    size: bytes,
    usage: usage.storage | usage.copySource | usage.copyDestination,
  });
  for (const [offset, { data }] of parts)
    gpuDevice.queue.writeBuffer(result, offset, data.buffer, data.byteOffset, data.byteLength);
  return result;
}

async function contents({ gpuDevice }: WebGPUDevice, source: GPUBuffer): Promise<Float32Array> {
  const staging = gpuDevice.createBuffer({
    size: source.size,
    usage: usage.mapRead | usage.copyDestination,
  });
  const encoder = gpuDevice.createCommandEncoder();
  encoder.copyBufferToBuffer(source, 0, staging, 0, source.size);
  gpuDevice.queue.submit([encoder.finish()]);
  await staging.mapAsync(0x1);
  const result = new Float32Array(staging.getMappedRange().slice(0));
  staging.destroy();
  return result;
}

/** The caller's own kernel: `data[i] = f(data[i])` for each element of a buffer. */
function ownKernel({ gpuDevice }: WebGPUDevice, expression: string) {
  const code = `
    @group(0) @binding(0) var<storage, read_write> data: array<f32>;
    @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
      if (id.x >= arrayLength(&data)) { return; }
      let x = data[id.x];
      data[id.x] = ${expression};
    }`;
  const module = gpuDevice.createShaderModule({ code });
  const pipeline = gpuDevice.createComputePipeline({
    layout: "auto",
    compute: { module, entryPoint: "main" },
  });
  return (pass: GPUComputePassEncoder, target: GPUBuffer) => {
    pass.setPipeline(pipeline);
    const entries = [{ binding: 0, resource: { buffer: target } }];
    const layout = pipeline.getBindGroupLayout(0);
    pass.setBindGroup(0, gpuDevice.createBindGroup({ layout, entries }));
    pass.dispatchWorkgroups(Math.ceil(target.size / 4 / 64));
  };
}

onEachWebGPU("attention in the caller's WebGPU work", (device) => {
  before(() => compileAtOnce(device()));
  const attention = attentionCase(plain);
  const { query, key, value } = attention;
  const load = (graph: Graph) => new InferenceSession({ device: device() }).load(graph);

  test("buffers with offsets: only the output is written, and only where it lies", async () => {
    const odd = { dtype: "bfloat16", batch: 1, kvHeads: 1, depth: 7, valueDepth: 5 } as const;
    for (const description of [plain, { ...plain, ...odd, queries: 3, kv: 5 }]) {
      const own = attentionCase(description);
      using model = await load(graphOfCase(own));
      const inputs = [own.query, own.key, own.value].map(({ dtype, shape, data }) =>
        guardedTensor(device(), dtype, shape, data),
      );
      const { dtype, shape } = own.outputShapes.output;
      const output = guardedTensor(device(), dtype, shape);
      model.executeInto(
        inputs.map(({ tensor }) => tensor),
        [output.tensor],
      );
      assertCase(own, { output: { dtype, shape, data: await output.read() } }, "webgpu");
      const after = await Promise.all(inputs.map((input) => input.read()));
      assert.deepEqual(after, [own.query.data, own.key.data, own.value.data]);
    }
  });

  test("q, k and v in one buffer of the caller's, through the public call", async () => {
    const arena = buffer(device(), 4096, [0, query], [1024, key], [2560, value]);
    const before = await contents(device(), arena);
    const [q, k, v] = [query, key, value].map(({ shape }, i) =>
      device().wrap(arena, "float32", shape, [0, 1024, 2560][i]),
    ) as [WebGPUTensor, WebGPUTensor, WebGPUTensor];
    using output = await scaledDotProductAttention(q, k, v);
    assert.strictEqual(output.device, device());
    assertCase(attention, { output: await output.read() }, "webgpu");
    assert.deepEqual(await contents(device(), arena), before);
    arena.destroy();
  });

  test("an output in a buffer of the inputs is refused", async () => {
    using model = await load(graphOfCase(attention));
    const arena = buffer(device(), 8192, [0, query], [1024, key], [2560, value]);
    const at = (offset: number, { shape }: { readonly shape: Shape }) =>
      device().wrap(arena, "float32", shape, offset);
    const inputs = [at(0, query), at(1024, key), at(2560, value)];
    const calls = countGPUCalls(device().gpuDevice);
    assert.throws(
      () => model.executeInto(inputs, [at(4096, attention.outputShapes.output)]),
      /output 0 must not share a buffer with an input/,
    );
    calls.stop();
    assert.equal(calls.counts.submit, 0);
    arena.destroy();
  });

  test("GPUBuffers as they are, the shapes being the graph's", async () => {
    using model = await load(graphOfCase(attention));
    const buffers = [query, key, value].map((host) =>
      buffer(device(), host.data.byteLength + 256, [0, host]),
    );
    const [output] = model.execute(...buffers);
    assertCase(attention, { output: await output!.read() }, "webgpu");
    output!.destroy();
    for (const own of buffers) own.destroy();
  });

  for (const into of ["an encoder", "a compute pass"] as const)
    test(`recorded into ${into}, between the caller's own dispatches, in one submit`, async () => {
      using model = await load(graphOfCase(attention));
      // The caller's first kernel makes q of half of it; the last one works on the output.
      const half = tensor(query.data.map((x) => x / 2) as Float32Array<ArrayBuffer>, query.shape);
      const queries = buffer(device(), half.data.byteLength, [0, half]);
      const cache = buffer(device(), 4096, [512, key], [2304, value]);
      const { shape } = attention.outputShapes.output;
      const result = buffer(device(), 4 * attention.expected().output.length);
      const inputs = [
        queries,
        device().wrap(cache, "float32", key.shape, 512),
        device().wrap(cache, "float32", value.shape, 2304),
      ];
      const output = device().wrap(result, "float32", shape);
      const double = ownKernel(device(), "2.0 * x");
      const shift = ownKernel(device(), "x + 100.0");

      const { gpuDevice } = device();
      const calls = countGPUCalls(gpuDevice);
      const encoder = gpuDevice.createCommandEncoder();
      if (into === "a compute pass") {
        const pass = encoder.beginComputePass();
        double(pass, queries);
        model.encode(pass, inputs, [output]);
        shift(pass, result);
        pass.end();
      } else {
        const before = encoder.beginComputePass();
        double(before, queries);
        before.end();
        model.encode(encoder, inputs, [output]);
        const after = encoder.beginComputePass();
        shift(after, result);
        after.end();
      }
      assert.equal(calls.counts.submit, 0, "nothing is submitted by encode");
      gpuDevice.queue.submit([encoder.finish()]);
      calls.stop();
      assert.equal(calls.counts.createBuffer, 0);

      const expected = attention.expected().output.map((x) => x + 100);
      const got = await output.read();
      assertClose("output + 100", got, expected, { absolute: 2e-5, relative: 1e-6 });
      for (const own of [queries, cache, result]) own.destroy();
    });

  test("split keys in the caller's pass: partials and merge stay in order", async () => {
    // Twice in one pass, with another query each: the second reuses the partials of the first.
    const long = attentionCase({ ...plain, batch: 1, kvHeads: 1, queries: 1, kv: 2049 });
    const other = attentionCase({ ...plain, batch: 1, kvHeads: 1, queries: 1, kv: 2049, seed: 5 });
    using model = await load(graphOfCase(long));
    assert.isAbove(model.plan().temporaryBytes, 0);
    const tensors = [long, other].map((of) => ({
      of,
      inputs: [of.query, of.key, of.value].map((host) => device().upload(host)),
      output: device().allocate("float32", of.outputShapes.output.shape),
    }));
    const { gpuDevice } = device();
    const encoder = gpuDevice.createCommandEncoder();
    const pass = encoder.beginComputePass();
    for (const { inputs, output } of tensors) model.encode(pass, inputs, [output]);
    pass.end();
    gpuDevice.queue.submit([encoder.finish()]);
    for (const { of, inputs, output } of tensors) {
      assertCase(of, { output: await output.read() }, "webgpu");
      for (const own of [...inputs, output]) own.destroy();
    }
  });

  test("a GPUDevice of the caller's, which stays the caller's", async () => {
    const { gpuDevice } = device();
    const own = await requestDevice("webgpu", { gpuDevice });
    assert.strictEqual(own.gpuDevice, gpuDevice);
    const output = await scaledDotProductAttention(query, key, value, { device: own });
    assertCase(attention, { output }, "webgpu");
    own.destroy();
    // The caller's work goes on.
    const after = buffer(device(), query.data.byteLength, [0, query]);
    assert.deepEqual(await contents(device(), after), query.data);
    after.destroy();
  });
});

describe("attention's plan", () => {
  const adapters = {
    portable: portableCapabilities,
    subgroups: {
      ...portableCapabilities,
      subgroups: { min: 32, max: 32 },
      float16: true,
      workgroupBytes: 49152,
    },
  };
  const shapes = (
    batch: number,
    queryHeads: number,
    kvHeads: number,
    queries: number,
    kv: number,
  ) =>
    [
      [batch, queryHeads, queries, 64],
      [batch, kvHeads, kv, 64],
      [batch, kvHeads, kv, 40],
    ] as const satisfies readonly Shape[];
  const planning = async (
    of: readonly [Shape, Shape, Shape],
    capabilities = portableCapabilities,
    options: AttentionOptions<never> = {},
    dtype: DType = "float32",
  ) => {
    const device = new PlanningDevice(capabilities);
    return new InferenceSession({ device }).load(graphOf(of, options, dtype));
  };

  for (const [adapter, capabilities] of Object.entries(adapters)) {
    test(`a prefill is one dispatch and allocates nothing: ${adapter}`, async () => {
      for (const of of [
        shapes(1, 1, 1, 64, 64),
        shapes(1, 12, 12, 512, 512),
        shapes(2, 8, 8, 300, 1000),
        shapes(1, 32, 8, 512, 4096),
        shapes(1, 8, 1, 33, 77),
      ])
        for (const dtype of ["float32", "float16", "bfloat16"] as const)
          for (const options of [{}, { causal: true }, { window: [16, 0] as const }]) {
            const model = await planning(of, capabilities, options, dtype);
            const plan = model.plan();
            assert.deepEqual(
              plan.steps.map(({ kernel }) => kernel),
              ["attention_prefill"],
            );
            assert.deepEqual(
              plan.buffers.map(({ role }) => role),
              ["input", "input", "input", "output"],
            );
            assert.equal(plan.temporaryBytes, 0);
            assert.match(model.explain(), /^temporaries: 0 B$/m);
          }
    });

    test(`few rows over many keys allocate the partials of splits, if there are several: ${adapter}`, async () => {
      for (const [kernel, batch, queryHeads, kvHeads, queries, kv] of [
        ["attention_decode", 1, 1, 1, 1, 1],
        ["attention_decode", 1, 1, 1, 1, 400_000],
        ["attention_decode", 1, 32, 8, 1, 4096],
        ["attention_decode", 3, 8, 8, 2, 1000],
        ["attention_decode", 64, 32, 8, 1, 512],
        ["attention_prefill", 1, 1, 1, 16, 400_000],
        ["attention_prefill", 1, 32, 8, 64, 4096],
        ["attention_prefill", 3, 8, 8, 100, 1000],
        ["attention_prefill", 64, 32, 8, 64, 512],
      ] as const) {
        const of = shapes(batch, queryHeads, kvHeads, queries, kv);
        const model = await planning(of, capabilities);
        const { steps, buffers, temporaryBytes } = model.plan();
        assert.include(model.explain(), `temporaries: ${temporaryBytes.toLocaleString("en")} B`);
        const temporaries = buffers.filter(({ role }) => role === "temporary");
        const kernels = steps.map(({ kernel }) => kernel);
        if (temporaries.length === 0) {
          assert.deepEqual(kernels, [kernel]);
          continue;
        }
        assert.deepEqual(kernels, [kernel, "attention_merge"]);
        // For each row and split: an output that is not divided yet, and a maximum and a sum.
        const rows = batch * queryHeads * queries;
        const [statistics, partials] = temporaries
          .map(({ bytes }) => bytes)
          .sort((a, b) => a - b) as [number, number];
        const splits = statistics / (rows * 2 * 4);
        assert.isTrue(Number.isInteger(splits) && splits > 1 && splits <= kv / 64, `${splits}`);
        assert.equal(partials, rows * splits * 40 * 4);
        assert.equal(temporaryBytes, statistics + partials);
      }
      for (const queries of [1, 16, 64, 100]) {
        const long = (await planning(shapes(1, 1, 1, queries, 400_000), capabilities)).plan();
        assert.lengthOf(long.steps, 2, "a single head over many keys is split");
      }
    });

    test(`explain() tells the variant and why: ${adapter}`, async () => {
      for (const of of [
        shapes(1, 1, 1, 1, 100),
        shapes(1, 1, 1, 1, 5000),
        shapes(1, 4, 4, 16, 16),
        shapes(2, 8, 8, 1000, 1000),
      ]) {
        const types = of.map((shape) => ({ dtype: "float32", shape }) as const);
        const [q, k, v] = types as [(typeof types)[0], (typeof types)[0], (typeof types)[0]];
        const { problem } = resolveAttention("attention", q, k, v, {}, inverseRootDepth);
        const choice = selectAttention(problem, capabilities);
        const text = (await planning(of, capabilities)).explain();
        assert.include(text, choice.variant);
        assert.include(text, choice.reason);
      }
      const forced = await planning(shapes(1, 1, 1, 1, 100), capabilities, { variant: "prefill" });
      assert.include(forced.explain(), "attention_prefill");
      assert.include(forced.explain(), "asked for");
    });
  }

  test("extras are paid for by those who ask", async () => {
    const of = shapes(1, 4, 4, 64, 64);
    const kernels = async (options: AttentionOptions<never>) => {
      const { steps } = (await planning(of, portableCapabilities, options)).plan();
      return steps.map(({ kernel }) => kernel);
    };
    assert.deepEqual(await kernels({ outputs: ["lse"] }), ["attention_prefill"]);
    assert.deepEqual(await kernels({ outputs: ["scores", "biasedScores"] }), [
      "attention_prefill",
      "attention_scores",
      "attention_scores",
    ]);
  });

  test("keys and values of up to one binding; over that, the limit is named", async () => {
    const limit = portableCapabilities.bindingBytes;
    const keys = limit / (64 * 4);
    const of = (kv: number, depth = 64, valueDepth = 64) =>
      [
        [1, 1, 1, depth],
        [1, 1, kv, depth],
        [1, 1, kv, valueDepth],
      ] as const satisfies readonly Shape[];
    assert.isAbove((await planning(of(keys))).plan().steps.length, 0);
    for (const [name, shapes] of [
      ["key", of(keys + 1)],
      ["key", of(keys + 1, 64, 8)],
      ["value", of(keys + 1, 8, 64)],
    ] as const) {
      const error = await planning(shapes).then(
        () => assert.fail("not refused"),
        ({ message }: Error) => message,
      );
      assert.equal(
        error,
        `attention_decode: ${name} may take the device's maxStorageBufferBindingSize of ${limit} bytes, got ${limit + 256}`,
      );
    }
  });
});
