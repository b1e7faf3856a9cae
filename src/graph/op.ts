import type { Capabilities } from "../devices/capabilities.ts";
import type { HostView, KernelContext, PlannedTensor, TensorShape } from "../devices/kernel.ts";
import { refuse } from "../errors.ts";
import type { Shape } from "../tensor/shape.ts";
import type { TensorType } from "./tensor-type.ts";

/** A tensor as an op on the CPU sees it. */
export interface HostOpTensor extends HostView {
  reshape(shape: Shape): HostOpTensor;
}

/** What an op's implementation works with. */
export interface OpContext<Tensor extends TensorShape, Parameters = object>
  extends KernelContext<Tensor> {
  readonly inputs: readonly Tensor[];
  readonly outputs: readonly Tensor[];
  readonly parameters: Parameters;
}

/** The context of an op that records kernels, once for each set of shapes. */
export interface RecordingOpContext<Parameters = object>
  extends OpContext<PlannedTensor, Parameters> {
  /** What a WebGPU device offers; undefined on the CPU. */
  readonly capabilities: Capabilities | undefined;
}

/** {@link RecordingOpContext} on WebGPU. */
export interface WebGPUOpContext<Parameters = object> extends RecordingOpContext<Parameters> {
  readonly capabilities: Capabilities;
}

/** The context of an op on the CPU: it computes, at every execute. */
export interface CPUOpContext<Parameters = object> extends OpContext<HostOpTensor, Parameters> {}

/** The definition given to {@link defineOp}. */
export interface OpDefinition<Parameters = object> {
  /** The name that `ops.custom` finds it by. */
  readonly name: string;
  /**
   * The types of the outputs for given inputs; throws on inputs or parameters that the op does not take.
   * Shapes may hold names. Runs while the graph is built.
   */
  infer(inputs: readonly TensorType[], parameters: Parameters): readonly TensorType[];
  /**
   * Records the kernels that compute the outputs, on any device: for ops whose kernels have both
   * implementations. Instead of `webgpu` and `cpu`.
   */
  record?(context: RecordingOpContext<Parameters>): void;
  /** Records the kernels that compute the outputs on WebGPU. */
  webgpu?(context: WebGPUOpContext<Parameters>): void;
  /** Computes the outputs on the CPU, at every execute. */
  cpu?(context: CPUOpContext<Parameters>): void;
  /** The one output is the one input's memory under another shape. For `reshape`. @internal */
  readonly view?: boolean;
}

/** An op. Made by {@link defineOp}. */
export type Op<Parameters = object> = OpDefinition<Parameters>;

/** Any op, whatever its parameters. */
// biome-ignore lint/suspicious/noExplicitAny: the one place where an op's parameters are forgotten
export type AnyOp = Op<any>;

/**
 * Makes a graph operation with an implementation for each kind of device it supports, as
 * `execute[target]` in Modular's MAX. Give it to a graph's `customExtensions` and use it through
 * `ops.custom`.
 *
 * @throws QkvError if the definition lacks a name, `infer`, or implementations, or has `record` beside
 *   others.
 */
export function defineOp<Parameters = object>(
  definition: OpDefinition<Parameters>,
): Op<Parameters> {
  const { name, infer, record, webgpu, cpu, view } = definition;
  if (typeof name !== "string" || name === "") refuse("defineOp", "name must be a string", name);
  const operation = `defineOp ${JSON.stringify(name)}`;
  if (typeof infer !== "function") refuse(operation, "infer must be a function", infer);
  if (!record && !webgpu && !cpu && !view) refuse(operation, "record, webgpu or cpu must be given");
  if (record && (webgpu || cpu))
    refuse(operation, "record must stand alone, without webgpu and cpu");
  return definition;
}
