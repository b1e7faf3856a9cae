import { after, before, describe, test } from "node:test";
import { assert } from "chai";
import { create } from "webgpu";
import { type Capabilities, portableCapabilities } from "../../src/devices/capabilities.ts";
import {
  type AnyKernel,
  type Launch,
  planLaunch,
  presentTensors,
  type TensorShape,
} from "../../src/devices/kernel.ts";
import { WebGPUDevice } from "../../src/devices/webgpu/device.ts";
import { type AttentionContext, recordAttention } from "../../src/kernels/attention/launch.ts";
import { attentionVariants } from "../../src/kernels/attention/select.ts";
import {
  type AttentionInputs,
  type AttentionOptions,
  type AttentionResults,
  attentionOutputs,
  inverseRootDepth,
  resolveAttention,
} from "../../src/kernels/attention/spec.ts";
import type { DType } from "../../src/tensor/dtype.ts";

// Every variant's WGSL goes through Dawn's compiler, without a GPU: the null backend has every
// feature.

const adapters: Readonly<Record<string, Capabilities>> = {
  portable: portableCapabilities,
  "subgroups of 4": { ...portableCapabilities, subgroups: { min: 4, max: 4 } },
  "subgroups of 8 to 32": { ...portableCapabilities, subgroups: { min: 8, max: 32 } },
  "subgroups of 32, 48 KB": {
    ...portableCapabilities,
    subgroups: { min: 32, max: 32 },
    workgroupBytes: 49152,
  },
  "subgroups of 64 to 128, 32 KB": {
    ...portableCapabilities,
    subgroups: { min: 64, max: 128 },
    workgroupBytes: 32768,
  },
};

interface Case {
  readonly dtype: DType;
  readonly depth: number;
  readonly valueDepth: number;
  readonly group: number;
  readonly keys: number;
  readonly options: AttentionOptions<TensorShape>;
}

/** Keys of one split, and of several. */
const keyCounts = [20, 900];

const dtypes = ["float32", "float16", "bfloat16"] as const;
const lengths: TensorShape = { dtype: "int32", shape: [2] };

/** Every dtype, alignment and option, though not every combination. */
function* cases(keys: number): Generator<Case> {
  const plain = { depth: 64, valueDepth: 64, group: 1, keys, options: {} };
  const mask = (dtype: DType): TensorShape => ({ dtype, shape: [1, 1, 7, keys] });
  for (const dtype of dtypes) {
    for (const depth of [1, 4, 8, 20, 64, 80, 128, 131, 256, 512])
      yield { ...plain, dtype, depth, valueDepth: depth };
    yield { ...plain, dtype, depth: 17, valueDepth: 512 };
    yield { ...plain, dtype, depth: 512, valueDepth: 6 };
    yield { ...plain, dtype, group: 3, depth: 128, valueDepth: 128 };
    const options: AttentionOptions<TensorShape>[] = [
      { kvLengths: lengths },
      { softcap: 30, outputs: attentionOutputs },
      { outputs: attentionOutputs, kvLengths: lengths, mask: mask("bool") },
      ...(["bool", ...dtypes] as const).map((type) => ({ mask: mask(type) })),
      ...dtypes.map((softmaxDtype) => ({ softmaxDtype, mask: mask("float32"), softcap: 2 })),
    ];
    for (const option of options) yield { ...plain, dtype, options: option };
  }
}

/** What recording enqueues. */
function launches(
  { dtype, depth, valueDepth, group, keys, options }: Case,
  capabilities: Capabilities,
  variant: string | undefined,
): (readonly [AnyKernel, readonly string[], Launch])[] {
  const query = { dtype, shape: [2, 2 * group, 7, depth] };
  const key = { dtype, shape: [2, 2, keys, depth] };
  const value = { dtype, shape: [2, 2, keys, valueDepth] };
  const { problem, outputShapes } = resolveAttention(
    "attention",
    query,
    key,
    value,
    options,
    inverseRootDepth,
  );
  const recorded: (readonly [AnyKernel, readonly string[], Launch])[] = [];
  const context: AttentionContext<TensorShape> = {
    capabilities,
    allocate: (type, shape) => ({ dtype: type, shape }),
    enqueue(kernel, tensors, ...parameters) {
      const given = tensors as Readonly<Record<string, TensorShape>>;
      const launch = planLaunch(kernel, given, parameters[0] ?? {}, capabilities);
      recorded.push([kernel, presentTensors(kernel, given), launch]);
    },
  };
  const { mask: given, kvLengths } = options;
  const inputs: AttentionInputs<TensorShape> = { query, key, value, mask: given, kvLengths };
  recordAttention(
    context,
    problem,
    { ...inputs, ...(outputShapes as AttentionResults<TensorShape>) },
    variant,
  );
  return recorded;
}

/** All but the one that needs matrix units, which has a test of its own. */
const otherVariants = attentionVariants.filter((variant) => variant !== "prefill-matrix");

