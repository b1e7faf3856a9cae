import {
  type DeviceTensor,
  defineKernel,
  defineOp,
  Graph,
  InferenceSession,
  type Kernel,
  ops,
  TensorType,
  tensor,
  type WebGPUDevice,
} from "../../src/index.ts";
import type { GPUTimer } from "./timer.ts";

// What this GPU can do at most, measured by the smallest kernels that try.

/** Bytes and operations a second; 0 where the GPU lacks the unit. */
export interface Ceilings {
  /** Copying memory: bytes read plus bytes written. */
  readonly copy: number;
  /** Reading memory. */
  readonly read: number;
  /** float32 multiply-adds, each counted as two. */
  readonly float32: number;
  /** Matrix units, float16 operands and float32 results, operands in registers. */
  readonly matrix: number;
}

const lanes = 256;
const vectorsPerLane = 8;

const copy = defineKernel({
  name: "copy",
  tensors: { source: "read", output: "write" },
  webgpu: ({ tensors: { source } }) => ({
    wgsl: `
@group(0) @binding(0) var<storage, read> source: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> output: array<vec4<f32>>;
@compute @workgroup_size(${lanes})
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first = workgroup.x * ${lanes * vectorsPerLane}u + lane;
  ${unrolled((i) => `let v${i} = source[first + ${i * lanes}u];`)}
  ${unrolled((i) => `output[first + ${i * lanes}u] = v${i};`)}
}`,
    workgroups: [source.shape[0]! / 4 / (lanes * vectorsPerLane), 1, 1],
  }),
});

const read = defineKernel({
  name: "read",
  tensors: { source: "read", output: "write" },
  webgpu: ({ tensors: { source } }) => ({
    wgsl: `
@group(0) @binding(0) var<storage, read> source: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> output: array<f32>;
@compute @workgroup_size(${lanes})
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first = workgroup.x * ${lanes * vectorsPerLane}u + lane;
  ${unrolled((i) => `let v${i} = source[first + ${i * lanes}u];`)}
  let sum = dot(${unrolled((i) => `v${i}`, " + ")}, vec4<f32>(1.0));
  if (sum == 12345.678) { output[workgroup.x] = sum; } // keeps the reads, and hardly ever writes
}`,
    workgroups: [source.shape[0]! / 4 / (lanes * vectorsPerLane), 1, 1],
  }),
});

const chains = 16;
const turns = 256;

const multiplyAdd = defineKernel({
  name: "multiply_add",
  tensors: { source: "read", output: "write" },
  webgpu: ({ tensors: { output } }) => ({
    wgsl: `
@group(0) @binding(0) var<storage, read> source: array<f32>;
@group(0) @binding(1) var<storage, read_write> output: array<f32>;
@compute @workgroup_size(${lanes})
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let x = source[id.x & 7u] * 0.125;
  ${unrolled((i) => `var a${i} = x + ${i}.0;`, "\n  ", chains)}
  for (var turn = 0; turn < ${turns}; turn++) {
    ${unrolled((i) => `a${i} = fma(a${i}, x, 0.5);`, "\n    ", chains)}
  }
  output[id.x] = ${unrolled((i) => `a${i}`, " + ", chains)};
}`,
    workgroups: [output.shape[0]! / lanes, 1, 1],
  }),
});

const subgroupsPerWorkgroup = 4;
const products = 16;

const matrixMultiply = defineKernel<
  { readonly source: "read"; readonly output: "write" },
  { readonly shape: { readonly M: number; readonly N: number; readonly K: number } }
