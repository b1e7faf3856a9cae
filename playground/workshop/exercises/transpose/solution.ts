import { defineKernel, defineOp, TensorType } from "qkv";

// Neighboring lanes read neighboring addresses, and write neighboring addresses too: a tile of 16 × 16
// turns in workgroup memory. A row of 17 puts the elements of a column into different banks.
const transposeKernel = defineKernel({
  name: "my_transpose",
  tensors: { input: "read", output: "write" },
  uniforms: { rows: "u32", columns: "u32" },
  webgpu: ({ tensors: { input } }) => {
    const [rows, columns] = input.shape as [number, number];
    return {
      wgsl: /* wgsl */ `
        struct Uniforms { rows: u32, columns: u32 }
        @group(0) @binding(0) var<storage, read> input: array<f32>;         // [rows, columns]
        @group(0) @binding(1) var<storage, read_write> output: array<f32>;  // [columns, rows]
        @group(0) @binding(2) var<uniform> uniforms: Uniforms;

        var<workgroup> tile: array<f32, 16 * 17>;

        @compute @workgroup_size(16, 16)
        fn main(
          @builtin(workgroup_id) workgroup: vec3<u32>,
          @builtin(local_invocation_id) lane: vec3<u32>,
        ) {
          let column = workgroup.x * 16 + lane.x;
          let row = workgroup.y * 16 + lane.y;
          if (row < uniforms.rows && column < uniforms.columns) {
            tile[lane.y * 17 + lane.x] = input[row * uniforms.columns + column];
          }
          workgroupBarrier();

          let output_row = workgroup.x * 16 + lane.y;
          let output_column = workgroup.y * 16 + lane.x;
          if (output_row < uniforms.columns && output_column < uniforms.rows) {
            output[output_row * uniforms.rows + output_column] = tile[lane.x * 17 + lane.y];
          }
        }`,
      workgroups: [Math.ceil(columns / 16), Math.ceil(rows / 16), 1],
      uniforms: { rows, columns },
    };
  },
});

export const op = defineOp({
  name: "my_transpose",
  infer: ([x]) => [new TensorType("float32", [x!.shape[1]!, x!.shape[0]!])],
  webgpu: ({ inputs: [input], outputs: [output], enqueue }) =>
    enqueue(transposeKernel, { input: input!, output: output! }),
});
