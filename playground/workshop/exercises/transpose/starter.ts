import { defineKernel, defineOp, TensorType } from "qkv";

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

        @compute @workgroup_size(16, 16)
        fn main(@builtin(global_invocation_id) id: vec3<u32>) {
          let column = id.x;
          let row = id.y;
          if (row >= uniforms.rows || column >= uniforms.columns) { return; }
          let value = input[row * uniforms.columns + column];
          // TODO: this copies. Where does the value belong in the transposed matrix?
          output[row * uniforms.columns + column] = value;
        }`,
      workgroups: [Math.ceil(columns / 16), Math.ceil(rows / 16), 1],
      uniforms: { rows, columns },
    };
  },
});

export const op = defineOp({
  name: "my_transpose",
  // The shape of the output, known before anything runs.
  infer: ([x]) => [new TensorType("float32", [x!.shape[1]!, x!.shape[0]!])],
  webgpu: ({ inputs: [input], outputs: [output], enqueue }) =>
    enqueue(transposeKernel, { input: input!, output: output! }),
});
