import { defineKernel, defineOp } from "qkv";

// A kernel is WGSL, the names of its tensors, and a grid. One lane computes one element.
const addOneKernel = defineKernel({
  name: "add_one",
  tensors: { input: "read", output: "write" },
  uniforms: { count: "u32" },
  webgpu: ({ tensors: { input } }) => ({
    wgsl: /* wgsl */ `
      struct Uniforms { count: u32 }
      @group(0) @binding(0) var<storage, read> input: array<f32>;
      @group(0) @binding(1) var<storage, read_write> output: array<f32>;
      @group(0) @binding(2) var<uniform> uniforms: Uniforms;

      @compute @workgroup_size(64)
      fn main(@builtin(global_invocation_id) id: vec3<u32>) {
        if (id.x >= uniforms.count) { return; }  // the last workgroup may reach past the end
        output[id.x] = input[id.x];  // TODO: add one
      }`,
    workgroups: [Math.ceil(input.shape[0]! / 64), 1, 1],
    uniforms: { count: input.shape[0]! },
  }),
});

// An op is what a graph is made of: an implementation for each kind of device.
export const op = defineOp({
  name: "add_one",
  infer: ([x]) => [x!],
  webgpu: ({ inputs: [input], outputs: [output], enqueue }) =>
    enqueue(addOneKernel, { input: input!, output: output! }),
  cpu: ({ inputs: [input], outputs: [output] }) => {
    input!.data.forEach((x, i) => {
      output!.data[i] = x + 1;
    });
  },
});
