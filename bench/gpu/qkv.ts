import {
  type DeviceTensor,
  Graph,
  InferenceSession,
  type Model,
  ops,
  scaledDotProductAttentionOp,
  TensorType,
  tensor,
  type WebGPUDevice,
  type WebGPUTensor,
} from "../../src/index.ts";
import { type BenchCase, bytesMoved, shapes } from "./cases.ts";
import {
  compareRows,
  type Elements,
  type ReferenceRow,
  randomElements,
  referenceRows,
} from "./numbers.ts";
import { type GPUTimer, type Timing, timeInTurn } from "./timer.ts";

/**
 * A call; a call whose output is read; the same commands out of `encode()`, in an encoder of one's own;
 * an empty dispatch; and a submission without any.
 */
export type RoundTrip = "call" | "read" | "encoded" | "dispatch" | "submission";

/** What came of one variant on one case. */
export interface Measurement {
  /** The kernels that ran. */
  readonly variant: string;
  readonly timing?: Timing;
  readonly correct?: boolean;
  /** Largest absolute error over the rows looked at. */
  readonly worst?: number;
  /** By the clock, until the work is done or the output read. */
  readonly roundTrips?: Readonly<Record<RoundTrip, Timing>>;
  readonly error?: string;
}

/** More than caches hold, so that inputs come from memory. */
const farBytes = 256 * 2 ** 20;

/** A case's data on the host and on the GPU. */
export class CaseData {
  readonly case: BenchCase;
  readonly rows: readonly ReferenceRow[];
  /** The same numbers in several places, used in turn. */
  readonly inputs: readonly (readonly DeviceTensor[])[];

  constructor(device: WebGPUDevice, of: BenchCase, small: boolean) {
    this.case = of;
    const shape = shapes(of);
    const make = (which: readonly number[]) =>
      randomElements(
        of.dtype,
        which.reduce((a, b) => a * b),
      );
    const [q, k, v] = [make(shape.query), make(shape.key), make(shape.key)];
    this.rows = referenceRows(of, q, k, v);
    const copies = small ? 2 : Math.max(1, Math.min(8, Math.ceil(farBytes / bytesMoved(of))));
    this.inputs = Array.from({ length: copies }, () => [
      device.upload(tensor(q, shape.query, of.dtype)),
      device.upload(tensor(k, shape.key, of.dtype)),
      device.upload(tensor(v, shape.key, of.dtype)),
    ]);
  }

  destroy(): void {
    for (const tensors of this.inputs) for (const each of tensors) each.destroy();
  }
}

async function loadModel(
  device: WebGPUDevice,
  of: BenchCase,
  variant: string | undefined,
): Promise<Model> {
  const { query, key } = shapes(of);
  const parameters = { causal: of.causal, ...(variant !== undefined && { variant }) };
  const graph = new Graph("attention", {
    inputTypes: [query, key, key].map((shape) => new TensorType(of.dtype, shape)),
    customExtensions: [scaledDotProductAttentionOp],
    forward: (q, k, v) =>
      ops.custom(scaledDotProductAttentionOp.name, { values: [q!, k!, v!], parameters }),
  });
  return new InferenceSession({ device }).load(graph);
}

/** Checks one variant against the reference, then times it. */
export async function measure(
  device: WebGPUDevice,
  timer: GPUTimer,
  data: CaseData,
  variant: string | undefined,
  milliseconds: number,
): Promise<Measurement> {
  let model: Model;
  try {
    model = await loadModel(device, data.case, variant);
  } catch (error) {
    return { variant: variant ?? "default", error: String(error) };
  }
  const { inputs, rows } = data;
  const { dtype, roundTrip } = data.case;
  const output = device.allocate(dtype, shapes(data.case).output);
  poison(device, output);
  model.executeInto(inputs[0]!, [output]);
  const { worst, correct } = compareRows(data.case, rows, (await output.read()).data as Elements);
  const names = model
    .plan()
    .steps.map((step) => (step.variant ?? step.kernel ?? step.op).replace(/ \(.*\)$/, ""));
  const name = [...new Set(names)].join(" + ");

  const timing = await timer.time(
    (pass, turn) => model.encode(pass, inputs[turn % inputs.length]!, [output]),
    milliseconds,
  );
  const roundTrips =
    roundTrip && (await timeRoundTrips(device, model, inputs[0]!, output, milliseconds));
  output.destroy();
  model.destroy();
  return { variant: name, timing, correct, worst, ...(roundTrips && { roundTrips }) };
}

function timeRoundTrips(
  device: WebGPUDevice,
  model: Model,
  inputs: readonly DeviceTensor[],
  output: DeviceTensor,
  milliseconds: number,
): Promise<Record<RoundTrip, Timing>> {
  const { gpuDevice } = device;
  const { queue } = gpuDevice;
  const code = "@compute @workgroup_size(1) fn main() {}";
  const compute = { module: gpuDevice.createShaderModule({ code }) };
  const pipeline = gpuDevice.createComputePipeline({ layout: "auto", compute });
  const submit = (record: (encoder: GPUCommandEncoder) => void) => () => {
    const encoder = gpuDevice.createCommandEncoder();
    record(encoder);
    queue.submit([encoder.finish()]);
    return queue.onSubmittedWorkDone();
  };
  const calls = {
    call() {
      model.executeInto(inputs, [output]);
      return queue.onSubmittedWorkDone();
    },
    read() {
      model.executeInto(inputs, [output]);
      return output.read();
    },
    encoded: submit((encoder) => model.encode(encoder, inputs, [output])),
    dispatch: submit((encoder) => {
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline);
      pass.dispatchWorkgroups(1);
      pass.end();
    }),
    submission: submit(() => {}),
  };
  return timeInTurn<RoundTrip>(calls, milliseconds);
}

/** Fills a tensor with NaN, so that an element never written is seen. */
function poison(device: WebGPUDevice, { gpuBuffer, byteOffset, byteLength }: WebGPUTensor): void {
  const bytes = new Uint8Array(byteLength).fill(0xff);
  device.gpuDevice.queue.writeBuffer(gpuBuffer, byteOffset, bytes);
}
