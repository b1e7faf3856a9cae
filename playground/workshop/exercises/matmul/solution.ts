import { defineKernel, defineOp, TensorType } from "qkv";

// A workgroup of 16 × 16 lanes owns a tile of 16 × 16 outputs, one a lane. It walks the inner axis in steps
// of 16: a tile of A and a tile of B come into workgroup memory, where each value is read 16 times.
const matmulKernel = defineKernel({
  name: "my_matmul",
  tensors: { a: "read", b: "read", output: "write" },
  uniforms: { rows: "u32", inner: "u32", columns: "u32" },
  webgpu: ({ tensors: { a, b } }) => {
    const [rows, inner] = a.shape as [number, number];
    const columns = b.shape[1]!;
    return {
      wgsl: /* wgsl */ `
        struct Uniforms { rows: u32, inner: u32, columns: u32 }
        @group(0) @binding(0) var<storage, read> a: array<f32>;             // [rows, inner]
        @group(0) @binding(1) var<storage, read> b: array<f32>;             // [inner, columns]
        @group(0) @binding(2) var<storage, read_write> output: array<f32>;  // [rows, columns]
        @group(0) @binding(3) var<uniform> uniforms: Uniforms;

        const size = 16u;
        var<workgroup> a_tile: array<f32, size * size>;  // [row, inner]
        var<workgroup> b_tile: array<f32, size * size>;  // [inner, column]

        @compute @workgroup_size(size, size)
        fn main(
          @builtin(global_invocation_id) id: vec3<u32>,
          @builtin(local_invocation_id) lane: vec3<u32>,
        ) {
          let row = id.y;
          let column = id.x;
          var sum = 0.0;
          for (var first = 0u; first < uniforms.inner; first += size) {
            // Each lane brings one element of either tile; what lies outside the matrix is 0.
            var a_value = 0.0;
            if (row < uniforms.rows && first + lane.x < uniforms.inner) {
              a_value = a[row * uniforms.inner + first + lane.x];
            }
            var b_value = 0.0;
            if (first + lane.y < uniforms.inner && column < uniforms.columns) {
              b_value = b[(first + lane.y) * uniforms.columns + column];
            }
            a_tile[lane.y * size + lane.x] = a_value;
            b_tile[lane.y * size + lane.x] = b_value;
            workgroupBarrier();

            for (var i = 0u; i < size; i++) {
              sum += a_tile[lane.y * size + i] * b_tile[i * size + lane.x];
            }

            workgroupBarrier();  // before the next tiles come
          }
          if (row < uniforms.rows && column < uniforms.columns) {
            output[row * uniforms.columns + column] = sum;
          }
        }`,
      workgroups: [Math.ceil(columns / 16), Math.ceil(rows / 16), 1],
      uniforms: { rows, inner, columns },
    };
  },
});

export const op = defineOp({
  name: "my_matmul",
  infer: ([a, b]) => [new TensorType("float32", [a!.shape[0]!, b!.shape[1]!])],
  webgpu: ({ inputs: [a, b], outputs: [output], enqueue }) =>
    enqueue(matmulKernel, { a: a!, b: b!, output: output! }),
});
