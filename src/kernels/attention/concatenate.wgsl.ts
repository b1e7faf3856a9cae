import { defineKernel, foldWorkgroups } from "../../devices/kernel.ts";
import { bytesPerElement, type DType } from "../../tensor/dtype.ts";
import type { RowStrides } from "./problem.ts";
import { bindings } from "./snippets.wgsl.ts";

// Concatenate: the keys (or values) of the past, then those of the call, as one contiguous tensor
// [batch, heads, past + rows, width]. Bits are copied as they are, whatever the dtype.
//
// A lane owns one unit of the result: 16 bytes, 4 bytes, or, where rows of halves do not end on a
// word, a word whose halves are found one by one. A workgroup is 256 neighbouring units. No
// workgroup memory.
//
// Grid: units / 256, folded into two axes. Adapters: any.

const uniformTypes = {
  gridWidth: "u32",
  units: "u32",
  heads: "u32",
  past: "u32",
  rows: "u32",
  width: "u32",
  batchStride: "u32",
  headStride: "u32",
  rowStride: "u32",
} as const;

const tensors = { past: "read?", current: "read", output: "write" } as const;

/**
 * Puts `past` ([batch, heads, past, width], contiguous; it may be missing) before `current` along
 * the third axis.
 */
export const attentionConcatenate = defineKernel<
  typeof tensors,
  {
    readonly batch: number;
    readonly heads: number;
    readonly past: number;
    /** Rows of `current`. */
    readonly rows: number;
    /** Elements of a row. */
    readonly width: number;
    /** Strides of `current`, in elements. */
    readonly strides: RowStrides;
  }
>({
  name: "attention_concatenate",
  tensors,
  uniforms: uniformTypes,
  webgpu({ tensors: { output }, parameters, capabilities }) {
    const { batch, heads, past, rows, width, strides } = parameters;
    const unit = unitOf(output.dtype, width, strides);
    const elements = batch * heads * (past + rows) * width;
    const units = Math.ceil(elements / unit.elements);
    // What the kernel counts in: units, but halves where they are found one by one.
    const scale = unit.kind === "half" ? 1 : unit.elements;
    const [x, y] = foldWorkgroups(Math.ceil(units / 256), capabilities);
    return {
      wgsl: concatenateText(unit.kind, past > 0),
      workgroups: [x, y, 1],
      uniforms: {
        gridWidth: x,
        units,
        heads,
        past,
        rows,
        width: width / scale,
        batchStride: strides.batch / scale,
        headStride: strides.head / scale,
        rowStride: strides.row / scale,
      },
    };
  },
});

function unitOf(dtype: DType, width: number, strides: RowStrides) {
  const bytes = bytesPerElement(dtype);
  const fits = (size: number) =>
    [width, strides.batch, strides.head, strides.row].every((n) => (n * bytes) % size === 0);
  if (fits(16)) return { kind: "vec4<u32>", elements: 16 / bytes } as const;
  if (fits(4)) return { kind: "u32", elements: 4 / bytes } as const;
  return { kind: "half", elements: 2 } as const;
}

/** The module's text. */
export function concatenateText(kind: "vec4<u32>" | "u32" | "half", hasPast: boolean): string {
  const type = kind === "half" ? "u32" : kind;
  const read = (name: string) =>
    kind === "half"
      ? `(${name}[element >> 1u] >> ((element & 1u) * 16u)) & 0xffffu`
      : `${name}[element]`;
  return `
${bindings(tensors, { past: hasPast ? type : undefined, current: type, output: type }, uniformTypes)}

/// Element \`at\` of the result.
fn find(at: u32) -> ${type} {
  let column = at % uniforms.width;
  let all_rows = uniforms.past + uniforms.rows;
  let row = at / uniforms.width % all_rows;
  let pair = at / uniforms.width / all_rows;
  ${
    hasPast
      ? `if (row < uniforms.past) {
    let element = (pair * uniforms.past + row) * uniforms.width + column;
    return ${read("past")};
  }`
      : ""
  }
  let element = pair / uniforms.heads * uniforms.batchStride + pair % uniforms.heads * uniforms.headStride
    + (row - uniforms.past) * uniforms.rowStride + column;
  return ${read("current")};
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let unit = (workgroup.y * uniforms.gridWidth + workgroup.x) * 256u + lane;
  if (unit >= uniforms.units) { return; }
  output[unit] = ${kind === "half" ? "find(unit * 2u) | (find(unit * 2u + 1u) << 16u)" : "find(unit)"};
}`;
}
