import { DeviceUnavailableError, refuse } from "../errors.ts";
import { type DType, type TensorData, tensorBytes } from "../tensor/dtype.ts";
import type { Shape } from "../tensor/shape.ts";
import type { Capabilities } from "./capabilities.ts";

/**
 * How a kernel uses a tensor; with `?`, a call may leave it out. `"write"` promises that every element
 * is written, so what the buffer held before does not matter.
 */
export type Access = "read" | "write" | "readwrite" | "read?" | "write?";

/** A tensor as a kernel's launch sees it: its type, not its elements. */
export interface TensorShape {
  readonly dtype: DType;
  readonly shape: Shape;
}

/** A tensor as a kernel on the CPU sees it. */
export interface HostView extends TensorShape {
  readonly data: TensorData;
}

/** Scalar types of a kernel's uniforms. */
export type UniformType = "u32" | "i32" | "f32";

/** What WebGPU needs to run a kernel once. */
export interface Launch {
  /**
   * The whole WGSL module, with an entry point `main`. In group 0, the tensors present are bindings 0, 1, …
   * in the order of `tensors`; the uniforms, if any, come next as one struct of scalars in their order.
   * Pipelines are cached by this text: it must depend on dtypes and flags, never on lengths.
   */
  readonly wgsl: string;
  /** Name of the variant and why it was chosen, for `explain()`. */
  readonly variant?: string;
  readonly workgroups: readonly [x: number, y: number, z: number];
  readonly uniforms?: Readonly<Record<string, number>>;
  /** Bytes of workgroup memory the module declares, for `explain()`. */
  readonly workgroupBytes?: number;
}

/**
 * What the CPU device needs to run a function of its WebAssembly module once. For kernels of our own.
 * @internal
 */
export interface WasmLaunch {
  /** The function: it gets the address of the job's parameters and of its thread's scratch memory. */
  readonly function: string;
  /** Tasks that threads take one after another. */
  readonly tasks: number;
  /** Multiply-adds, roughly: a small job is not worth waking threads for. */
  readonly work: number;
  /** Bytes of scratch memory a thread, or the module's function that tells. */
  readonly scratch: number | string;
  /**
   * The job's own parameters, in the module's order: 32-bit integers; the address of a tensor, 0 where
   * it is absent; or an address `shared` bytes into memory that all threads of the job share.
   */
  readonly words: readonly (number | { readonly tensor: string } | { readonly shared: number })[];
  /** Bytes of that shared memory, and how many of the first are zero when the job begins. */
  readonly sharedBytes?: number;
  readonly zeroBytes?: number;
}

/** The 32 bits of a float32, for {@link WasmLaunch.words}. @internal */
export function floatBits(value: number): number {
  return new Int32Array(new Float32Array([value]).buffer)[0]!;
}

/** The call that a kernel is to launch. */
export interface LaunchContext<Tensors extends Record<string, Access>, Parameters extends object> {
  readonly tensors: Named<Tensors, TensorShape>;
  readonly parameters: Parameters;
  readonly capabilities: Capabilities;
}

/** An object with a `T` for each tensor of a kernel; those with `?` may be missing. */
export type Named<Tensors extends Record<string, Access>, T> = {
  readonly [Name in keyof Tensors as Tensors[Name] extends `${string}?` ? never : Name]: T;
} & {
  readonly [Name in keyof Tensors as Tensors[Name] extends `${string}?` ? Name : never]?:
    | T
    | undefined;
};

/** A tensor that an op works on: a type, and a place in the plan. */
export interface PlannedTensor extends TensorShape {
  /** The same elements under another shape. Costs nothing. */
  reshape(shape: Shape): PlannedTensor;
}

/** Where kernels are put together: records them for a GPU, or runs them on the CPU. */
export interface KernelContext<Tensor extends TensorShape> {
  /** A temporary tensor, its elements unspecified. The planner shares its memory with others. */
  allocate(dtype: DType, shape: Shape): Tensor;
  /** Records (WebGPU) or runs (CPU) a kernel. */
  enqueue<Tensors extends Record<string, Access>, Parameters extends object>(
    kernel: Kernel<Tensors, Parameters>,
    tensors: Named<Tensors, Tensor>,
    ...parameters: object extends Parameters ? [parameters?: Parameters] : [parameters: Parameters]
  ): void;
}

/** The definition given to {@link defineKernel}. */
export interface KernelDefinition<
  Tensors extends Record<string, Access> = Record<string, Access>,
  Parameters extends object = object,
