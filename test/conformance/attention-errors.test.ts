import { describe, test } from "node:test";
import { assert } from "chai";
import {
  attention,
  type Device,
  DeviceLostError,
  type DeviceTensor,
  type DType,
  QkvError,
  requestDevice,
  type Shape,
  scaledDotProductAttention,
  type Tensor,
  WebGPUDevice,
} from "../../src/index.ts";
import { allocateData } from "../../src/tensor/dtype.ts";
import { elementCount } from "../../src/tensor/shape.ts";
import { attentionCase } from "../support/attention-cases.ts";
import { assertClose } from "../support/compare.ts";
import { compileAtOnce } from "../support/compile-at-once.ts";
import { onEachDevice, webgpuDevices } from "../support/devices.ts";
import { countGPUCalls } from "../support/gpu-calls.ts";

// Every line of what docs/attention.md says about bad input, through the public calls, on every device: a
// QkvError that names the call, the argument, the rule and what it got, before anything is enqueued.

/** A host tensor of zeros, made by hand: `tensor()` would refuse some of what is tested here. */
const zeros = (shape: Shape, dtype: DType = "float32"): Tensor => ({
  dtype,
  shape,
  data: allocateData(dtype, elementCount(shape)),
});

// batch 2, 6 query heads, 3 key heads, 4 queries, 10 keys, depth 8, value depth 5
const q = zeros([2, 6, 4, 8]);
const k = zeros([2, 3, 10, 8]);
const v = zeros([2, 3, 10, 5]);
const past = { pastKey: zeros([2, 3, 7, 8]), pastValue: zeros([2, 3, 7, 5]) };
const packed = [zeros([2, 4, 48]), zeros([2, 10, 24]), zeros([2, 10, 15])] as const;
const heads = { queryHeads: 6, kvHeads: 3 };
const lengths = (...data: number[]): Tensor => ({
  dtype: "int32",
  shape: [data.length],
  data: Int32Array.from(data),
});

/** The arguments of a call, some of which the types forbid. */
type Arguments = readonly [q: unknown, k: unknown, v: unknown, options?: unknown];
/** Makes the arguments. `other` is another device, and `upload` puts a tensor on the call's own. */
type Make = (upload: (tensor: Tensor) => DeviceTensor, other: Device) => Arguments;

const released = (tensor: DeviceTensor): DeviceTensor => {
  tensor.destroy();
  return tensor;
};

const optionNames =
  "scale, causal, window, mask, softcap, kvLengths, pastKey, pastValue, queryHeads, kvHeads, softmaxDtype, outputs, variant";

const refused: Readonly<
  Record<string, readonly (readonly [Arguments | Make, message: string | RegExp])[]>