>({
  name: "matrix_multiply",
  tensors: { source: "read", output: "write" },
  webgpu: ({ tensors: { output }, parameters: { shape }, capabilities }) => {
    const { M, N, K } = shape;
    const subgroup = capabilities.subgroups!.max;
    return {
      wgsl: `
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
alias Left = subgroup_matrix_left<f16, ${K}, ${M}>;
alias Right = subgroup_matrix_right<f16, ${N}, ${K}>;
alias Result = subgroup_matrix_result<f32, ${N}, ${M}>;
@group(0) @binding(0) var<storage, read> source: array<f32>;
@group(0) @binding(1) var<storage, read_write> output: array<f32>;
@compute @workgroup_size(${subgroup * subgroupsPerWorkgroup})
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(subgroup_id) subgroup: u32) {
  let left = Left(f16(source[0]));
  let right = Right(f16(source[1]));
  ${unrolled((i) => `var r${i} = Result(${i}.0);`, "\n  ", products)}
  for (var turn = 0; turn < ${turns}; turn++) {
    ${unrolled((i) => `r${i} = subgroupMatrixMultiplyAccumulate(left, right, r${i});`, "\n    ", products)}
  }
  let place = (workgroup.x * ${subgroupsPerWorkgroup}u + subgroup) * ${M * N}u;
  ${unrolled((i) => `subgroupMatrixStore<row_major>(&output, place, r${i}, ${N}u);`, "\n  ", products)}
}`,
      workgroups: [output.shape[0]! / (subgroupsPerWorkgroup * M * N), 1, 1],
    };
  },
});

function unrolled(
  statement: (i: number) => string,
  separator = "\n  ",
  count = vectorsPerLane,
): string {
  return Array.from({ length: count }, (_, i) => statement(i)).join(separator);
}

/** What records a kernel of `source` and `output` into a pass. */
async function recorder<Parameters extends object>(
  device: WebGPUDevice,
  kernel: Kernel<{ readonly source: "read"; readonly output: "write" }, Parameters>,
  source: DeviceTensor,
  output: DeviceTensor,
  parameters: Parameters,
): Promise<(pass: GPUComputePassEncoder) => void> {
  const type = (of: DeviceTensor) => new TensorType(of.dtype, of.shape);
  const op = defineOp({
    name: kernel.name,
    infer: () => [type(output)],
    webgpu(context) {
      const tensors = { source: context.inputs[0]!, output: context.outputs[0]! };
      (context.enqueue as (...call: unknown[]) => void)(kernel, tensors, parameters);
    },
  });
  const graph = new Graph(kernel.name, {
    inputTypes: [type(source)],
    customExtensions: [op],
    forward: (value) => ops.custom(kernel.name, { values: [value] }),
  });
  const model = await new InferenceSession({ device }).load(graph);
  return (pass) => model.encode(pass, [source], [output]);
}

/** Measures all of them. */
export async function measureCeilings(
  device: WebGPUDevice,
  timer: GPUTimer,
  small: boolean,
): Promise<Ceilings> {
  const milliseconds = small ? 20 : 200;
  const seed = device.upload(tensor([0.25, 0.5, 0.125, 0.75, 0.5, 0.25, 0.125, 0.75]));
  const seconds = async <Parameters extends object>(
    kernel: Kernel<{ readonly source: "read"; readonly output: "write" }, Parameters>,
    source: DeviceTensor,
    elements: number,
    parameters: Parameters,
  ): Promise<number> => {
    const output = device.allocate("float32", [elements]);
    const record = await recorder(device, kernel, source, output, parameters);
    const { median } = await timer.time(record, milliseconds);
    output.destroy();
    return median * 1e-6;
  };

  const elements = small ? 2 ** 20 : 2 ** 27;
  const source = device.allocate("float32", [elements]);
  const copied = await seconds(copy, source, elements, {});
  const wasRead = await seconds(read, source, elements / 4 / (lanes * vectorsPerLane), {});
  source.destroy();

  const workgroups = small ? 4 : 8192;
  const multiplied = await seconds(multiplyAdd, seed, workgroups * lanes, {});

  const { matrixShapes, float16, subgroups } = device.capabilities;
  const shape =
    float16 && subgroups
      ? matrixShapes.find(({ component, result }) => component === "f16" && result === "f32")
      : undefined;
  let matrix = 0;
  if (shape) {
    const { M, N, K } = shape;
    const results = workgroups * subgroupsPerWorkgroup * M * N;
    const multiplies = workgroups * subgroupsPerWorkgroup * turns * products;
    matrix =
      (multiplies * 2 * M * N * K) / (await seconds(matrixMultiply, seed, results, { shape }));
  }
  seed.destroy();
  return {
    copy: (8 * elements) / copied,
    read: (4 * elements) / wasRead,
    float32: (workgroups * lanes * chains * turns * 2) / multiplied,
    matrix,
  };
}
