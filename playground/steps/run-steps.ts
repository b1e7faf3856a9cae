import {
  attentionOp,
  type Device,
  type ExplainedStep,
  Graph,
  InferenceSession,
  matmul,
  ops,
  softmaxInPlace,
  TensorType,
  transpose,
} from "qkv";
import type { Devices } from "../device/devices.ts";
import { inScope } from "../device/scope.ts";
import { asMatrix, asTensor, type Matrix } from "../numbers/matrix.ts";
import type { Inputs, Sizes } from "./presets.ts";

/** The tensors that the kernels of the seven-step op leave behind. */
export interface StepTensors {
  readonly keyTransposed: Matrix;
  readonly scores: Matrix;
  readonly weights: Matrix;
  readonly output: Matrix;
}

export const sizesOf = ({ q, k, v }: Inputs): Sizes => ({
  queries: q.rows,
  keys: k.rows,
  depth: q.columns,
  valueDepth: v.columns,
});

/** Takes the steps on a device, one kernel at a time, and reads each buffer. */
export async function runSteps(device: Device, inputs: Inputs): Promise<StepTensors> {
  const { queries, keys, depth, valueDepth } = sizesOf(inputs);
  return inScope(async (keep) => {
    const allocate = (rows: number, columns: number) =>
      keep(device.allocate("float32", [rows, columns]));
    const q = keep(device.upload(asTensor(inputs.q)));
    const k = keep(device.upload(asTensor(inputs.k)));
    const v = keep(device.upload(asTensor(inputs.v)));
    const keyTransposed = allocate(depth, keys);
    const scores = allocate(queries, keys);
    const output = allocate(queries, valueDepth);

    device.enqueue(transpose, { input: k, output: keyTransposed });
    device.enqueue(matmul, { a: q, b: keyTransposed, output: scores });
    const scoresRead = scores.read(); // of what is there now: softmax will write over it
    device.enqueue(softmaxInPlace, { values: scores });
    device.enqueue(matmul, { a: scores, b: v, output });
    const read = await Promise.all([
      keyTransposed.read(),
      scoresRead,
      scores.read(),
      output.read(),
    ]);
    const [transposedValues, scoreValues, weightValues, outputValues] = read;
    return {
      keyTransposed: asMatrix(transposedValues),
      scores: asMatrix(scoreValues),
      weights: asMatrix(weightValues),
      output: asMatrix(outputValues),
    };
  });
}

/** A run of a graph, and its plan. */
export interface GraphRun {
  readonly output: Matrix;
  readonly steps: readonly ExplainedStep[];
  readonly temporaryBytes: number;
  /** The plan in words. */
  readonly explained: string;
}

/** softmax(Q·Kᵀ)·V as a graph: `steps` out of the op of seven steps; `fused` out of three built-in ops. */
export async function runGraph(
  { main }: Devices,
  inputs: Inputs,
  form: "steps" | "fused",
): Promise<GraphRun> {
  const types = [inputs.q, inputs.k, inputs.v].map(
    ({ rows, columns }) => new TensorType("float32", [rows, columns]),
  );
  const graph = new Graph(form === "steps" ? "attention_in_steps" : "attention", {
    inputTypes: types,
    customExtensions: [attentionOp],
    forward: (q, k, v) =>
      form === "steps"
        ? ops.custom("attention", { values: [q!, k!, v!] })
        : ops.matmul(ops.softmax(ops.matmul(q!, ops.transpose(k!))), v!),
  });
  const model = await new InferenceSession({ device: main }).load(graph);
  try {
    const { steps, temporaryBytes } = model.plan();
    const explained = model.explain();
    const [output] = model.execute(asTensor(inputs.q), asTensor(inputs.k), asTensor(inputs.v));
    try {
      const matrix = asMatrix(await output!.read());
      return { output: matrix, steps, temporaryBytes, explained };
    } finally {
      output!.destroy();
    }
  } finally {
    model.destroy();
  }
}
