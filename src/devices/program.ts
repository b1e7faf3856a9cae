import type { AnyKernel, HostView, Launch, TensorShape } from "./kernel.ts";

/** What a buffer of a program is: the caller's to give, or the program's own. */
export type BufferRole = "input" | "output" | "constant" | "temporary";

/** A buffer that a program reads or writes. */
export interface ProgramBuffer {
  readonly role: BufferRole;
  readonly bytes: number;
}

/** A tensor of a program: a view of one of its buffers, from the start. */
export interface BoundTensor extends TensorShape {
  /** Index into `Program.buffers`. */
  readonly buffer: number;
}

/** One dispatch of a kernel. */
export interface KernelStep {
  readonly kind: "kernel";
  /** The op that recorded it. */
  readonly op: string;
  readonly kernel: AnyKernel;
  readonly tensors: Readonly<Record<string, BoundTensor>>;
  readonly parameters: object;
  /** Present for WebGPU. */
  readonly launch?: Launch;
}

/** A whole op on the CPU, as its author wrote it. */
export interface FunctionStep {
  readonly kind: "function";
  readonly op: string;
  readonly inputs: readonly BoundTensor[];
  readonly outputs: readonly BoundTensor[];
  run(inputs: readonly HostView[], outputs: readonly HostView[]): void;
}

/** The caller's tensors by the index of their buffer. */
export function givenTensors<T>(
  { inputs, outputs }: Program,
  inputTensors: readonly T[],
  outputTensors: readonly T[],
): ReadonlyMap<number, T> {
  const bound = [...inputs, ...outputs];
  const tensors = [...inputTensors, ...outputTensors];
  return new Map(bound.map(({ buffer }, i) => [buffer, tensors[i]!]));
}

/** A planned sequence of steps over numbered buffers: what the engine hands to a device. */
export interface Program {
  readonly name: string;
  readonly buffers: readonly ProgramBuffer[];
  readonly steps: readonly (KernelStep | FunctionStep)[];
  readonly inputs: readonly BoundTensor[];
  readonly outputs: readonly BoundTensor[];
  /** Buffers that hold a tensor known at load. */
  readonly constants: ReadonlyMap<number, HostView>;
}
