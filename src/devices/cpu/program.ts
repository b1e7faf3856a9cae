import { DeviceUnavailableError } from "../../errors.ts";
import { elementCount } from "../../tensor/shape.ts";
import * as layout from "../../wasm/layout.ts";
import type { DeviceTensor, PreparedProgram } from "../device.ts";
import { type HostView, runKernel, type WasmLaunch } from "../kernel.ts";
import { type BoundTensor, givenTensors, type KernelStep, type Program } from "../program.ts";
import type { CPUDevice } from "./device.ts";
import type { Block } from "./memory.ts";
import { moduleFunctions } from "./module.ts";
import type { CPUTensor } from "./tensor.ts";

/** A step that the module runs: its job, written but for the addresses of the caller's tensors. */
interface ModuleStep {
  readonly launch: WasmLaunch;
  readonly function: number;
  readonly block: Block;
  /** Tasks taken, of each thread's share. */
  readonly counts: Block;
  /** Which words of the job take the address of which of the caller's buffers. */
  readonly addresses: readonly { readonly word: number; readonly buffer: number }[];
}

/** One call of a program: the memory of the caller's tensors, by buffer, as it was when it was enqueued. */
type Given = ReadonlyMap<number, Block>;

/** A program in the device's memory: temporaries, constants, and the jobs of its steps. */
export class CPUProgram implements PreparedProgram {
  readonly #device: CPUDevice;
  readonly #program: Program;
  /** The program's own memory, by buffer. */
  readonly #own: (Block | undefined)[] = [];
  readonly #steps: ((given: Given) => void | Promise<void>)[] = [];
  readonly #blocks: Block[] = [];
  /** Steps whose kernels have a look at elements. */
  readonly #checked: readonly KernelStep[];