> = {
  "wrong rank": [
    [
      [zeros([1, 2, 3, 4, 5]), k, v],
      "query must have a rank of 1 (vector), 2 (matrix), 3 (packed) or 4, got [1, 2, 3, 4, 5]",
    ],
    [
      [zeros([]), k, v],
      "query must have a rank of 1 (vector), 2 (matrix), 3 (packed) or 4, got []",
    ],
    [[q, zeros([10, 8]), v], "key must have rank 4 where query has rank 4, got [10, 8]"],
    [
      [zeros([8]), zeros([10, 8]), zeros([1, 10, 5])],
      "value must have rank 2 where query has rank 1, got [1, 10, 5]",
    ],
  ],
  "mismatched depths": [
    [
      [zeros([64]), zeros([10, 80]), zeros([10, 5])],
      "key depth must equal query depth, got 80 and 64",
    ],
    [
      [packed[0], zeros([2, 10, 30]), packed[2], heads],
      "key depth must equal query depth, got 10 and 8",
    ],
  ],
  "a depth over 512": [
    [[zeros([513]), zeros([10, 513]), zeros([10, 5])], "depth must be at most 512, got 513"],
    [[zeros([8]), zeros([10, 8]), zeros([10, 600])], "value depth must be at most 512, got 600"],
  ],
  "mismatched batches": [
    [[q, zeros([1, 3, 10, 8]), v], "key batch must equal query batch, got 1 and 2"],
    [[q, k, zeros([3, 3, 10, 5])], "value batch must equal query batch, got 3 and 2"],
  ],
  "mismatched sequence lengths": [
    [
      [q, k, zeros([2, 3, 11, 5])],
      "value sequence length must equal key sequence length, got 11 and 10",
    ],
  ],
  "heads that do not divide": [
    [[zeros([2, 4, 4, 8]), k, v], "query heads must be a multiple of key heads, got 4 and 3"],
    [[q, k, zeros([2, 2, 10, 5])], "value heads must equal key heads, got 2 and 3"],
    [
      [...packed, { queryHeads: 5, kvHeads: 3 }],
      "query's last axis must be a multiple of queryHeads, got 48 and 5",
    ],
    [packed, "queryHeads must be given where query has rank 3, got [2, 4, 48]"],
    [[...packed, { queryHeads: 1.5 }], "queryHeads must be an integer of 1 or more, got 1.5"],
  ],
  "unknown or mixed dtypes": [
    [
      [{ ...q, dtype: "float64" }, k, v],
      'dtype must be one of float32, float16, bfloat16, int32, bool, got "float64"',
    ],
    [
      [zeros([2, 6, 4, 8], "int32"), k, v],
      'query must be float32, float16 or bfloat16, got "int32"',
    ],
    [
      [q, zeros([2, 3, 10, 8], "float16"), v],
      'key must have query\'s dtype float32, got "float16"',
    ],
    [
      [q, k, v, { ...past, pastKey: zeros([2, 3, 7, 8], "bfloat16") }],
      'pastKey must have query\'s dtype float32, got "bfloat16"',
    ],
    [
      [q, k, v, { softmaxDtype: "float64" }],
      'softmaxDtype must be float32, float16 or bfloat16, got "float64"',
    ],
  ],
  "a mask that does not broadcast": [
    [[q, k, v, { mask: zeros([4, 11]) }], "mask must broadcast to [2, 6, 4, 10], got [4, 11]"],
    [
      [q, k, v, { mask: zeros([3, 4, 10], "bool") }],
      "mask must broadcast to [2, 6, 4, 10], got [3, 4, 10]",
    ],
    [
      [q, k, v, { ...past, mask: zeros([1, 1, 2, 6, 4, 17]) }],
      "mask must broadcast to [2, 6, 4, 17], got [1, 1, 2, 6, 4, 17]",
    ],
    [
      [q, k, v, { mask: zeros([4, 10], "int32") }],
      'mask must be bool, float32, float16 or bfloat16, got "int32"',
    ],
  ],
  "one half of the past": [
    [[q, k, v, { pastKey: past.pastKey }], "pastValue must be given with pastKey"],
    [[q, k, v, { pastValue: past.pastValue }], "pastKey must be given with pastValue"],
    [
      [q, k, v, { ...past, pastValue: zeros([2, 3, 6, 5]) }],
      "pastValue's length must equal pastKey's, got 6 and 7",
    ],
    [
      [q, k, v, { ...past, pastKey: zeros([2, 6, 7, 8]) }],
      "pastKey must have shape [2, 3, past, 8], got [2, 6, 7, 8]",
    ],
    [
      [zeros([4, 8]), zeros([10, 8]), zeros([10, 5]), past],
      "pastKey and pastValue need a query of rank 3 or 4, got [4, 8]",
    ],
  ],
  "kvLengths with a past or out of range": [
    [
      [q, k, v, { ...past, kvLengths: lengths(1, 2) }],
      "kvLengths must not be given with pastKey and pastValue",
    ],
    [
      [q, k, v, { kvLengths: lengths(10, 11) }],
      "kvLengths[1] must be an integer from 0 to 10, got 11",
    ],
    [
      [q, k, v, { kvLengths: lengths(-1, 3) }],
      "kvLengths[0] must be an integer from 0 to 10, got -1",
    ],
    [[q, k, v, { kvLengths: lengths(1, 2, 3) }], "kvLengths must have shape [2], got [3]"],
    [[q, k, v, { kvLengths: zeros([2]) }], 'kvLengths must be int32, got "float32"'],
  ],
  "a negative softcap": [
    [[q, k, v, { softcap: -1 }], "softcap must be a finite number of 0 or more, got -1"],
    [[q, k, v, { softcap: Number.NaN }], "softcap must be a finite number of 0 or more, got NaN"],
  ],
  "a scale that is not finite": [
    [[q, k, v, { scale: Number.NaN }], "scale must be a finite number, got NaN"],
    [[q, k, v, { scale: Infinity }], "scale must be a finite number, got Infinity"],
    [[q, k, v, { scale: "0.125" }], 'scale must be a finite number, got "0.125"'],
  ],
  "options of the wrong kind": [
    [[q, k, v, { causal: 1 }], "causal must be true or false, got 1"],
    [[q, k, v, { window: [4] }], "window must be two integers of -1 or more, got [4]"],
    [[q, k, v, { window: [4, -2] }], "window must be two integers of -1 or more, got [4, -2]"],
    [[q, k, v, { outputs: "lse" }], 'outputs must be an array of names, got "lse"'],
    [[q, k, v, { outputs: ["logits"] }], /^outputs must be among output, lse, .*, got "logits"$/],
    [
      [zeros([8]), zeros([10, 8]), zeros([10, 5]), { outputs: ["presentKey"] }],
      "output presentKey needs a query of rank 3 or 4, got [8]",
    ],
    [[q, k, v, { variant: "fastest" }], /^variant must be one of .*, got "fastest"$/],
    [[q, k, v, null], "options must be an object, got null"],
    [[q, k, v, { device: "webgpu" }], /^device must be a device.*, got "webgpu"$/],
  ],
  "an unknown option name": [
    [[q, k, v, { sacle: 1 }], `options must be among ${optionNames}, got "sacle"`],
    [[q, k, v, { isCausal: undefined }], `options must be among ${optionNames}, got "isCausal"`],
  ],
  "no tensor": [
    [[[1, 2, 3], k, v], /^q must be a tensor, got \[1, 2, 3\]$/],
    [[q, undefined, v], /^k must be a tensor/],
    [[q, k, v, { mask: 5 }], /^mask must be a tensor, got 5$/],
  ],
  "data shorter than its shape": [
    [
      [{ ...q, data: new Float32Array(383) }, k, v],
      "q's data must hold the 384 elements of its shape [2, 6, 4, 8], got 383",
    ],
    [
      [q, k, v, { mask: { ...zeros([4, 10]), data: new Float32Array(39) } }],
      "mask's data must hold the 40 elements of its shape [4, 10], got 39",
    ],
    [
      [q, { ...k, data: new Uint16Array(480) }, v],
      /^k's data must be the typed array of dtype float32/,
    ],
  ],
  "a released buffer": [
    [(upload) => [released(upload(q)), k, v], "q must not be a released tensor"],
    [(upload) => [upload(q), k, released(upload(v))], "v must not be a released tensor"],
    [
      (upload) => [q, k, v, { ...past, pastValue: released(upload(past.pastValue)) }],
      "pastValue must not be a released tensor",
    ],
  ],
  "another device's tensor": [
    [
      (upload, other) => [upload(q), other.upload(k), v],
      /^k must be on the same device, got "?a tensor on CPU/,
    ],
    [
      (_, other) => [q, k, v, { mask: other.upload(zeros([4, 10])) }],
      /^mask must be on the same device, got "?a tensor on CPU/,
    ],
  ],
  "zero-size dimensions": [
    [
      [zeros([2, 6, 0, 8]), k, v],
      "q's shape must be a shape of integers of 1 or more, got [2, 6, 0, 8]",
    ],
    [
      [q, zeros([2, 3, 0, 8]), zeros([2, 3, 0, 5])],
      "k's shape must be a shape of integers of 1 or more, got [2, 3, 0, 8]",
    ],
    [
      [q, k, v, { pastKey: zeros([2, 3, 0, 8]), pastValue: zeros([2, 3, 0, 5]) }],
      "pastKey's shape must be a shape of integers of 1 or more, got [2, 3, 0, 8]",
    ],
  ],
};

