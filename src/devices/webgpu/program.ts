import { QkvError } from "../../errors.ts";
import { tensorBytes } from "../../tensor/dtype.ts";
import type { PreparedProgram } from "../device.ts";
import { presentTensors } from "../kernel.ts";
import {
  type BoundTensor,
  type FunctionStep,
  givenTensors,
  type KernelStep,
  type Program,
} from "../program.ts";
import type { PooledBuffer } from "./buffer-pool.ts";
import type { WebGPUDevice } from "./device.ts";
import type { Failure, WebGPUTensor } from "./tensor.ts";

/** How many sets of the caller's buffers keep their bind groups, in each program. */
const bindingsKept = 16;

interface PreparedStep {
  readonly label: string;
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
  readonly tensors: readonly BoundTensor[];
  readonly uniforms: { readonly offset: number; readonly size: number } | undefined;
  readonly workgroups: readonly [x: number, y: number, z: number];
}

/** The bind groups, one a step, for one set of the caller's buffers. */
interface Bindings {
  readonly tensors: readonly WebGPUTensor[];
  readonly groups: readonly GPUBindGroup[];
  /** Whether every buffer is the device's own, which no caller destroys or maps. */
  readonly owned: boolean;
  /** A call with them was valid. */
  proven: boolean;
}

/** A program on WebGPU: pipelines, uniforms and temporaries exist; bind groups are kept by buffer. */
export class WebGPUProgram implements PreparedProgram {
  readonly #device: WebGPUDevice;
  readonly #program: Program;
  readonly #steps: readonly PreparedStep[];
  /** The program's own buffers, by index. */
  readonly #own: readonly (PooledBuffer | undefined)[];
  readonly #uniforms: PooledBuffer | undefined;
  /** Most recently used first. */
  readonly #bindings: Bindings[] = [];
  /** Of pipelines and buffers made here; emptied once they are known to be good. */
  readonly #failures = new Set<Failure>();
  /** Recorded into a caller's encoder: the buffers must outlive a submit that is not seen here. */
  #encoded = false;

