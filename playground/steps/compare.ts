import type { Devices } from "../device/devices.ts";
import { differences, largest, type Matrix, matrixOf, transposed } from "../numbers/matrix.ts";
import { referenceAttention } from "../numbers/reference.ts";
import type { Inputs, Sizes } from "./presets.ts";
import { type GraphRun, runGraph, runSteps, type StepTensors, sizesOf } from "./run-steps.ts";

/** The seven steps over one set of inputs. */
export interface Comparison {
  readonly inputs: Inputs;
  readonly sizes: Sizes;
  /** On the page's device. */
  readonly tensors: StepTensors;
  /** What they are held against, and what that is called. */
  readonly expected: StepTensors;
  readonly expectedName: string;
  readonly differences: StepTensors;
}

/** Runs the seven steps, and what to hold them against. */
export async function compare(devices: Devices, inputs: Inputs): Promise<Comparison> {
  const { main, cpu } = devices;
  const onGPU = main.kind === "webgpu";
  const [tensors, expected] = await Promise.all([
    runSteps(main, inputs),
    onGPU ? runSteps(cpu, inputs) : referenceSteps(inputs),
  ]);
  return {
    inputs,
    sizes: sizesOf(inputs),
    tensors,
    expected,
    expectedName: onGPU ? "CPU" : "Reference",
    differences: {
      keyTransposed: differences(tensors.keyTransposed, expected.keyTransposed),
      scores: differences(tensors.scores, expected.scores),
      weights: differences(tensors.weights, expected.weights),
      output: differences(tensors.output, expected.output),
    },
  };
}

/** The op of seven steps and the fused kernel, as graphs. */
export interface Fusion {
  readonly steps: GraphRun;
  readonly fused: GraphRun;
  /** The largest difference between their outputs. */
  readonly difference: number;
}

export async function compareFused(devices: Devices, inputs: Inputs): Promise<Fusion> {
  const steps = await runGraph(devices, inputs, "steps");
  const fused = await runGraph(devices, inputs, "fused");
  return { steps, fused, difference: largest(differences(steps.output, fused.output).data) };
}

/** The steps in float64. */
function referenceSteps({ q, k, v }: Inputs): StepTensors {
  const scores: Matrix = matrixOf(q.rows, k.rows, (i, j) => {
    let sum = 0;
    for (let c = 0; c < q.columns; c++)
      sum += q.data[i * q.columns + c]! * k.data[j * q.columns + c]!;
    return sum;
  });
  return { keyTransposed: transposed(k), scores, ...referenceAttention(q, k, v) };
}
