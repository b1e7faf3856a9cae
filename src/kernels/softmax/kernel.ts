import type { Capabilities } from "../../devices/capabilities.ts";
import {
  defineKernel,
  foldWorkgroups,
  type HostView,
  type Launch,
  type TensorShape,
  type WasmLaunch,
} from "../../devices/kernel.ts";
import { refuse } from "../../errors.ts";
import { elementCount, sameShape } from "../../tensor/shape.ts";
import { checkFloat32 } from "../checks.ts";
import { lanes, type SoftmaxVariant, softmaxWGSL, workgroupBytes } from "./softmax.wgsl.ts";

/**
 * The variant for rows of `columns`. Short rows share a workgroup: one lane for every 4 columns or so
 * keeps lanes busy. A row that fills the workgroup merges through subgroups where there are any.
 */
export function selectSoftmax(
  columns: number,
  inPlace: boolean,
  { subgroups }: Capabilities,
): SoftmaxVariant & { readonly lanesPerRow: number } {
  const wanted = Math.ceil(columns / 4);
  const lanesPerRow = Math.min(2 ** Math.ceil(Math.log2(wanted)), lanes);
  return { inPlace, lanesPerRow, subgroups: subgroups !== undefined && lanesPerRow === lanes };
}

function sizes({ shape }: TensorShape): { rows: number; columns: number } {
  const columns = shape.at(-1)!;
  return { rows: elementCount(shape) / columns, columns };
}

const uniforms = { rows: "u32", columns: "u32", lanesPerRow: "u32", gridWidth: "u32" } as const;

function launch(tensor: TensorShape, inPlace: boolean, capabilities: Capabilities): Launch {
  const { rows, columns } = sizes(tensor);
  const variant = selectSoftmax(columns, inPlace, capabilities);
  const [gridWidth, gridHeight] = foldWorkgroups(
    Math.ceil(rows / (lanes / variant.lanesPerRow)),
    capabilities,
  );
  return {
    wgsl: softmaxWGSL(variant),
    variant: `${variant.lanesPerRow} lanes a row${variant.subgroups ? ", subgroups" : ""}${inPlace ? ", in place" : ""}`,
    workgroups: [gridWidth, gridHeight, 1],
    workgroupBytes,
    uniforms: { rows, columns, lanesPerRow: variant.lanesPerRow, gridWidth },
  };
}

function check(operation: string, tensors: Readonly<Record<string, TensorShape>>): void {
  checkFloat32(operation, tensors);
  for (const [name, { shape }] of Object.entries(tensors))
    if (shape.length === 0) refuse(operation, `${name} must have an axis to normalise`, [...shape]);
}

function run(input: HostView, output: HostView): void {
  const { rows, columns } = sizes(input);
  for (let start = 0; start < rows * columns; start += columns) {
    let maximum = Number.NEGATIVE_INFINITY;
    for (let i = start; i < start + columns; i++)
      if (input.data[i]! > maximum) maximum = input.data[i]!;
    let sum = 0;
    if (maximum === Number.NEGATIVE_INFINITY) maximum = 0; // a row of −∞: every exp is 0
    for (let i = start; i < start + columns; i++) sum += Math.exp(input.data[i]! - maximum);
    for (let i = start; i < start + columns; i++)
      output.data[i] = sum === 0 ? 0 : Math.exp(input.data[i]! - maximum) / sum;
  }
}

function wasmLaunch(tensor: TensorShape, input: string, output: string): WasmLaunch {
  const { rows, columns } = sizes(tensor);
  const taskRows = Math.max(1, Math.floor(8192 / columns));
  return {
    function: "softmax",
    tasks: Math.ceil(rows / taskRows),
    work: 8 * rows * columns,
    scratch: 0,
    words: [{ tensor: input }, { tensor: output }, rows, columns, taskRows],
  };
}

/** Softmax over the last axis: `input` float32 `[…, columns]` into `output` of the same shape. */
export const softmax = defineKernel({
  name: "softmax",
  tensors: { input: "read", output: "write" },
  uniforms,
  check({ input, output }) {
    check("softmax", { input, output });
    if (!sameShape(input.shape, output.shape))
      refuse("softmax", `output must have the shape of input, [${input.shape.join(", ")}]`, [
        ...output.shape,
      ]);
  },
  webgpu: ({ tensors: { input }, capabilities }) => launch(input, false, capabilities),
  wasm: ({ input }) => wasmLaunch(input, "input", "output"),
  cpu: ({ input, output }) => run(input, output),
});

/** {@link softmax} of `values` float32 `[…, columns]` into itself. */
export const softmaxInPlace = defineKernel({
  name: "softmax",
  tensors: { values: "readwrite" },
  uniforms,
  check: ({ values }) => check("softmax", { values }),
  webgpu: ({ tensors: { values }, capabilities }) => launch(values, true, capabilities),
  wasm: ({ values }) => wasmLaunch(values, "values", "values"),
  cpu: ({ values }) => run(values, values),
});