  constructor(device: WebGPUDevice, program: Program) {
    this.#device = device;
    this.#program = program;
    const uniforms = new UniformWriter(device.gpuDevice.limits.minUniformBufferOffsetAlignment);
    this.#steps = program.steps.map((step) => {
      const { kernel, tensors, launch } = gpuStep(step);
      const names = presentTensors(kernel, tensors);
      const { pipeline, failure } = device.pipelines.get(kernel, names, launch);
      this.#watch(failure);
      return {
        label: kernel.name,
        pipeline,
        layout: device.pipelines.layout(kernel, names),
        tensors: names.map((name) => tensors[name]!),
        uniforms: kernel.uniforms && uniforms.write(kernel.uniforms, launch.uniforms!),
        workgroups: launch.workgroups,
      };
    });
    if (uniforms.words.length > 0) {
      this.#uniforms = device.uniformPool.acquire(program.name, uniforms.words.length * 4);
      this.#watch(this.#uniforms.failure);
      device.write(this.#uniforms.gpuBuffer, new Uint32Array(uniforms.words));
    }
    this.#own = program.buffers.map(({ role, bytes }, index) => {
      if (role === "input" || role === "output") return undefined;
      const buffer = device.tensorPool.acquire(program.name, bytes);
      this.#watch(buffer.failure);
      const constant = program.constants.get(index);
      if (constant) device.write(buffer.gpuBuffer, constant.data);
      return buffer;
    });
  }

  #watch(failure: Failure | undefined): void {
    if (!failure) return;
    this.#failures.add(failure);
    failure.then((error) => error || this.#failures.delete(failure));
  }

  run(inputs: readonly WebGPUTensor[], outputs: readonly WebGPUTensor[]): void {
    this.#device.checkAlive();
    const { gpuDevice } = this.#device;
    const bindings = this.#kept(inputs, outputs);
    if (bindings?.proven) {
      // The same commands on the same buffers are as valid as before: an error scope, which costs as
      // much as recording does, would find nothing.
      this.#submit(bindings.groups);
      this.#settle(undefined, inputs, outputs);
      return;
    }
    gpuDevice.pushErrorScope("validation");
    const used = bindings ?? this.#createBindings(inputs, outputs);
    this.#submit(used.groups);
    const failure = this.#device.popFailure(this.#program.name);
    this.#settle(failure, inputs, outputs);
    if (used.owned) failure.then((error) => (used.proven = !error));
  }

  #submit(groups: readonly GPUBindGroup[]): void {
    const { gpuDevice } = this.#device;
    const encoder = gpuDevice.createCommandEncoder();
    const pass = encoder.beginComputePass();
    this.#dispatch(pass, groups);
    pass.end();
    gpuDevice.queue.submit([encoder.finish()]);
  }

  /** Records the steps into the caller's encoder (one compute pass) or compute pass. */
  encode(
    target: GPUCommandEncoder | GPUComputePassEncoder,
    inputs: readonly WebGPUTensor[],
    outputs: readonly WebGPUTensor[],
  ): void {
    this.#device.checkAlive();
    this.#encoded = true;
    let bindings = this.#kept(inputs, outputs);
    let failure: Failure | undefined;
    if (!bindings) {
      this.#device.gpuDevice.pushErrorScope("validation");
      bindings = this.#createBindings(inputs, outputs);
      failure = this.#device.popFailure(this.#program.name);
    }
    if ("beginComputePass" in target) {
      const pass = target.beginComputePass({ label: this.#program.name });
      this.#dispatch(pass, bindings.groups);
      pass.end();
    } else this.#dispatch(target, bindings.groups);
    this.#settle(failure, inputs, outputs);
  }

  #dispatch(pass: GPUComputePassEncoder, groups: readonly GPUBindGroup[]): void {
    const steps = this.#steps;
    for (let i = 0; i < steps.length; i++) {
      const { pipeline, workgroups } = steps[i]!;
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, groups[i]!);
      pass.dispatchWorkgroups(workgroups[0], workgroups[1], workgroups[2]);
    }
  }

  /** Marks what was written with the failures that it depends on. */
  #settle(
    failure: Failure | undefined,
    inputs: readonly WebGPUTensor[],
    outputs: readonly WebGPUTensor[],
  ): void {
    // The cause before what it entails.
    const all = [...this.#failures];
    if (failure) all.push(failure);
    for (const { failure: earlier } of inputs) if (earlier) all.unshift(earlier);
    if (all.length === 0) {
      for (const output of outputs) output.failure = undefined;
      return;
    }
    const first =
      all.length === 1 ? all[0]! : Promise.all(all).then((errors) => errors.find(Boolean));
    for (const output of outputs) {
      output.failure = first;
      first.then((error) => {
        if (!error && output.failure === first) output.failure = undefined;
      });
    }
  }

  /** The bindings made earlier for these buffers, if they are still kept. */
  #kept(inputs: readonly WebGPUTensor[], outputs: readonly WebGPUTensor[]): Bindings | undefined {
    const kept = this.#bindings;
    for (let i = 0; i < kept.length; i++) {
      const bindings = kept[i]!;
      if (!sameBuffers(bindings.tensors, inputs, outputs)) continue;
      if (i > 0) kept.unshift(...kept.splice(i, 1));
      return bindings;
    }
    return undefined;
  }

  #createBindings(inputs: readonly WebGPUTensor[], outputs: readonly WebGPUTensor[]): Bindings {
    const given = givenTensors(this.#program, inputs, outputs);
    const groups = this.#steps.map(({ label, layout, tensors, uniforms }) => {
      const resources: GPUBufferBinding[] = tensors.map(({ buffer, dtype, shape }) => ({
        buffer: this.#own[buffer]?.gpuBuffer ?? given.get(buffer)!.gpuBuffer,
        offset: given.get(buffer)?.byteOffset ?? 0,
        size: Math.ceil(tensorBytes(dtype, shape) / 4) * 4,
      }));
      if (uniforms) resources.push({ buffer: this.#uniforms!.gpuBuffer, ...uniforms });
      const entries = resources.map((resource, binding) => ({ binding, resource }));
      return this.#device.gpuDevice.createBindGroup({ label, layout, entries });
    });
    const tensors = [...inputs, ...outputs];
    const owned = tensors.every((tensor) => tensor.owned);
    const bindings = { tensors, groups, owned, proven: false };
    this.#bindings.unshift(bindings);
    if (this.#bindings.length > bindingsKept) this.#bindings.pop();
    return bindings;
  }

  destroy(): void {
    this.#bindings.length = 0;
    if (this.#encoded) return; // left to the garbage collector
    if (this.#uniforms) this.#device.uniformPool.release(this.#uniforms);
    for (const buffer of this.#own) if (buffer) this.#device.tensorPool.release(buffer);
  }
}

function gpuStep(step: KernelStep | FunctionStep) {
  if (step.kind !== "kernel" || !step.launch)
    throw new QkvError(`${step.op}: it was not recorded for WebGPU`);
  return { ...step, launch: step.launch };
}

function sameBuffers(
  bound: readonly WebGPUTensor[],
  inputs: readonly WebGPUTensor[],
  outputs: readonly WebGPUTensor[],
): boolean {
  for (let i = 0; i < bound.length; i++) {
    const tensor = i < inputs.length ? inputs[i]! : outputs[i - inputs.length]!;
    if (bound[i]!.gpuBuffer !== tensor.gpuBuffer || bound[i]!.byteOffset !== tensor.byteOffset)
      return false;
  }
  return true;
}

/** Lays the uniform structs of a program's steps out in one buffer. */
class UniformWriter {
  readonly words: number[] = [];
  readonly #alignment: number;
  readonly #scalar = new DataView(new ArrayBuffer(4));

  constructor(alignment: number) {
    this.#alignment = alignment;
  }

  write(
    types: Readonly<Record<string, string>>,
    values: Readonly<Record<string, number>>,
  ): { offset: number; size: number } {
    this.#pad(this.#alignment);
    const offset = this.words.length * 4;
    for (const [name, type] of Object.entries(types)) {
      const value = values[name]!;
      if (type === "f32") this.#scalar.setFloat32(0, value);
      else this.#scalar.setUint32(0, value); // wraps negative i32 to their bits
      this.words.push(this.#scalar.getUint32(0));
    }
    this.#pad(16);
    return { offset, size: this.words.length * 4 - offset };
  }

  #pad(alignment: number): void {
    while ((this.words.length * 4) % alignment !== 0) this.words.push(0);
  }
}
