import type { BoundTensor, Program } from "../devices/program.ts";
import type { RecordedStep, RecordedTensor, Recording, Storage } from "./recorder.ts";

/** A buffer of a plan, and the storages that take turns in it. */
export interface PlannedBuffer {
  readonly role: Storage["role"];
  bytes: number;
  readonly storages: Storage[];
}

/** A recording with a buffer for each storage. */
export interface Plan {
  readonly name: string;
  readonly recording: Recording;
  readonly buffers: readonly PlannedBuffer[];
  readonly bufferOf: ReadonlyMap<Storage, number>;
}

/** The tensors that a step reads or writes. */
function stepTensors(step: RecordedStep): RecordedTensor[] {
  if (step.kind === "view") return [];
  return step.kind === "kernel" ? Object.values(step.tensors) : [...step.inputs, ...step.outputs];
}

/**
 * Gives every storage a buffer. Inputs, outputs and constants have one each; a temporary lives from the
 * first to the last step that uses it, and takes the smallest buffer free by then that holds it, else
 * the largest free one, enlarged, else a new one. Two that a step uses together never share.
 */
export function plan(name: string, recording: Recording): Plan {
  const buffers: PlannedBuffer[] = [];
  const bufferOf = new Map<Storage, number>();
  const place = (storage: Storage): void => {
    bufferOf.set(storage, buffers.length);
    buffers.push({ role: storage.role, bytes: storage.bytes, storages: [storage] });
  };
  for (const { storage } of [...recording.inputs, ...recording.outputs]) place(storage);

  const lastUse = new Map<Storage, number>();
  recording.steps.forEach((step, index) => {
    for (const { storage } of stepTensors(step)) lastUse.set(storage, index);
  });

  const free: number[] = [];
  recording.steps.forEach((step, index) => {
    const storages = new Set(stepTensors(step).map(({ storage }) => storage));
    for (const storage of storages) {
      if (bufferOf.has(storage)) continue;
      const taken =
        storage.role === "temporary" ? takeFree(free, buffers, storage.bytes) : undefined;
      if (taken === undefined) place(storage);
      else {
        const buffer = buffers[taken]!;
        buffer.bytes = Math.max(buffer.bytes, storage.bytes);
        buffer.storages.push(storage);
        bufferOf.set(storage, taken);
      }
    }
    for (const storage of storages)
      if (storage.role === "temporary" && lastUse.get(storage) === index)
        free.push(bufferOf.get(storage)!);
  });
  return { name, recording, buffers, bufferOf };
}

function takeFree(
  free: number[],
  buffers: readonly PlannedBuffer[],
  bytes: number,
): number | undefined {
  if (free.length === 0) return undefined;
  free.sort((a, b) => buffers[a]!.bytes - buffers[b]!.bytes);
  const fits = free.findIndex((buffer) => buffers[buffer]!.bytes >= bytes);
  return free.splice(fits >= 0 ? fits : free.length - 1, 1)[0];
}

/** The plan as a device takes it. */
export function programOf({ name, recording, buffers, bufferOf }: Plan): Program {
  const bind = ({ storage, dtype, shape }: RecordedTensor): BoundTensor => ({
    buffer: bufferOf.get(storage)!,
    dtype,
    shape,
  });
  const constants = new Map<number, NonNullable<Storage["constant"]>>();
  for (const [storage, buffer] of bufferOf)
    if (storage.constant) constants.set(buffer, storage.constant);
  return {
    name,
    buffers: buffers.map(({ role, bytes }) => ({ role, bytes: Math.ceil(bytes / 4) * 4 })),
    steps: recording.steps
      .filter((step) => step.kind !== "view")
      .map((step) =>
        step.kind === "kernel"
          ? {
              ...step,
              tensors: Object.fromEntries(
                Object.entries(step.tensors).map(([key, tensor]) => [key, bind(tensor)]),
              ),
            }
          : { ...step, inputs: step.inputs.map(bind), outputs: step.outputs.map(bind) },
      ),
    inputs: recording.inputs.map(bind),
    outputs: recording.outputs.map(bind),
    constants,
  };
}
