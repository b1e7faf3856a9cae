import { defineKernel, defineOp, TensorType } from "qkv";

// A workgroup owns a query. It walks the keys 64 at a time: each lane computes one score; then each lane
// adds the weighted values of one column, rescaling what it has where the tile brought a larger score.
const fusedKernel = defineKernel({
  name: "my_fused_attention",
  tensors: { q: "read", k: "read", v: "read", output: "write" },
  uniforms: { keys: "u32", depth: "u32", value_depth: "u32" },
  webgpu: ({ tensors: { q, k, v } }) => ({
    wgsl: /* wgsl */ `
      struct Uniforms { keys: u32, depth: u32, value_depth: u32 }
      @group(0) @binding(0) var<storage, read> q: array<f32>;             // [queries, depth]
      @group(0) @binding(1) var<storage, read> k: array<f32>;             // [keys, depth]
      @group(0) @binding(2) var<storage, read> v: array<f32>;             // [keys, value_depth]
      @group(0) @binding(3) var<storage, read_write> output: array<f32>;  // [queries, value_depth]
      @group(0) @binding(4) var<uniform> uniforms: Uniforms;

      const lanes = 64u;
      var<workgroup> scores: array<f32, lanes>;

      @compute @workgroup_size(lanes)
      fn main(
        @builtin(workgroup_id) workgroup: vec3<u32>,
        @builtin(local_invocation_index) lane: u32,
      ) {
        let query = workgroup.x * uniforms.depth;
        var maximum = -3.4e38;
        var sum = 0.0;
        var mixed = 0.0;  // the sum of the weighted values of column "lane"
        for (var first = 0u; first < uniforms.keys; first += lanes) {
          let count = min(lanes, uniforms.keys - first);
          if (lane < count) {
            var score = 0.0;
            for (var i = 0u; i < uniforms.depth; i++) {
              score += q[query + i] * k[(first + lane) * uniforms.depth + i];
            }
            scores[lane] = score;
          }
          workgroupBarrier();

          var raised = maximum;
          for (var j = 0u; j < count; j++) { raised = max(raised, scores[j]); }
          let keep = exp(maximum - raised);
          maximum = raised;
          sum *= keep;
          mixed *= keep;
          for (var j = 0u; j < count; j++) {
            let weight = exp(scores[j] - maximum);
            sum += weight;
            if (lane < uniforms.value_depth) {
              mixed += weight * v[(first + j) * uniforms.value_depth + lane];
            }
          }
          workgroupBarrier();  // before the next scores come
        }
        if (lane < uniforms.value_depth) {
          output[workgroup.x * uniforms.value_depth + lane] = mixed / sum;
        }
      }`,
    workgroups: [q.shape[0]!, 1, 1],
    uniforms: { keys: k.shape[0]!, depth: k.shape[1]!, value_depth: v.shape[1]! },
  }),
});

export const op = defineOp({
  name: "my_attention",
  infer: ([q, , v]) => [new TensorType("float32", [q!.shape[0]!, v!.shape[1]!])],
  webgpu: ({ inputs: [q, k, v], outputs: [output], enqueue }) =>
    enqueue(fusedKernel, { q: q!, k: k!, v: v!, output: output! }),
});
