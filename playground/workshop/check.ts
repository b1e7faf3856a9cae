import {
  type Device,
  type DeviceTensor,
  Graph,
  InferenceSession,
  type Model,
  type Op,
  ops,
  TensorType,
  tensor,
} from "qkv";
import { measure } from "../benchmark/measure.ts";
import { formatDifference, formatNumber } from "../numbers/format.ts";
import type { Exercise, ExerciseCase } from "./exercise.ts";
import type { CheckResult, Timing } from "./messages.ts";

/** A graph of nothing but the op, for the shapes of a case. */
async function load(device: Device, op: Op, { inputs }: ExerciseCase): Promise<Model> {
  const graph = new Graph(op.name, {
    inputTypes: inputs.map(({ shape }) => new TensorType("float32", shape)),
    customExtensions: [op],
    forward: (...values) => ops.custom(op.name, { values }),
  });
  return new InferenceSession({ device }).load(graph);
}

export interface Checked {
  readonly checks: readonly CheckResult[];
  readonly plan: string;
}

/** Runs an op on the cases of an exercise. What it throws is the fault of the op's code. */
export async function check(device: Device, op: Op, exercise: Exercise): Promise<Checked> {
  const checks: CheckResult[] = [];
  let plan = "";
  let dispatches = 0;
  let temporaryBytes = 0;
  for (const one of exercise.cases()) {
    const model = await load(device, op, one);
    try {
      plan ||= model.explain();
      const { steps, temporaryBytes: bytes } = model.plan();
      dispatches = Math.max(dispatches, steps.filter(({ kernel }) => kernel !== "view").length);
      temporaryBytes = Math.max(temporaryBytes, bytes);
      checks.push(await checkCase(model, one, exercise.tolerance));
    } finally {
      model.destroy();
    }
  }
  for (const { title, failure } of exercise.planChecks)
    checks.push({ title, failure: failure({ dispatches, temporaryBytes }) });
  return { checks, plan };
}

async function checkCase(
  model: Model,
  { title, inputs, expected }: ExerciseCase,
  tolerance: number,
): Promise<CheckResult> {
  const outputs = model.execute(...inputs.map(({ data, shape }) => tensor(data, shape)));
  try {
    if (outputs.length !== 1)
      return { title, failure: `the op must have one output, and has ${outputs.length}` };
    const { data } = await outputs[0]!.read();
    if (data.length !== expected.length)
      return {
        title,
        failure: `the output must have ${expected.length} elements, and has ${data.length}: see infer`,
      };
    let worst = 0;
    let at = -1;
    for (let i = 0; i < expected.length; i++) {
      const difference = Math.abs(data[i]! - expected[i]!) / (1 + Math.abs(expected[i]!));
      if (difference <= worst) continue;
      worst = difference; // NaN too: no comparison with it is true, and none after it either
      at = i;
      if (Number.isNaN(difference)) break;
    }
    const failure =
      worst <= tolerance
        ? undefined
        : `element ${at} is ${formatNumber(data[at])}, and should be ${formatNumber(expected[at])} (off by ${formatDifference(worst)}, ${formatDifference(tolerance)} allowed)`;
    return { title, failure, difference: worst };
  } finally {
    for (const output of outputs) output.destroy();
  }
}

/** Times an op that passed. */
export async function time(device: Device, op: Op, exercise: Exercise): Promise<Timing> {
  const timed = exercise.timed();
  const model = await load(device, op, timed);
  const inputs = timed.inputs.map(({ data, shape }) => device.upload(tensor(data, shape)));
  const outputs: DeviceTensor[] = [
    device.allocate("float32", model.graph.outputs[0]!.type.resolve({})),
  ];
  try {
    const { seconds } = await measure(device, () => model.executeInto(inputs, outputs), {
      seconds: 0.3,
    });
    const { title, flops, bytes } = timed;
    return { title, seconds, bytes, ...(flops !== undefined && { flops }) };
  } finally {
    for (const tensor of [...inputs, ...outputs]) tensor.destroy();
    model.destroy();
  }
}
