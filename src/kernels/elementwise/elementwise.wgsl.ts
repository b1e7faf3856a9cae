/**
 * One lane an element: `output[i] = expression`, where the expression may use `input[i]` or `a[i]` and
 * `b[i]`. Grid: 256 lanes a workgroup, folded over x and y. Runs on every adapter.
 */
export const lanes = 256;

/** @param inputs Names of the tensors read, in binding order. @param type Of an element. */
export const elementwiseWGSL = (
  inputs: readonly string[],
  expression: string,
  type: "f32" | "u32" = "f32",
): string => /* wgsl */ `
struct Uniforms {
  count: u32,
  gridWidth: u32,
  factor: f32,
}

${inputs.map((name, i) => `@group(0) @binding(${i}) var<storage, read> ${name}: array<${type}>;`).join("\n")}
@group(0) @binding(${inputs.length}) var<storage, read_write> output: array<${type}>;
@group(0) @binding(${inputs.length + 1}) var<uniform> uniforms: Uniforms;

@compute @workgroup_size(${lanes})
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = (workgroup.y * uniforms.gridWidth + workgroup.x) * ${lanes}u + lane;
  if (i < uniforms.count) {
    output[i] = ${expression};
  }
}
`;
