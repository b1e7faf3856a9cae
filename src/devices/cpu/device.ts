import { QkvError, refuse } from "../../errors.ts";
import { checkDType, type DType, tensorBytes } from "../../tensor/dtype.ts";
import { checkShape, elementCount, type Shape } from "../../tensor/shape.ts";
import { checkTensor, type Tensor } from "../../tensor/tensor.ts";
import {
  checkDeviceTensor,
  type Device,
  type DeviceTensor,
  type PreparedProgram,
} from "../device.ts";
import { type AnyKernel, checkAliasing, presentTensors } from "../kernel.ts";
import type { Program } from "../program.ts";
import {
  type Block,
  HeapMemory,
  type Memory,
  ModuleMemory,
  mostPages,
  pageBytes,
} from "./memory.ts";
import {
  type CPUBuild,
  cpuBuilds,
  type LoadedModule,
  loadModule,
  moduleFunctions,
} from "./module.ts";
import { CPUProgram } from "./program.ts";
import { Queue } from "./queue.ts";
import { CPUTensor } from "./tensor.ts";
import { type Job, mayWait, ThreadPool, threadStarter } from "./threads.ts";

export { CPUTensor } from "./tensor.ts";

/** Options of the CPU device. */
export interface CPUOptions {
  /**
   * Threads that compute; the calling one is among them, unless it is a page's main thread. More than one
   * needs shared memory: Node, Deno, Bun, or a page that is cross-origin isolated. Elsewhere there is one.
   * Default: as many as the processor has cores, 8 at most.
   */
  readonly threads?: number | undefined;
}

/** What tests may choose too. */
export interface CPUTestOptions extends CPUOptions {
  /** The only build to use. Default: the fastest that this engine takes. */
  readonly build?: CPUBuild | undefined;
  /** Whether the calling thread computes too. Default: if it may sleep. */
  readonly participates?: boolean | undefined;
  /** The most memory that the device may have. Default: 4 GiB. */
  readonly maximumBytes?: number | undefined;
}

/** The most threads by default: attention of the sizes that a CPU is good for keeps no more busy. */
const defaultThreads = 8;
/** Jobs of less work (multiply-adds, roughly) run on the calling thread: waking others takes as long. */
const threadedWork = 400_000;
const initialPages = 32;
/** Below lie the threads' control words and, from 1024 on, the module's constants. */
const firstAddress = 2048;

/** The module of a device, and what runs it. */
interface Kernels extends LoadedModule {
  readonly exports: Readonly<
    Record<string, (job: number, scratch: number, thread?: number) => number>
  >;
  readonly memory: ModuleMemory;
  readonly pool: ThreadPool | undefined;
}

/**
 * The CPU: kernels in WebAssembly, on several threads where there is shared memory; in plain TypeScript where
 * there is no WebAssembly with SIMD. Made by `requestDevice`.
 */
export class CPUDevice implements Device {
  readonly kind = "cpu";
  readonly description: string;
  readonly lost = false;
  /** Which kernels it runs. */
  readonly build: CPUBuild;
  /** The threads that compute. */
  readonly threads: number;
  /** @internal */
  readonly queue = new Queue();
  /** @internal */
  readonly memory: Memory;
  readonly #kernels: Kernels | undefined;
  #scratch: Block | undefined;
  #scratchStride = 0;
  #scratchWanted = 0;

  private constructor(kernels: Kernels | undefined, threads: number) {
    this.#kernels = kernels;
    this.build = kernels?.build ?? "typescript";
    this.threads = threads;
    this.memory = kernels?.memory ?? new HeapMemory();
    const simd = this.build === "relaxed" ? "relaxed SIMD" : "SIMD";
    this.description = kernels
      ? `CPU (WebAssembly, ${simd}, ${threads} ${threads === 1 ? "thread" : "threads"})`
      : "CPU (TypeScript)";
  }

  /** @internal */
  static async open({
    threads = processors(),
    build,
    participates = mayWait(),
    maximumBytes = mostPages * pageBytes,
  }: CPUTestOptions = {}): Promise<CPUDevice> {
    if (!Number.isSafeInteger(threads) || threads < 1 || threads > 128)
      refuse("requestDevice", "threads must be an integer from 1 to 128", threads);
    const start = threads > 1 ? threadStarter() : undefined;
    const shared = start !== undefined;
    const loaded = await loadModule(build ? [build] : cpuBuilds, shared);
    if (!loaded) {
      if (build && build !== "typescript")
        throw new QkvError(`requestDevice: this engine does not take the CPU's ${build} build`);
      return new CPUDevice(undefined, 1);
    }
    const { module } = loaded;
    const { memory, pages } = createMemory(shared, Math.floor(maximumBytes / pageBytes));
    const instance = await WebAssembly.instantiate(module, { env: { memory } });
    const exports = instance.exports as unknown as Kernels["exports"];
    const pool = start
      ? new ThreadPool({
          module,
          memory,
          functions: moduleFunctions,
          calls: moduleFunctions.map((name) => exports[name]!),
          threads,
          participates,
          start,
        })
      : undefined;
    return new CPUDevice(
      {
        ...loaded,
        exports,
        memory: new ModuleMemory(memory, firstAddress, pages),
        pool,
      },
      start ? threads : 1,
    );
  }

