import { type Capabilities, type Launch, matmul, softmaxInPlace, transpose } from "qkv";
import { workgroupSize } from "../device/wgsl-constants.ts";
import type { ScaleKind } from "../numbers/color-scale.ts";
import type { Matrix } from "../numbers/matrix.ts";
import type { Cell, Frame } from "../parts/heatmap.tsx";
import type { Inputs, Sizes } from "./presets.ts";
import type { StepTensors } from "./run-steps.ts";

/** The names of the tensors, inputs included. */
export type TensorName = keyof Inputs | keyof StepTensors;

/** A step of the op. */
export interface Step {
  readonly title: string;
  /** What happens in it, and why. */
  readonly text: string;
  /** The tensor that it leaves. */
  readonly tensor: TensorName;
  /** Its shape, as the step sees it. */
  readonly shape: string;
  readonly kernel?: StepKernel;
}

/** A kernel as a GPU with given capabilities launches it. */
export interface StepKernel {
  readonly name: string;
  readonly launch: Launch;
  /** Lanes of a workgroup, axis by axis. */
  readonly workgroup: readonly number[] | undefined;
}

/** How tensors are called, and colored. */
export const tensorNames: Readonly<Record<TensorName, { name: string; kind: ScaleKind }>> = {
  q: { name: "Q", kind: "signed" },
  k: { name: "K", kind: "signed" },
  v: { name: "V", kind: "signed" },
  keyTransposed: { name: "Kᵀ", kind: "signed" },
  scores: { name: "scores", kind: "signed" },
  weights: { name: "weights", kind: "unsigned" },
  output: { name: "output", kind: "signed" },
};

/** The seven steps, as they run for these sizes. */
export function stepList(
  { queries, keys, depth, valueDepth }: Sizes,
  capabilities: Capabilities,
): Step[] {
  const type = (rows: number, columns: number) =>
    ({ dtype: "float32", shape: [rows, columns] }) as const;
  const parameters = {};
  const kernel = (name: string, launch: Launch): StepKernel => ({
    name,
    launch,
    workgroup: workgroupSize(launch.wgsl),
  });
  const product = (rows: number, inner: number, columns: number) =>
    kernel(
      matmul.name,
      matmul.webgpu!({
        tensors: {
          a: type(rows, inner),
          b: type(inner, columns),
          output: type(rows, columns),
        },
        parameters,
        capabilities,
      }),
    );
  return [
    {
      title: "See Q as a matrix",
      text: "Each row is a query. A view: another shape for the same memory, so nothing runs.",
      tensor: "q",
      shape: `[${queries}, ${depth}]`,
    },
    {
      title: "Transpose K",
      text: "So that the product of the next step reads both its operands along rows. It goes through tiles in workgroup memory, and so reads and writes neighboring addresses.",
      tensor: "keyTransposed",
      shape: `[${depth}, ${keys}]`,
      kernel: kernel(
        transpose.name,
        transpose.webgpu!({
          tensors: { input: type(keys, depth), output: type(depth, keys) },
          parameters,
          capabilities,
        }),
      ),
    },
    {
      title: "Scores = Q·Kᵀ",
      text: "How well each key (a column) matches each query (a row): the sum of the products of their elements.",
      tensor: "scores",
      shape: `[${queries}, ${keys}]`,
      kernel: product(queries, depth, keys),
    },
    {
      title: "See the scores as rows",
      text: "A view again: what softmax normalizes is a row at a time.",
      tensor: "scores",
      shape: `${queries} × [${keys}]`,
    },
    {
      title: "Weights = softmax(scores)",
      text: "exp(score − largest score of the row), divided by the row's sum. In place: the weights take the memory of the scores.",
      tensor: "weights",
      shape: `${queries} × [${keys}]`,
      kernel: kernel(
        softmaxInPlace.name,
        softmaxInPlace.webgpu!({
          tensors: { values: type(queries, keys) },
          parameters,
          capabilities,
        }),
      ),
    },
    {
      title: "See the weights as a matrix",
      text: "A view: the left operand of the last product.",
      tensor: "weights",
      shape: `[${queries}, ${keys}]`,
    },
    {
      title: "Output = weights·V",
      text: "Each row is a weighted mean of the values, by the kernel of step 3.",
      tensor: "output",
      shape: `[${queries}, ${valueDepth}]`,
      kernel: product(queries, keys, valueDepth),
    },
  ];
}

/** What a cell was made from, or is itself in other tensors, by tensor. */
export function sourcesOf(
  tensor: TensorName,
  { row, column }: Cell,
  { queries, keys, depth, valueDepth }: Sizes,
): Partial<Record<TensorName, Frame>> {
  const cell = (row: number, column: number): Frame => ({ row, column, rows: 1, columns: 1 });
  const wholeRow = (row: number, columns: number): Frame => ({ row, column: 0, rows: 1, columns });
  const wholeColumn = (column: number, rows: number): Frame => ({
    row: 0,
    column,
    rows,
    columns: 1,
  });
  switch (tensor) {
    case "keyTransposed":
      return { k: cell(column, row) };
    case "scores":
      return {
        q: wholeRow(row, depth),
        k: wholeRow(column, depth),
        keyTransposed: wholeColumn(column, depth),
      };
    case "weights":
      return { scores: wholeRow(row, keys) };
    case "output":
      return {
        weights: wholeRow(row, keys),
        scores: wholeRow(row, keys),
        q: wholeRow(row, depth),
        v: wholeColumn(column, keys),
      };
    case "q":
      return {
        scores: wholeRow(row, keys),
        weights: wholeRow(row, keys),
        output: wholeRow(row, valueDepth),
      };
    case "k":
      return {
        keyTransposed: cell(column, row),
        scores: wholeColumn(row, queries),
        weights: wholeColumn(row, queries),
      };
    case "v":
      return { weights: wholeColumn(row, queries), output: wholeColumn(column, queries) };
  }
}

export function tensorOf(name: TensorName, inputs: Inputs, tensors: StepTensors): Matrix {
  return name === "q" || name === "k" || name === "v" ? inputs[name] : tensors[name];
}
