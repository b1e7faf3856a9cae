import { defineKernel, defineOp } from "qkv";

// A workgroup owns a row. Each lane takes every 64th element, and then the lanes must agree: on the largest
// score of all, and on the sum of all.
const softmaxKernel = defineKernel({
  name: "my_softmax",
  tensors: { input: "read", output: "write" },
  uniforms: { columns: "u32" },
  webgpu: ({ tensors: { input } }) => {
    const [rows, columns] = input.shape as [number, number];
    return {
      wgsl: /* wgsl */ `
        struct Uniforms { columns: u32 }
        @group(0) @binding(0) var<storage, read> input: array<f32>;         // [rows, columns]
        @group(0) @binding(1) var<storage, read_write> output: array<f32>;  // [rows, columns]
        @group(0) @binding(2) var<uniform> uniforms: Uniforms;

        const lanes = 64u;
        var<workgroup> parts: array<f32, lanes>;

        // The largest of the lanes' values, in every lane: a tree through workgroup memory.
        fn largest(lane: u32, value: f32) -> f32 {
          parts[lane] = value;
          for (var stride = lanes / 2; stride > 0; stride /= 2) {
            workgroupBarrier();
            if (lane < stride) { parts[lane] = max(parts[lane], parts[lane + stride]); }
          }
          workgroupBarrier();
          let result = parts[0];
          workgroupBarrier();  // before anyone writes parts again
          return result;
        }

        // The sum of the lanes' values, in every lane.
        fn total(lane: u32, value: f32) -> f32 {
          parts[lane] = value;
          for (var stride = lanes / 2; stride > 0; stride /= 2) {
            workgroupBarrier();
            if (lane < stride) { parts[lane] += parts[lane + stride]; }
          }
          workgroupBarrier();
          let result = parts[0];
          workgroupBarrier();
          return result;
        }

        @compute @workgroup_size(lanes)
        fn main(
          @builtin(workgroup_id) workgroup: vec3<u32>,
          @builtin(local_invocation_index) lane: u32,
        ) {
          let start = workgroup.x * uniforms.columns;
          var own_largest = -3.4e38;
          for (var i = lane; i < uniforms.columns; i += lanes) {
            own_largest = max(own_largest, input[start + i]);
          }
          let maximum = largest(lane, own_largest);

          var own_sum = 0.0;
          for (var i = lane; i < uniforms.columns; i += lanes) {
            own_sum += exp(input[start + i] - maximum);
          }
          let sum = total(lane, own_sum);

          for (var i = lane; i < uniforms.columns; i += lanes) {
            output[start + i] = exp(input[start + i] - maximum) / sum;
          }
        }`,
      workgroups: [rows, 1, 1],
      uniforms: { columns },
    };
  },
});

export const op = defineOp({
  name: "my_softmax",
  infer: ([x]) => [x!],
  webgpu: ({ inputs: [input], outputs: [output], enqueue }) =>
    enqueue(softmaxKernel, { input: input!, output: output! }),
});
