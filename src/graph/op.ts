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

/** The context of an op on WebGPU: it records, once for each set of shapes. */
export interface WebGPUOpContext<Parameters = object> extends OpContext<PlannedTensor, Parameters> {
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
  /** Records the kernels that compute the outputs. */
  webgpu?(context: WebGPUOpContext<Parameters>): void;
  /**
   * Computes the outputs. If it is the same function as `webgpu`, it only enqueues kernels, and so it is
   * called when the graph is recorded, not at every execute.
   */
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
 * @throws QkvError if the definition lacks a name, `infer`, or both implementations.
 */
export function defineOp<Parameters = object>(
  definition: OpDefinition<Parameters>,
): Op<Parameters> {
  const { name, infer, webgpu, cpu, view } = definition;
  if (typeof name !== "string" || name === "") refuse("defineOp", "name must be a string", name);
  const operation = `defineOp ${JSON.stringify(name)}`;
  if (typeof infer !== "function") refuse(operation, "infer must be a function", infer);
  if (!webgpu && !cpu && !view) refuse(operation, "webgpu or cpu must be given");
  return definition;
}
