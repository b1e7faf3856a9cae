import {
  checkDeviceTensor,
  type Device,
  type DeviceTensor,
  isDeviceTensor,
  type PreparedProgram,
} from "../devices/device.ts";
import { describe, refuse } from "../errors.ts";
import type { DimensionValues } from "../graph/dimension.ts";
import type { Graph } from "../graph/graph.ts";
import { TensorType } from "../graph/tensor-type.ts";
import type { DType } from "../tensor/dtype.ts";
import { type Shape, sameShape } from "../tensor/shape.ts";
import { checkTensor, isTensor, type Tensor } from "../tensor/tensor.ts";
import { type ExplainedPlan, explainPlan, formatPlan } from "./explain.ts";
import { type Plan, plan, programOf } from "./planner.ts";
import { record } from "./recorder.ts";

/**
 * What a model takes for an input: a host tensor (uploaded), a device tensor, or a caller's `GPUBuffer`
 * (of exactly the input's type, which must have no names that other inputs do not give).
 */
export type ModelInput = Tensor | DeviceTensor | GPUBuffer;

/** Sets of dimension values whose plans, temporaries and bind groups are kept, for each model. */
const instancesKept = 8;

/** A graph planned for one set of shapes. */
interface Instance {
  readonly key: string;
  readonly plan: Plan;
  /** Made when the plan is first run: to explain a plan takes no memory. */
  program?: PreparedProgram;
}

/** A graph loaded for a device. Made by `InferenceSession.load`. */
export class Model implements Disposable {
  readonly graph: Graph;
  readonly device: Device;
  readonly #names: readonly string[];
  /** Most recently used first. */
  readonly #instances: Instance[] = [];
  #destroyed = false;

  /** @internal */
  constructor(graph: Graph, device: Device, names: readonly string[]) {
    this.graph = graph;
    this.device = device;
    this.#names = names;
  }

