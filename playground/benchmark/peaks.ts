import { type Device, defineKernel, tensor } from "qkv";
import { inScope } from "../device/scope.ts";
import { measure } from "./measure.ts";
import type { Peaks } from "./messages.ts";

// The roofs of the roofline plot, measured: multiply-adds that depend on nothing but registers, and a copy.

const steps = 512;
const accumulators = 8;

const multiplyAdds = defineKernel({
  name: "multiply_adds",
  tensors: { output: "write" },
  webgpu: ({ tensors: { output } }) => ({
    wgsl: /* wgsl */ `
      @group(0) @binding(0) var<storage, read_write> output: array<f32>;
      @compute @workgroup_size(256)
      fn main(@builtin(global_invocation_id) id: vec3<u32>) {
        let factor = vec4<f32>(1.0 - f32(id.x) * 1e-9);
        ${Array.from({ length: accumulators }, (_, i) => `var sum${i} = vec4<f32>(${i}.0);`).join(" ")}
        for (var step = 0; step < ${steps}; step++) {
          ${Array.from({ length: accumulators }, (_, i) => `sum${i} = fma(sum${i}, factor, factor);`).join(" ")}
        }
        let sum = ${Array.from({ length: accumulators }, (_, i) => `sum${i}`).join(" + ")};
        output[id.x] = sum.x + sum.y + sum.z + sum.w;
      }`,
    workgroups: [output.shape[0]! / 256, 1, 1],
  }),
});

const copy = defineKernel({
  name: "copy",
  tensors: { input: "read", output: "write" },
  webgpu: ({ tensors: { input } }) => {
    const groups = input.shape[0]! / 4 / 256;
    const across = Math.min(groups, 32768);
    return {
      wgsl: /* wgsl */ `
        @group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;
        @group(0) @binding(1) var<storage, read_write> output: array<vec4<f32>>;
        @compute @workgroup_size(256)
        fn main(
          @builtin(global_invocation_id) id: vec3<u32>,
          @builtin(num_workgroups) groups: vec3<u32>,
        ) {
          let at = id.y * groups.x * 256 + id.x;
          output[at] = input[at];
        }`,
      workgroups: [across, groups / across, 1],
    };
  },
});

/** Elements that are copied: beyond the cache of a GPU that has one that large, or a few in software. */
const copied = { hardware: 1 << 24, software: 1 << 20 };

export function measurePeaks(device: Device, software: boolean): Promise<Peaks> {
  const lanes = software ? 1 << 12 : 1 << 18;
  const length = software ? copied.software : copied.hardware;
  const options = { seconds: 0.3 };
  return inScope(async (keep) => {
    const sums = keep(device.allocate("float32", [lanes]));
    const add = () => device.enqueue(multiplyAdds, { output: sums });
    const arithmetic = await measure(device, add, options);
    const input = keep(device.upload(tensor(new Float32Array(length))));
    const output = keep(device.allocate("float32", [length]));
    const traffic = await measure(device, () => device.enqueue(copy, { input, output }), options);
    return {
      flopsPerSecond: (lanes * steps * accumulators * 4 * 2) / arithmetic.seconds,
      bytesPerSecond: (8 * length) / traffic.seconds,
    };
  });
}