> {
  /** Shown in plans and errors. */
  readonly name: string;
  /** The tensors, in the order of their bindings, and how each is used. */
  readonly tensors: Tensors;
  /** The scalars of the uniform struct, in order. */
  readonly uniforms?: Readonly<Record<string, UniformType>>;
  /** Refuses (throws) what the kernel cannot take; runs on every device before anything is enqueued. */
  check?(tensors: Named<Tensors, TensorShape>, parameters: Parameters): void;
  /** Chooses WGSL, grid and uniforms. Pure: it is called when a graph is loaded, and by tests. */
  webgpu?(context: LaunchContext<Tensors, Parameters>): Launch;
  /** Runs on the CPU, reading and writing `tensors[…].data`. */
  cpu?(tensors: Named<Tensors, HostView>, parameters: Parameters): void;
  /**
   * Runs on the CPU in WebAssembly, in one launch or several, each when the one before it is done; where
   * it returns `undefined`, `cpu` does. Pure. @internal
   */
  wasm?(
    tensors: Named<Tensors, TensorShape>,
    parameters: Parameters,
    threads: number,
  ): WasmLaunch | readonly WasmLaunch[] | undefined;
  /**
   * Refuses elements that the kernel cannot take, of those tensors that are there before a program on the
   * CPU runs. @internal
   */
  checkElements?(known: Readonly<Record<string, HostView>>, parameters: Parameters): void;
}

/** A kernel: one GPU dispatch, or one function on the CPU. Made by {@link defineKernel}. */
export type Kernel<
  Tensors extends Record<string, Access> = Record<string, Access>,
  Parameters extends object = object,
> = KernelDefinition<Tensors, Parameters>;

/** Any kernel, whatever its tensors and parameters. */
// biome-ignore lint/suspicious/noExplicitAny: the one place where a kernel's types are forgotten
export type AnyKernel = Kernel<any, any>;

/**
 * Makes a kernel out of WGSL, a CPU function, or both. Enqueue it alone with `device.enqueue`, or from
 * an op with `ctx.enqueue`.
 *
 * @example
 * const addOne = defineKernel({
 *   name: "add_one",
 *   tensors: { input: "read", output: "write" },
 *   uniforms: { count: "u32" },
 *   webgpu: ({ tensors }) => ({
 *     wgsl: `
 *       @group(0) @binding(0) var<storage, read> input: array<f32>;
 *       @group(0) @binding(1) var<storage, read_write> output: array<f32>;
 *       struct Uniforms { count: u32 }
 *       @group(0) @binding(2) var<uniform> uniforms: Uniforms;
 *       @compute @workgroup_size(64)
 *       fn main(@builtin(global_invocation_id) id: vec3<u32>) {
 *         if (id.x < uniforms.count) { output[id.x] = input[id.x] + 1; }
 *       }`,
 *     workgroups: [Math.ceil(tensors.input.shape[0] / 64), 1, 1],
 *     uniforms: { count: tensors.input.shape[0] },
 *   }),
 *   cpu: ({ input, output }) => input.data.forEach((x, i) => { output.data[i] = x + 1; }),
 * });
 *
 * @throws QkvError if the definition lacks a name, tensors, or both implementations.
 */
export function defineKernel<
  const Tensors extends Record<string, Access>,
  Parameters extends object = object,
>(definition: KernelDefinition<Tensors, Parameters>): Kernel<Tensors, Parameters> {
  const { name, tensors, uniforms = {} } = definition;
  if (typeof name !== "string" || name === "")
    refuse("defineKernel", "name must be a string", name);
  const operation = `defineKernel ${JSON.stringify(name)}`;
  if (!tensors || Object.keys(tensors).length === 0)
    refuse(operation, "tensors must name at least one tensor", tensors);
  for (const [tensor, access] of Object.entries(tensors))
    if (!/^(read|write|readwrite)$|^(read|write)\?$/.test(access))
      refuse(
        operation,
        `tensors.${tensor} must be read, write, readwrite, read? or write?`,
        access,
      );
  for (const [uniform, type] of Object.entries(uniforms))
    if (!/^(u32|i32|f32)$/.test(type))
      refuse(operation, `uniforms.${uniform} must be u32, i32 or f32`, type);
  if (!definition.webgpu && !definition.cpu) refuse(operation, "webgpu or cpu must be given");
  return definition;
}

