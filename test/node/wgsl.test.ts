import { after, before, describe, test } from "node:test";
import { assert } from "chai";
import { create } from "webgpu";
import { type Capabilities, portableCapabilities } from "../../src/devices/capabilities.ts";
import {
  type AnyKernel,
  type Launch,
  planLaunch,
  presentTensors,
} from "../../src/devices/kernel.ts";
import {
  CompilationError,
  type DType,
  defineKernel,
  matmul,
  requestDevice,
  softmax,
  softmaxInPlace,
  transpose,
  type WebGPUDevice,
} from "../../src/index.ts";
import { binary, copy, scale } from "../../src/kernels/elementwise/kernel.ts";
import { matmulTiles } from "../../src/kernels/matmul/kernel.ts";
import { permute } from "../../src/kernels/transpose/kernel.ts";
import { rejection } from "../support/rejection.ts";

// Every WGSL module of the small kernels through Dawn's compiler, with no GPU at all.

interface Variant {
  readonly kernel: AnyKernel;
  readonly names: readonly string[];
  readonly launch: Launch;
}

const withSubgroups: Capabilities = { ...portableCapabilities, subgroups: { min: 4, max: 128 } };

/** Every module that the kernels choose among, each once. */
function allVariants(): Variant[] {
  const variants = new Map<string, Variant>();
  const add = (
    kernel: AnyKernel,
    shapes: Readonly<Record<string, readonly number[]>>,
    parameters: object = {},
    dtype: DType = "float32",
  ) => {
    for (const capabilities of [portableCapabilities, withSubgroups]) {
      const tensors = Object.fromEntries(
        Object.entries(shapes).map(([name, shape]) => [name, { dtype, shape }]),
      );
      const launch = planLaunch(kernel, tensors, parameters, capabilities);
      variants.set(launch.wgsl, { kernel, names: presentTensors(kernel, tensors), launch });
    }
  };
  for (const rows of [1, 2, 16, 33, 100])
    for (const columns of [1, 100, 20_000])
      add(matmul, { a: [rows, 8], b: [8, columns], output: [rows, columns] });
  for (let columns = 1; columns <= 5000; columns += Math.ceil(columns / 3)) {
    add(softmax, { input: [3, columns], output: [3, columns] });
    add(softmaxInPlace, { values: [3, columns] });
  }
  add(transpose, { input: [3, 5], output: [5, 3] });
  add(permute, { input: [3, 5], output: [5, 3] }, { permutation: [1, 0] });
  add(scale, { input: [3], output: [3] }, { factor: 2 });
  for (const kernel of Object.values(binary)) add(kernel, { a: [3], b: [3], output: [3] });
  for (const dtype of ["float32", "float16", "bool"] as const)
    add(copy, { input: [3], output: [3] }, {}, dtype);
  return [...variants.values()];
}

/** Bytes of the `var<workgroup>`s of a module, whose lengths are made of its `const`s. */
function workgroupBytes(wgsl: string): number {
  const code = wgsl.replaceAll(/\/\/.*/g, "").replaceAll(/\b(\d+)u\b/g, "$1");
  const constants = [...code.matchAll(/^const (\w+) = ([^;]+);/gm)].map(
    ([, name, value]) => `const ${name} = ${value};`,
  );
  const sizes = [...code.matchAll(/^var<workgroup> \w+: array<([\w<>]+), ([^;]+)>;/gm)].map(
    ([, type, length]) => `${{ f32: 4, u32: 4, "vec4<f32>": 16 }[type!]} * (${length})`,
  );
  assert.equal(sizes.length, code.split("var<workgroup>").length - 1, "all are arrays");
  return Function(`${constants.join("")} return ${["0", ...sizes].join(" + ")};`)() as number;
}

describe("WGSL on Dawn's null backend", () => {
  // Dawn lives for as long as it is referenced.
  const gpu = create(["backend=null", "enable-dawn-features=allow_unsafe_apis"]);
  let device: WebGPUDevice;

  before(async () => {
    const adapter = await gpu.requestAdapter();
    assert(adapter, "no null adapter");
    const gpuDevice = await adapter.requestDevice({ requiredFeatures: ["subgroups"] });
    device = await requestDevice("webgpu", { gpuDevice });
  });
  after(() => device?.gpuDevice.destroy());

  test("every variant compiles without a message", async () => {
    const variants = allVariants();
    const kinds = new Map<string, number>();
    for (const { kernel } of variants) kinds.set(kernel.name, (kinds.get(kernel.name) ?? 0) + 1);
    assert.equal(kinds.get("matmul"), Object.keys(matmulTiles).length);
    assert.isAtLeast(kinds.get("softmax")!, 4, "in place or not, with subgroups or not");
    assert.equal(kinds.size, 8);
    await Promise.all(
      variants.map(async ({ kernel, names, launch }) => {
        const module = device.gpuDevice.createShaderModule({ code: launch.wgsl });
        const { messages } = await module.getCompilationInfo();
        const texts = messages.map(({ lineNum, type, message }) => `${lineNum} ${type} ${message}`);
        assert.deepEqual(texts, [], `${kernel.name}, ${launch.variant}`);
        await device.compile([[kernel, names, launch]]); // with the bindings that it declares
      }),
    );
    assert.equal(device.created.pipelines, variants.length);
  });

  test("modules declare the workgroup memory that plans tell", () => {
    for (const { kernel, launch } of allVariants())
      assert.equal(
        workgroupBytes(launch.wgsl),
        launch.workgroupBytes ?? 0,
        `${kernel.name}, ${launch.variant}`,
      );
  });

  test("a faulty one does not", async () => {
    const wgsl = "@group(0) @binding(0) var<storage, read> x: array<f32>;\nfn main() { retrun; }";
    const launch: Launch = { wgsl, workgroups: [1, 1, 1] };
    const kernel = defineKernel({ name: "faulty", tensors: { x: "read" }, webgpu: () => launch });
    const error = await rejection(() => device.compile([[kernel, ["x"], launch]]));
    assert.instanceOf(error, CompilationError);
    assert.equal(error.messages[0]!.line, 2);
  });
});
