/**
 * Moves axes: one lane an element of the output, which it gathers from where the input's strides say.
 * Four axes suffice, since axes that stay neighbours are merged before (see `kernel.ts`).
 *
 * Grid: 256 lanes a workgroup, folded over x and y. Runs on every adapter.
 */
export const permuteWGSL = /* wgsl */ `
struct Uniforms {
  length1: u32, length2: u32, length3: u32,                  // of the output's axes 1 to 3
  stride0: u32, stride1: u32, stride2: u32, stride3: u32,    // of the input, along the output's axes
  count: u32,
  gridWidth: u32,
}

@group(0) @binding(0) var<storage, read> input: array<f32>;
@group(0) @binding(1) var<storage, read_write> output: array<f32>;
@group(0) @binding(2) var<uniform> uniforms: Uniforms;

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = (workgroup.y * uniforms.gridWidth + workgroup.x) * 256u + lane;
  if (index >= uniforms.count) {
    return;
  }
  var rest = index;
  let i3 = rest % uniforms.length3;
  rest /= uniforms.length3;
  let i2 = rest % uniforms.length2;
  rest /= uniforms.length2;
  let i1 = rest % uniforms.length1;
  let i0 = rest / uniforms.length1;
  output[index] = input[i0 * uniforms.stride0 + i1 * uniforms.stride1 + i2 * uniforms.stride2 + i3 * uniforms.stride3];
}
`;