/** An adapter with matrix units, as NVIDIA's. */
const matrixUnits: Capabilities = {
  ...portableCapabilities,
  float16: true,
  subgroups: { min: 32, max: 32 },
  matrixShapes: [{ M: 16, N: 8, K: 16, component: "f16", result: "f32" }],
  workgroupBytes: 49152,
  invocations: 1024,
};

describe("attention's WGSL compiles", () => {
  let device: WebGPUDevice;
  let gpu: GPU; // referenced for as long as its device lives
  before(async () => {
    gpu = create(["backend=null", "enable-dawn-features=allow_unsafe_apis"]);
    const adapter = await gpu.requestAdapter();
    assert(adapter, "Dawn's null backend");
    const requiredFeatures = [
      "subgroups",
      "shader-f16",
      "chromium-experimental-subgroup-matrix",
    ] as GPUFeatureName[];
    device = new WebGPUDevice(await adapter.requestDevice({ requiredFeatures }), true);
  });
  after(() => device?.destroy());

  test("prefill-matrix, matrix units", async () => {
    const modules = new Set<string>();
    const options: AttentionOptions<TensorShape>[] = [
      {},
      { causal: true },
      { window: [3, 4], outputs: ["lse"] },
      { softcap: 30, kvLengths: lengths, outputs: ["lse", "weights"] },
    ];
    for (const depth of [16, 48, 64, 112, 128])
      for (const valueDepth of [depth, 32])
        for (const option of options)
          for (const keys of keyCounts) {
            const plain = { dtype: "float16" as const, depth, valueDepth, group: 1, keys };
            const one = { ...plain, options: option };
            for (const [kernel, , { wgsl }] of launches(one, matrixUnits, "prefill-matrix"))
              if (kernel.name === "attention_prefill_matrix") modules.add(wgsl);
          }
    assert.isAtLeast(modules.size, 40);
    for (const code of modules) {
      const { messages } = await device.gpuDevice.createShaderModule({ code }).getCompilationInfo();
      assert.deepEqual(
        messages.map(({ lineNum, message }) => `${lineNum}: ${message}`),
        [],
      );
    }
  });

  for (const [name, capabilities] of Object.entries(adapters))
    for (const variant of otherVariants) {
      const lacks =
        (variant === "prefill-large" && capabilities.workgroupBytes < 32768) ||
        (variant === "decode-subgroups" && !capabilities.subgroups);
      // Where the adapter changes nothing, once is enough.
      const same =
        capabilities !== portableCapabilities &&
        variant !== "prefill-large" &&
        variant !== "decode-subgroups";
      if (lacks || same) continue;
      test(`${variant}, ${name}`, async () => {
        const texts = new Map<string, readonly [AnyKernel, readonly string[], Launch]>();
        for (const keys of keyCounts)
          for (const one of cases(keys))
            for (const launch of launches(one, capabilities, variant))
              texts.set(launch[2].wgsl, launch);
        assert.isAtLeast(texts.size, 60);
        const { limits } = device.gpuDevice;
        for (const launch of texts.values()) {
          const { wgsl: code, workgroupBytes = 0 } = launch[2];
          if (workgroupBytes <= limits.maxComputeWorkgroupStorageSize) {
            await device.compile([launch]);
            continue;
          }
          // The null backend has the default limits: the module, not the pipeline.
          const module = device.gpuDevice.createShaderModule({ code });
          const { messages } = await module.getCompilationInfo();
          assert.deepEqual(
            messages.map(({ lineNum, message }) => `${lineNum}: ${message}`),
            [],
          );
        }
      });
    }
});

describe("attention's WGSL does not depend on lengths", () => {
  for (const variant of otherVariants)
    test(variant, () => {
      const capabilities = adapters["subgroups of 32, 48 KB"]!;
      const texts = (batch: number, kvHeads: number, queries: number, kv: number) => {
        const query = { dtype: "float16" as const, shape: [batch, kvHeads * 8, queries, 64] };
        const key = { dtype: "float16" as const, shape: [batch, kvHeads, kv, 64] };
        const options = { causal: true, window: [kv, -1] as const };
        const { problem, outputShapes } = resolveAttention(
          "attention",
          query,
          key,
          key,
          options,
          inverseRootDepth,
        );
        const result: string[] = [];
        recordAttention(
          {
            capabilities,
            allocate: (dtype, shape) => ({ dtype, shape }),
            enqueue: (kernel, tensors, ...parameters) => {
              const given = tensors as Readonly<Record<string, TensorShape>>;
              result.push(planLaunch(kernel, given, parameters[0] ?? {}, capabilities).wgsl);
            },
          },
          problem,
          { query, key, value: key, ...outputShapes },
          variant,
        );
        return result;
      };
      assert.deepEqual(texts(1, 1, 1, 1000), texts(3, 2, 5, 2345));
    });
});