  /**
   * Enqueues the graph and returns at once; await `read()` of an output for its elements. From the
   * second call with the same shapes on, nothing is created: give outputs back with `destroy()` and they
   * are used again.
   *
   * @returns The outputs, on the device.
   * @throws QkvError, before anything is enqueued, if an input's dtype or shape is not the graph's, is
   *   released, or lies on another device; DeviceLostError if the device is lost.
   */
  execute(...inputs: readonly ModelInput[]): DeviceTensor[] {
    return this.#withInputs(inputs, (tensors, plan, program) => {
      const outputs: DeviceTensor[] = [];
      try {
        for (const { dtype, shape } of plan.recording.outputs)
          outputs.push(this.device.allocate(dtype, shape));
        program.run(tensors, outputs);
      } catch (error) {
        for (const output of outputs) output.destroy();
        throw error;
      }
      return outputs;
    });
  }

  /**
   * As {@link execute}, into tensors that the caller has: on the same device, of the outputs' dtypes and
   * shapes, none sharing a buffer with an input.
   */
  executeInto(inputs: readonly ModelInput[], outputs: readonly DeviceTensor[]): void {
    this.#withInputs(inputs, (tensors, plan, program) => {
      this.#checkOutputs(plan, tensors, outputs);
      program.run(tensors, outputs);
    });
  }

  /**
   * Records the graph into the caller's own WebGPU work, to be submitted by the caller: into a command
   * encoder (as one compute pass) or a compute pass. WebGPU devices only.
   *
   * @param inputs Device tensors or `GPUBuffer`s; the caller keeps them until the work is done.
   * @param outputs Device tensors, as for {@link executeInto}.
   * @throws QkvError as {@link execute}, and for host tensors, which would have to be uploaded first.
   */
  encode(
    target: GPUCommandEncoder | GPUComputePassEncoder,
    inputs: readonly (DeviceTensor | GPUBuffer)[],
    outputs: readonly DeviceTensor[],
  ): void {
    inputs.forEach((input, i) => {
      if (isTensor(input))
        refuse(
          `${this.graph.name}.encode`,
          `input ${i} must be on the device (see device.upload)`,
          input,
        );
    });
    this.#withInputs(inputs, (tensors, plan, program) => {
      this.#checkOutputs(plan, tensors, outputs);
      if (!program.encode)
        refuse(`${this.graph.name}.encode`, "the device must be WebGPU", this.device.kind);
      program.encode(target, tensors, outputs);
    });
  }

  /**
   * The plan for given values of the named dimensions, as data.
   *
   * @throws QkvError if a name has no value.
   */
  plan(values: DimensionValues = {}): ExplainedPlan {
    return explainPlan(this.#instance(this.#checkValues(values)).plan, this.device.description);
  }

  /**
   * The plan in words: each step with its kernel, variant, grid and workgroup memory; each buffer with
   * its bytes and the tensors that share it.
   *
   * @param values Lengths of the graph's named dimensions.
   * @throws QkvError if a name has no value.
   */
  explain(values: DimensionValues = {}): string {
    return formatPlan(this.plan(values));
  }

  /** Frees temporaries and bind groups. Outputs stay. */
  destroy(): void {
    this.#destroyed = true;
    for (const { program } of this.#instances.splice(0)) program?.destroy();
  }

  [Symbol.dispose](): void {
    this.destroy();
  }

  /** Plans for one set of dimension values, ahead of execute. @internal */
  prepare(values: DimensionValues): void {
    this.#program(this.#instance(values));
  }

  #program(instance: Instance): PreparedProgram {
    instance.program ??= this.device.prepare(programOf(instance.plan));
    return instance.program;
  }

  #checkValues(values: DimensionValues): DimensionValues {
    for (const name of this.#names)
      if (
        !(Object.hasOwn(values, name) && Number.isSafeInteger(values[name]) && values[name]! >= 1)
      )
        refuse(
          this.graph.name,
          `dimension ${describe(name)} must be given an integer of 1 or more`,
          Object.hasOwn(values, name) ? values[name] : undefined,
        );
    return values;
  }

  #instance(values: DimensionValues): Instance {
    if (this.#destroyed) refuse(this.graph.name, "the model must not be used after destroy()");
    const key = this.#names.map((name) => values[name]).join();
    const at = this.#instances.findIndex((instance) => instance.key === key);
    const instance =
      at >= 0
        ? this.#instances.splice(at, 1)[0]!
        : {
            key,
            plan: plan(this.graph.name, record(this.graph, values, this.device.capabilities)),
          };
    this.#instances.unshift(instance);
    if (this.#instances.length > instancesKept) this.#instances.pop()!.program?.destroy();
    return instance;
  }

  /** Checks the inputs, uploads those on the host, runs `use`, and releases the uploads. */
  #withInputs<T>(
    inputs: readonly ModelInput[],
    use: (tensors: readonly DeviceTensor[], plan: Plan, program: PreparedProgram) => T,
  ): T {
    const { inputTypes, name } = this.graph;
    if (inputs.length !== inputTypes.length)
      refuse(name, `it takes ${inputTypes.length} inputs`, inputs.length);
    const values: Record<string, number> = Object.create(null); // a name may be "constructor"
    for (const [i, input] of inputs.entries())
      this.#checkInput(`input ${i}`, inputTypes[i]!, input, values);
    for (const [i, input] of inputs.entries())
      this.#checkShape(`input ${i}`, inputTypes[i]!, input, values);
    const instance = this.#instance(values);
    const program = this.#program(instance);
    const uploads: DeviceTensor[] = [];
    try {
      const tensors = inputs.map((input, i) => {
        if (isTensor(input)) {
          uploads.push(this.device.upload(input));
          return uploads.at(-1)!;
        }
        const { dtype, shape } = instance.plan.recording.inputs[i]!;
        return isDeviceTensor(input) ? input : this.device.wrap!(input, dtype, shape);
      });
      return use(tensors, instance.plan, program);
    } finally {
      for (const upload of uploads) upload.destroy();
    }
  }

  /** Checks kind and dtype, and takes the values of named dimensions off the shape. */
  #checkInput(
    argument: string,
    type: TensorType,
    input: ModelInput,
    values: Record<string, number>,
  ): void {
    const { name } = this.graph;
    if (isDeviceTensor(input)) checkDeviceTensor(name, argument, input, this.device);
    else if (isTensor(input)) checkTensor(name, argument, input);
    else {
      if (!this.device.wrap || !isGPUBuffer(input))
        refuse(
          name,
          `${argument} must be a tensor${this.device.wrap ? " or a GPUBuffer" : ""}`,
          input,
        );
      return;
    }
    if (input.dtype !== type.dtype || input.shape.length !== type.shape.length)
      refuse(name, `${argument} must be ${type}`, typeOf(input));
    type.shape.forEach((dimension, axis) => {
      if (typeof dimension === "string" && this.#names.includes(dimension))
        values[dimension] ??= input.shape[axis]!;
    });
  }

  #checkShape(
    argument: string,
    type: TensorType,
    input: ModelInput,
    values: DimensionValues,
  ): void {
    const { name } = this.graph;
    if (isGPUBuffer(input)) {
      const unknown = type.names.find((dimension) => values[dimension] === undefined);
      if (unknown)
        refuse(
          name,
          `${argument} must be a tensor, since a GPUBuffer does not tell dimension ${describe(unknown)}`,
        );
      return;
    }
    const lengths = type.resolve(values);
    if (!sameShape(lengths, input.shape)) {
      const under = Object.entries(values).map(([name, value]) => `${name} = ${value}`);
      refuse(
        this.graph.name,
        `${argument} must be ${type}${under.length > 0 ? ` with ${under.join(", ")}` : ""}`,
        typeOf(input),
      );
    }
  }

  #checkOutputs(
    planned: Plan,
    inputs: readonly DeviceTensor[],
    outputs: readonly DeviceTensor[],
  ): void {
    const { name } = this.graph;
    const expected = planned.recording.outputs;
    if (!Array.isArray(outputs) || outputs.length !== expected.length)
      refuse(name, `outputs must be ${expected.length} device tensors`, outputs?.length ?? outputs);
    const taken = new Set(inputs.map(({ memory }) => memory));
    outputs.forEach((output, i) => {
      if (!isDeviceTensor(output)) refuse(name, `output ${i} must be a device tensor`, output);
      checkDeviceTensor(name, `output ${i}`, output, this.device);
      const { dtype, shape } = expected[i]!;
      if (output.dtype !== dtype || !sameShape(output.shape, shape))
        refuse(name, `output ${i} must be ${typeOf({ dtype, shape })}`, typeOf(output));
      if (taken.has(output.memory))
        refuse(name, `output ${i} must not share a buffer with an input or another output`);
      taken.add(output.memory);
    });
  }
}

function isGPUBuffer(value: unknown): value is GPUBuffer {
  return typeof value === "object" && value !== null && "mapAsync" in value;
}

function typeOf({ dtype, shape }: { readonly dtype: DType; readonly shape: Shape }): TensorType {
  return new TensorType(dtype, shape);
}