/** Counts what a device is asked to make or do. */
function watch(device: Device): { total(): number; stop(): void } {
  if (device instanceof WebGPUDevice) {
    const { counts, stop } = countGPUCalls(device.gpuDevice);
    return { total: () => Object.values(counts).reduce((sum, count) => sum + count), stop };
  }
  let total = 0;
  const names = ["upload", "allocate", "enqueue", "prepare", "compile"] as const;
  for (const name of names) {
    const method = device[name] as (...args: unknown[]) => unknown;
    Reflect.set(device, name, (...args: unknown[]) => {
      total++;
      return method.apply(device, args);
    });
  }
  return {
    total: () => total,
    stop() {
      for (const name of names) Reflect.deleteProperty(device, name);
    },
  };
}

type AnyCall = (...args: Arguments) => Promise<unknown>;
const calls = { attention, scaledDotProductAttention } as unknown as Record<string, AnyCall>;

onEachDevice("attention refuses bad input", (device) => {
  for (const [title, cases] of Object.entries(refused))
    test(title, async () => {
      using other = await requestDevice("cpu");
      for (const [given, message] of cases)
        for (const [name, call] of Object.entries(calls)) {
          const make = typeof given === "function" ? given : () => given;
          const [query, key, value, options] = make((host) => device().upload(host), other);
          const watched = watch(device());
          const withDevice =
            options === null ? null : { device: device(), ...(options as object | undefined) };
          let error: unknown;
          try {
            await call(query, key, value, withDevice);
          } catch (caught) {
            error = caught;
          } finally {
            watched.stop();
          }
          const { message: text = "nothing was refused" } = (error ?? {}) as Error;
          assert.isTrue(text.startsWith(`${name}: `), `${message}: ${text}`);
          const rule = text.slice(name.length + 2);
          if (typeof message === "string") assert.equal(rule, message);
          else assert.match(rule, message);
          assert.instanceOf(error, QkvError, text);
          assert.equal(watched.total(), 0, `${text}: something was created or enqueued`);
        }
    });

  test("the watch of these tests sees what a device does", () => {
    const watched = watch(device());
    device().upload(q).destroy();
    watched.stop();
    assert.isAbove(watched.total(), 0);
  });
});

