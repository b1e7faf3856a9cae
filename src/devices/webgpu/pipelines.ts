import { GPUOperationError } from "../../errors.ts";
import { type AnyKernel, isRead, type Launch } from "../kernel.ts";
import { computeStage } from "./constants.ts";

/** WGSL that did not compile. */
export class CompilationError extends GPUOperationError {
  override name = "CompilationError";
  /** The kernel's name. */
  readonly kernel: string;
  readonly wgsl: string;
  /** The compiler's complaints, with 1-based positions in `wgsl`. */
  readonly messages: readonly {
    readonly line: number;
    readonly column: number;
    readonly text: string;
  }[];

  constructor(
    kernel: string,
    wgsl: string,
    messages: CompilationError["messages"],
    fallback: string,
  ) {
    const lines = messages.map(({ line, column, text }) => `\n  ${line}:${column} ${text}`);
    super(`${kernel}: its WGSL does not compile:${lines.join("") || ` ${fallback}`}`);
    this.kernel = kernel;
    this.wgsl = wgsl;
    this.messages = messages;
  }
}

interface CachedPipeline {
  readonly pipeline: GPUComputePipeline;
  /** Resolves to its error, if it has one; forgotten once it is known to have none. */
  failure?: Promise<GPUOperationError | undefined>;
}

/** Compiles WGSL once: pipelines are cached by their text and their bindings. */
export class PipelineCache {
  readonly #device: GPUDevice;
  readonly #layouts = new Map<string, GPUBindGroupLayout>();
  readonly #pipelines = new Map<string, CachedPipeline>();
  readonly #compiling = new Map<string, Promise<void>>();

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  /** How many pipelines there are. */
  get size(): number {
    return this.#pipelines.size;
  }

  /** The layout of group 0: the tensors named, then the uniforms if the kernel has any. */
  layout(kernel: AnyKernel, names: readonly string[]): GPUBindGroupLayout {
    const types: GPUBufferBindingType[] = names.map((name) =>
      isRead(kernel, name) ? "read-only-storage" : "storage",
    );
    if (kernel.uniforms) types.push("uniform");
    const key = types.join();
    let layout = this.#layouts.get(key);
    if (!layout) {
      const entries = types.map((type, binding) => ({
        binding,
        visibility: computeStage,
        buffer: { type },
      }));
      layout = this.#device.createBindGroupLayout({ label: key, entries });
      this.#layouts.set(key, layout);
    }
    return layout;
  }

  /** Compiles, unless it is compiled already. Rejects with {@link CompilationError}. */
  async compile(kernel: AnyKernel, names: readonly string[], launch: Launch): Promise<void> {
    const key = this.#key(kernel, names, launch);
    const known = this.#pipelines.get(key);
    if (known) {
      const error = await known.failure;
      if (error) throw error;
      return;
    }
    let compiling = this.#compiling.get(key);
    if (!compiling) {
      compiling = this.#compile(key, kernel, names, launch).finally(() =>
        this.#compiling.delete(key),
      );
      this.#compiling.set(key, compiling);
    }
    await compiling;
  }

  async #compile(
    key: string,
    kernel: AnyKernel,
    names: readonly string[],
    launch: Launch,
  ): Promise<void> {
    // The scope keeps a module's errors from the console; they are read from the module instead.
    this.#device.pushErrorScope("validation");
    const descriptor = this.#descriptor(kernel, names, launch);
    const scope = this.#device.popErrorScope();
    try {
      const pipeline = await this.#device.createComputePipelineAsync(descriptor);
      this.#pipelines.set(key, { pipeline });
    } catch (error) {
      throw await compilationError(kernel, launch, descriptor.compute.module, error);
    } finally {
      await scope.catch(() => null);
    }
  }

  /** The pipeline, compiled now if it was not before. */
  get(kernel: AnyKernel, names: readonly string[], launch: Launch): CachedPipeline {
    const key = this.#key(kernel, names, launch);
    const known = this.#pipelines.get(key);
    if (known) return known;
    this.#device.pushErrorScope("validation");
    const descriptor = this.#descriptor(kernel, names, launch);
    const pipeline = this.#device.createComputePipeline(descriptor);
    const failure = this.#device.popErrorScope().then(
      (error) =>
        error ? compilationError(kernel, launch, descriptor.compute.module, error) : undefined,
      () => undefined,
    );
    const cached: CachedPipeline = { pipeline, failure };
    failure.then((error) => error || delete cached.failure);
    this.#pipelines.set(key, cached);
    return cached;
  }

  #key(kernel: AnyKernel, names: readonly string[], launch: Launch): string {
    return `${this.layout(kernel, names).label}\n${launch.wgsl}`;
  }

  #descriptor(kernel: AnyKernel, names: readonly string[], launch: Launch) {
    return {
      label: kernel.name,
      layout: this.#device.createPipelineLayout({ bindGroupLayouts: [this.layout(kernel, names)] }),
      compute: {
        module: this.#device.createShaderModule({ label: kernel.name, code: launch.wgsl }),
        entryPoint: "main",
      },
    } satisfies GPUComputePipelineDescriptor;
  }
}

async function compilationError(
  kernel: AnyKernel,
  { wgsl }: Launch,
  module: GPUShaderModule,
  error: unknown,
): Promise<CompilationError> {
  const getInfo = async () => module.getCompilationInfo(); // not there in bun-webgpu, which throws
  const info = await getInfo().catch(() => undefined);
  const messages = (info?.messages ?? [])
    .filter(({ type }) => type === "error")
    .map(({ lineNum, linePos, message }) => ({
      line: lineNum,
      column: linePos,
      text: message.trim(), // naga's begins with an empty line
    }));
  const { message = error } = error as { message?: unknown };
  return new CompilationError(kernel.name, wgsl, messages, String(message));
}