  constructor(device: CPUDevice, program: Program) {
    this.#device = device;
    this.#program = program;
    this.#checked = program.steps.filter(
      (step): step is KernelStep =>
        step.kind === "kernel" && step.kernel.checkElements !== undefined,
    );
    try {
      program.buffers.forEach(({ role, bytes }, index) => {
        const constant = program.constants.get(index);
        if (!constant && role !== "temporary") return;
        const block = this.#allocate(bytes);
        this.#own[index] = block;
        if (!constant) return;
        const { data, dtype, shape } = constant;
        const count = elementCount(shape);
        block.view(dtype, count).set(data.subarray(0, count));
      });
      for (const step of program.steps) {
        if (step.kind === "function")
          this.#steps.push((given) => {
            const view = (tensor: BoundTensor) => this.#view(given, tensor);
            step.run(step.inputs.map(view), step.outputs.map(view));
          });
        else this.#steps.push(...this.#kernelSteps(step));
      }
    } catch (error) {
      this.destroy();
      throw error;
    }
  }

  run(inputs: readonly DeviceTensor[], outputs: readonly DeviceTensor[]): void {
    const device = this.#device;
    const read = inputs as readonly CPUTensor[];
    const written = outputs as readonly CPUTensor[];
    const tensors = givenTensors(this.#program, read, written);
    const given: Given = new Map([...tensors].map(([buffer, { block }]) => [buffer, block]));
    const atOnce = !device.queue.busy;
    if (atOnce) this.#checkElements(given);
    const failed = (error: unknown) => {
      const failure = error instanceof Error ? error : new Error(String(error));
      for (const tensor of written) tensor.failure = failure;
    };
    device.queue.add(() => {
      const failure = read.find((tensor) => tensor.failure)?.failure;
      if (failure) return failed(failure);
      for (const tensor of written) tensor.failure = undefined;
      try {
        if (!atOnce) this.#checkElements(given);
        const going = this.#runFrom(0, given);
        return going?.catch(failed);
      } catch (error) {
        failed(error);
        if (atOnce) throw error;
      }
    });
  }

  destroy(): void {
    for (const block of this.#blocks.splice(0)) this.#device.release(block);
  }

  #allocate(bytes: number): Block {
    const block = this.#device.memory.allocate(bytes);
    this.#blocks.push(block);
    return block;
  }

  #runFrom(first: number, given: Given): void | Promise<void> {
    for (let step = first; step < this.#steps.length; step++) {
      const going = this.#steps[step]!(given);
      if (going) return going.then(() => this.#runFrom(step + 1, given));
    }
  }

  #view(given: Given, { buffer, dtype, shape }: BoundTensor): HostView {
    const block = this.#own[buffer] ?? given.get(buffer)!;
    return { data: block.view(dtype, elementCount(shape)), dtype, shape };
  }

  #views(given: Given, { tensors }: KernelStep): Record<string, HostView> {
    return Object.fromEntries(
      Object.entries(tensors).map(([name, tensor]) => [name, this.#view(given, tensor)]),
    );
  }

  /** Lets kernels look at the elements that are there before the program runs. */
  #checkElements(given: Given): void {
    for (const { kernel, tensors, parameters } of this.#checked) {
      const known = Object.entries(tensors).filter(
        ([, { buffer }]) => given.has(buffer) || this.#program.constants.has(buffer),
      );
      kernel.checkElements!(
        Object.fromEntries(known.map(([name, tensor]) => [name, this.#view(given, tensor)])),
        parameters,
      );
    }
  }

  #kernelSteps(step: KernelStep): ((given: Given) => void | Promise<void>)[] {
    const { kernel, tensors, parameters } = step;
    const device = this.#device;
    if (!kernel.cpu)
      throw new DeviceUnavailableError(
        `${kernel.name}: it has no CPU implementation; run it on a WebGPU device`,
      );
    kernel.check?.(tensors, parameters);
    const launches = device.runsLaunches
      ? kernel.wasm?.(tensors, parameters, device.threads)
      : undefined;
    if (!launches) return [(given) => runKernel(kernel, this.#views(given, step), parameters)];
    return [launches].flat().map((launch) => {
      const compiled = this.#compile(step, launch);
      return (given) => this.#runModule(compiled, given);
    });
  }

  /** Writes a job into memory. */
  #compile({ tensors }: KernelStep, launch: WasmLaunch): ModuleStep {
    const device = this.#device;
    const start = layout.parameters / 4;
    const length = start + launch.words.length;
    const block = this.#allocate(4 * length);
    const counts = this.#allocate(layout.countStride * device.threads);
    const shared = launch.sharedBytes ? this.#allocate(launch.sharedBytes).address : 0;
    const words = device.words(block.address, length);
    words[layout.counts / 4] = counts.address;
    words[layout.tasks / 4] = launch.tasks;
    words[layout.threads / 4] = device.threads;
    const addresses: { word: number; buffer: number }[] = [];
    launch.words.forEach((value, i) => {
      const word = start + i;
      if (typeof value === "number") words[word] = value;
      else if ("shared" in value) words[word] = shared + value.shared;
      else {
        const buffer = tensors[value.tensor]?.buffer;
        const own = buffer === undefined ? undefined : this.#own[buffer];
        if (buffer === undefined) words[word] = 0;
        else if (own) words[word] = own.address;
        else addresses.push({ word, buffer });
      }
    });
    const { scratch } = launch;
    device.wantScratch(
      typeof scratch === "number" ? scratch : device.scratchBytes(scratch, block.address),
    );
    return {
      launch,
      function: moduleFunctions.indexOf(launch.function as never),
      block,
      counts,
      addresses,
    };
  }

  #runModule({ launch, function: index, block, counts, addresses }: ModuleStep, given: Given) {
    const device = this.#device;
    device.reserveScratch(); // which may move memory, and so comes first
    const words = device.words(block.address, layout.parameters / 4 + launch.words.length);
    for (const { word, buffer } of addresses) words[word] = given.get(buffer)!.address;
    const taken = device.words(counts.address, (layout.countStride / 4) * device.threads);
    taken.fill(0);
    if (launch.zeroBytes) this.#zero(words, launch);
    const { tasks } = launch;
    const { threads } = device;
    const shareStart = (share: number) => Math.floor((share * tasks) / threads);
    const hasTasks = () => {
      for (let share = 0; share < threads; share++) {
        const count = Atomics.load(taken, (share * layout.countStride) / 4);
        if (count < shareStart(share + 1) - shareStart(share)) return true;
      }
      return false;
    };
    return device.runJob({ function: index, address: block.address, hasTasks }, launch.work);
  }

  #zero(words: Int32Array, { words: declared, zeroBytes = 0 }: WasmLaunch): void {
    const at = declared.findIndex(
      (value) => typeof value === "object" && "shared" in value && value.shared === 0,
    );
    const address = words[layout.parameters / 4 + at]! >>> 0;
    this.#device.words(address, zeroBytes / 4).fill(0);
  }
}