describe("attention beyond a device's limits", () => {
  test("is refused with the limit and the size", async () => {
    // The default limits of WebGPU: a binding of 128 MiB. This memory is never touched.
    using device = await requestDevice("webgpu", { portable: true });
    const limit = device.gpuDevice.limits.maxStorageBufferBindingSize;
    const many = zeros([limit / 64 + 1, 16]);
    const narrow = zeros([limit / 64 + 1, 1]);
    for (const [name, query, key, value] of [
      ["key", zeros([16]), many, narrow],
      ["value", zeros([1]), narrow, many],
    ] as const) {
      const watched = watch(device);
      const error = await attention(query, key, value, { device }).then(
        () => assert.fail("not refused"),
        (caught: Error) => caught,
      );
      watched.stop();
      assert.instanceOf(error, QkvError);
      assert.match(
        error.message,
        new RegExp(
          `^attention\\w*: ${name} .*maxStorageBufferBindingSize of ${limit} bytes, got ${limit + 64}$`,
        ),
      );
      assert.equal(watched.total(), 0);
    }
  });
});

describe("attention on a device that is lost", () => {
  const { query, key, value, expected, tolerance } = attentionCase({
    seed: 1,
    layout: "4-D",
    dtype: "float32",
    batch: 1,
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
  });
  const errorOf = (promise: Promise<unknown>) =>
    promise.then(
      () => assert.fail("not rejected"),
      (error: unknown) => error,
    );

  test("pending reads reject with DeviceLostError, as do calls; a new device works", async () => {
    const [{ open }] = webgpuDevices as [(typeof webgpuDevices)[0]];
    const lost = (await open()) as WebGPUDevice;
    compileAtOnce(lost);
    const onDevice = lost.upload(query);
    const result = await scaledDotProductAttention(onDevice, key, value);
    assertClose("output", await result.read(), expected().output, tolerance("webgpu"));

    const pending = [
      scaledDotProductAttention(query, key, value, { device: lost }), // host tensors: it reads
      scaledDotProductAttention(onDevice, key, value).then((output) => output.read()),
      result.read(),
      onDevice.read(),
    ].map(errorOf);
    lost.gpuDevice.destroy();
    for (const error of await Promise.all(pending)) assert.instanceOf(error, DeviceLostError);
    await lost.gpuDevice.lost;
    for (const after of [
      scaledDotProductAttention(query, key, value, { device: lost }),
      scaledDotProductAttention(onDevice, key, value),
      result.read(),
    ])
      assert.instanceOf(await errorOf(after), DeviceLostError);

    using fresh = (await open()) as WebGPUDevice;
    compileAtOnce(fresh);
    const output = await scaledDotProductAttention(query, key, value, { device: fresh });
    assertClose("output", output, expected().output, tolerance("webgpu"));
  });
});