  upload(tensor: Tensor): CPUTensor {
    checkTensor("upload", "tensor", tensor);
    const { dtype, shape } = tensor;
    const count = elementCount(shape);
    // A view of this memory would be lost if the allocation had it grow.
    const inMemory = tensor.data.buffer === this.#kernels?.memory.memory.buffer;
    const data = inMemory ? tensor.data.slice() : tensor.data;
    const uploaded = this.allocate(dtype, shape);
    uploaded.block.view(dtype, count).set(data.length === count ? data : data.subarray(0, count));
    return uploaded;
  }

  allocate(dtype: DType, shape: Shape): CPUTensor {
    checkDType("allocate", dtype);
    checkShape("allocate", "shape", shape);
    return new CPUTensor(this, this.memory.allocate(tensorBytes(dtype, shape)), dtype, [...shape]);
  }

  enqueue(
    kernel: AnyKernel,
    tensors: Readonly<Record<string, DeviceTensor | undefined>>,
    parameters: object = {},
  ): void {
    const names = presentTensors(kernel, tensors);
    for (const name of names) checkDeviceTensor(kernel.name, name, tensors[name], this);
    checkAliasing(kernel, tensors, ({ memory }) => memory);
    const given = names.map((name) => tensors[name] as CPUTensor);
    const bound = given.map(({ dtype, shape }, buffer) => ({ buffer, dtype, shape }));
    const written = names.flatMap((name, i) => (/write/.test(kernel.tensors[name]) ? [i] : []));
    const program = new CPUProgram(this, {
      name: kernel.name,
      buffers: bound.map(({ dtype, shape }) => ({
        role: "input",
        bytes: tensorBytes(dtype, shape),
      })),
      steps: [
        {
          kind: "kernel",
          op: kernel.name,
          kernel,
          tensors: Object.fromEntries(names.map((name, i) => [name, bound[i]!])),
          parameters,
        },
      ],
      inputs: bound,
      outputs: written.map((i) => bound[i]!),
      constants: new Map(),
    });
    try {
      program.run(
        given,
        written.map((i) => given[i]!),
      );
    } finally {
      program.destroy();
    }
  }

  async compile(): Promise<void> {}

  prepare(program: Program): PreparedProgram {
    return new CPUProgram(this, program);
  }

  destroy(): void {
    void this.#kernels?.pool?.destroy();
  }

  [Symbol.dispose](): void {
    this.destroy();
  }

  /** Gives memory back once the work enqueued so far is done. @internal */
  release(block: Block): void {
    this.queue.add(() => block.release());
  }

  /** Whether the device has a module that runs launches. @internal */
  get runsLaunches(): boolean {
    return this.#kernels !== undefined;
  }

  /** Memory words, for writing jobs. Good until something is allocated. @internal */
  words(address: number, count: number): Int32Array {
    return new Int32Array(this.#kernels!.memory.memory.buffer, address, count);
  }

  /** Bytes of scratch memory that the module's function `name` wants for a job. @internal */
  scratchBytes(name: string, job: number): number {
    return this.#kernels!.exports[name]!(job, 0) >>> 0;
  }

  /** Has {@link reserveScratch} give every thread at least `bytes`. @internal */
  wantScratch(bytes: number): void {
    this.#scratchWanted = Math.max(this.#scratchWanted, Math.ceil(bytes / 64) * 64 + 64);
    if (!this.queue.busy) this.reserveScratch();
  }

  /** Gives threads the scratch memory that jobs want. Nothing may be running. @internal */
  reserveScratch(): void {
    if (this.#scratchWanted <= this.#scratchStride) return;
    this.#scratch?.release();
    this.#scratchStride = 0;
    this.#scratch = this.memory.allocate(this.#scratchWanted * this.threads);
    this.#scratchStride = this.#scratchWanted;
  }

  /**
   * Runs a job; see {@link ThreadPool.run}.
   *
   * @internal
   */
  runJob(job: Pick<Job, "function" | "address" | "hasTasks">, work: number): void | Promise<void> {
    const { exports, pool } = this.#kernels!;
    const scratch = this.#scratch?.address ?? 0;
    if (pool && work >= threadedWork)
      return pool.run({ ...job, scratch, scratchStride: this.#scratchStride });
    exports[moduleFunctions[job.function]!]!(job.address, scratch, 0);
  }

  /** For tests. @internal */
  get pool(): ThreadPool | undefined {
    return this.#kernels?.pool;
  }
}

/** The threads to use where nobody says. */
function processors(): number {
  const { process, navigator } = globalThis as {
    process?: NodeJS.Process;
    navigator?: { hardwareConcurrency?: number };
  };
  const cores =
    process?.getBuiltinModule?.("node:os").availableParallelism() ??
    navigator?.hardwareConcurrency ??
    1;
  return Math.max(Math.min(cores, defaultThreads), 1);
}

/** Memory of at most `pages`, or of fewer where the system has no room for so many addresses. */
function createMemory(
  shared: boolean,
  pages: number,
): { readonly memory: WebAssembly.Memory; readonly pages: number } {
  const initial = Math.min(initialPages, pages);
  for (let maximum = pages; ; maximum = Math.floor(maximum / 2))
    try {
      return { memory: new WebAssembly.Memory({ initial, maximum, shared }), pages: maximum };
    } catch (error) {
      if (maximum / 2 < initial) throw error;
    }
}