/** The names of the tensors that a call gives, in binding order. Throws on unknown and missing ones. */
export function presentTensors(
  kernel: AnyKernel,
  tensors: Readonly<Record<string, unknown>>,
): string[] {
  const known = Object.keys(kernel.tensors);
  for (const name of Object.keys(tensors))
    if (!known.includes(name))
      refuse(kernel.name, `tensors must be among ${known.join(", ")}`, name);
  return known.filter((name) => {
    const present = tensors[name] !== undefined;
    if (!present && !kernel.tensors[name].endsWith("?"))
      refuse(kernel.name, `tensor ${name} must be given`);
    return present;
  });
}

/** Refuses one buffer (told apart by `identity`) bound both to be read and to be written in one dispatch. */
export function checkAliasing<T>(
  kernel: AnyKernel,
  tensors: Readonly<Record<string, T | undefined>>,
  identity: (tensor: T) => unknown,
): void {
  const users = new Map<unknown, string>();
  for (const [name, tensor] of Object.entries(tensors)) {
    if (tensor === undefined) continue;
    const other = users.get(identity(tensor));
    if (other !== undefined && !(isRead(kernel, name) && isRead(kernel, other)))
      refuse(kernel.name, `${name} must not share a buffer with ${other}: one of them is written`);
    users.set(identity(tensor), name);
  }
}

/** Whether a kernel only reads the named tensor. */
export function isRead(kernel: AnyKernel, name: string): boolean {
  return kernel.tensors[name] === "read" || kernel.tensors[name] === "read?";
}

/** Checks a call of a kernel and asks the kernel for its launch. Throws before anything is created. */
export function planLaunch(
  kernel: AnyKernel,
  tensors: Readonly<Record<string, TensorShape | undefined>>,
  parameters: object,
  capabilities: Capabilities,
): Launch {
  const names = presentTensors(kernel, tensors);
  const present = Object.fromEntries(names.map((name) => [name, tensors[name] as TensorShape]));
  kernel.check?.(present, parameters);
  if (!kernel.webgpu)
    throw new DeviceUnavailableError(
      `${kernel.name}: it has no WebGPU implementation; run it on the CPU`,
    );
  if (names.length > capabilities.storageBuffers)
    refuse(
      kernel.name,
      `a kernel may bind the device's maxStorageBuffersPerShaderStage of ${capabilities.storageBuffers}`,
      names.length,
    );
  for (const name of names) {
    const { dtype, shape } = present[name]!;
    const bytes = tensorBytes(dtype, shape);
    if (bytes > capabilities.bindingBytes)
      refuse(
        kernel.name,
        `${name} may take the device's maxStorageBufferBindingSize of ${capabilities.bindingBytes} bytes`,
        bytes,
      );
  }
  const launch = kernel.webgpu({ tensors: present, parameters, capabilities });
  for (const name of Object.keys(kernel.uniforms ?? {}))
    if (typeof launch.uniforms?.[name] !== "number")
      refuse(kernel.name, `its launch must give the uniform ${name}`, launch.uniforms?.[name]);
  const limit = capabilities.workgroupsPerDimension;
  if (!launch.workgroups.every((count) => Number.isInteger(count) && count >= 1 && count <= limit))
    refuse(kernel.name, `workgroups must be integers from 1 to the device's limit of ${limit}`, [
      ...launch.workgroups,
    ]);
  if ((launch.workgroupBytes ?? 0) > capabilities.workgroupBytes)
    refuse(
      kernel.name,
      `workgroup memory is limited to ${capabilities.workgroupBytes} bytes on this device`,
      launch.workgroupBytes,
    );
  return launch;
}

/** Runs a kernel's CPU function, after its checks. */
export function runKernel(
  kernel: AnyKernel,
  tensors: Readonly<Record<string, HostView>>,
  parameters: object,
): void {
  if (!kernel.cpu)
    throw new DeviceUnavailableError(
      `${kernel.name}: it has no CPU implementation; run it on a WebGPU device`,
    );
  kernel.check?.(tensors, parameters);
  kernel.cpu(tensors, parameters);
}

/**
 * Spreads `count` workgroups over x and y where one axis cannot hold them. The kernel finds its number
 * as `y * gridWidth + x`, with the returned x as `gridWidth`, and returns where that is `count` or more.
 */
export function foldWorkgroups(count: number, capabilities: Capabilities): [x: number, y: number] {
  const rows = Math.ceil(count / capabilities.workgroupsPerDimension);
  return [Math.ceil(count / rows), rows];
}
