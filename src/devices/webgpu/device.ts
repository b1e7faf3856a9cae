import { type DeviceLostError, GPUOperationError, QkvError, refuse } from "../../errors.ts";
import {
  checkDType,
  type DType,
  type TensorData,
  tensorBytes,
  viewData,
} from "../../tensor/dtype.ts";
import { checkShape, elementCount, type Shape } from "../../tensor/shape.ts";
import { checkTensor, type Tensor } from "../../tensor/tensor.ts";
import type { Capabilities } from "../capabilities.ts";
import { checkDeviceTensor, type Device, type DeviceTensor, lostError } from "../device.ts";
import {
  type AnyKernel,
  checkAliasing,
  type Launch,
  planLaunch,
  presentTensors,
} from "../kernel.ts";
import type { BoundTensor, Program } from "../program.ts";
import { BufferPool, type PooledBuffer } from "./buffer-pool.ts";
import { readCapabilities } from "./capabilities.ts";
import { mapModeRead, tensorUsage, usage } from "./constants.ts";
import { PipelineCache } from "./pipelines.ts";
import { WebGPUProgram } from "./program.ts";
import { type Failure, WebGPUTensor } from "./tensor.ts";

/** A WebGPU device: the caller's own `GPUDevice`, or one that `requestDevice` made. */
export class WebGPUDevice implements Device {
  readonly kind = "webgpu";
  readonly description: string;
  readonly capabilities: Capabilities;
  /** The device behind it, for the caller's own WebGPU work. */
  readonly gpuDevice: GPUDevice;
  /** @internal */
  readonly tensorPool: BufferPool;
  /** @internal */
  readonly uniformPool: BufferPool;
  /** @internal */
  readonly pipelines: PipelineCache;
  readonly #stagingPool: BufferPool;
  readonly #ownsDevice: boolean;
  #lost: DeviceLostError | undefined;
  /** Of the reads in flight. */
  readonly #whenLost = new Set<(error: DeviceLostError) => void>();

  /**
   * @param gpuDevice A live device. It is destroyed with this object only if `ownsDevice`.
   * @param info Its adapter's info, where the device itself does not tell (`GPUDevice.adapterInfo`).
   */
  constructor(
    gpuDevice: GPUDevice,
    ownsDevice = false,
    info: GPUAdapterInfo = gpuDevice.adapterInfo,
  ) {
    this.gpuDevice = gpuDevice;
    this.capabilities = readCapabilities(gpuDevice, info);
    this.description = describeAdapter(info);
    this.tensorPool = new BufferPool(gpuDevice, tensorUsage, "qkv tensor");
    this.uniformPool = new BufferPool(
      gpuDevice,
      usage.uniform | usage.copyDestination,
      "qkv uniforms",
    );
    this.#stagingPool = new BufferPool(
      gpuDevice,
      usage.mapRead | usage.copyDestination,
      "qkv readback",
    );
    this.pipelines = new PipelineCache(gpuDevice);
    this.#ownsDevice = ownsDevice;
    gpuDevice.lost.then(({ message, reason }) => this.#lose(message || reason));
  }

  /** Buffers and pipelines created so far: a steady state creates none. */
  get created(): { readonly buffers: number; readonly pipelines: number } {
    const buffers = this.tensorPool.created + this.uniformPool.created + this.#stagingPool.created;
    return { buffers, pipelines: this.pipelines.size };
  }

  get lost(): boolean {
    return this.#lost !== undefined;
  }

  /** Throws {@link DeviceLostError} once the device is lost. @internal */
  checkAlive(): void {
    if (this.#lost) throw this.#lost;
  }

  upload(tensor: Tensor): WebGPUTensor {
    checkTensor("upload", "tensor", tensor);
    const result = this.allocate(tensor.dtype, tensor.shape);
    this.write(result.gpuBuffer, tensor.data.subarray(0, elementCount(tensor.shape)));
    return result;
  }

  allocate(dtype: DType, shape: Shape): WebGPUTensor {
    this.checkAlive();
    checkDType("allocate", dtype);
    checkShape("allocate", "shape", shape);
    const buffer = this.tensorPool.acquire(
      "allocate",
      Math.ceil(tensorBytes(dtype, shape) / 4) * 4,
    );
    return new WebGPUTensor(this, buffer, dtype, [...shape]);
  }

  /**
   * Makes a tensor of a caller's buffer, without a copy. It stays the caller's: `destroy()` of the
   * tensor leaves it open.
   *
   * @param gpuBuffer A buffer of this device with `STORAGE` usage (and `COPY_SRC`, to `read()` it).
   * @param byteOffset Where the tensor begins: a multiple of `minStorageBufferOffsetAlignment`.
   * @throws QkvError if the usage, the offset or the size does not fit.
   */
  wrap(gpuBuffer: GPUBuffer, dtype: DType, shape: Shape, byteOffset = 0): WebGPUTensor {
    this.checkAlive();
    checkDType("wrap", dtype);
    checkShape("wrap", "shape", shape);
    if ((gpuBuffer.usage & usage.storage) === 0)
      refuse("wrap", "gpuBuffer must have STORAGE usage", gpuBuffer.usage);
    const alignment = this.gpuDevice.limits.minStorageBufferOffsetAlignment;
    if (!Number.isInteger(byteOffset) || byteOffset < 0 || byteOffset % alignment !== 0)
      refuse(
        "wrap",
        `byteOffset must be a multiple of minStorageBufferOffsetAlignment, ${alignment}`,
        byteOffset,
      );
    const tensor = new WebGPUTensor(this, gpuBuffer, dtype, [...shape], byteOffset);
    if (byteOffset + tensor.byteLength > gpuBuffer.size)
      refuse(
        "wrap",
        `gpuBuffer must hold ${tensor.byteLength} bytes from offset ${byteOffset} on`,
        gpuBuffer.size,
      );
    return tensor;
  }

  enqueue(
    kernel: AnyKernel,
    tensors: Readonly<Record<string, DeviceTensor | undefined>>,
    parameters: object = {},
  ): void {
    this.checkAlive();
    const names = presentTensors(kernel, tensors);
    const given = names.map((name) => {
      checkDeviceTensor(kernel.name, name, tensors[name], this);
      return tensors[name] as WebGPUTensor;
    });
    checkAliasing(
      kernel,
      tensors as Readonly<Record<string, WebGPUTensor>>,
      ({ gpuBuffer }) => gpuBuffer,
    );
    const launch = planLaunch(kernel, tensors, parameters, this.capabilities);
    const bound = given.map(({ dtype, shape }, buffer): BoundTensor => ({ buffer, dtype, shape }));
    const uses = (pattern: RegExp) =>
      names.flatMap((name, i) => (pattern.test(kernel.tensors[name]) ? [i] : []));
    const [read, written] = [uses(/^read/), uses(/write/)];
    const program = this.prepare({
      name: kernel.name,
      buffers: given.map(({ byteLength }) => ({ role: "output", bytes: byteLength })),
      steps: [
        {
          kind: "kernel",
          op: kernel.name,
          kernel,
          tensors: Object.fromEntries(names.map((name, i) => [name, bound[i]!])),
          parameters,
          launch,
        },
      ],
      inputs: read.map((i) => bound[i]!),
      outputs: written.map((i) => bound[i]!),
      constants: new Map(),
    });
    program.run(
      read.map((i) => given[i]!),
      written.map((i) => given[i]!),
    );
    program.destroy();
  }

  async compile(
    launches: readonly (readonly [AnyKernel, readonly string[], Launch])[],
  ): Promise<void> {
    this.checkAlive();
    await Promise.all(launches.map((launch) => this.pipelines.compile(...launch)));
  }

  prepare(program: Program): WebGPUProgram {
    this.checkAlive();
    return new WebGPUProgram(this, program);
  }

  /** Writes host data to the start of a buffer, ordered with the queue. @internal */
  write(gpuBuffer: GPUBuffer, data: TensorData | Uint32Array): void {
    // As bytes, since some implementations know only some typed arrays; and by multiples of 4.
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    const whole = bytes.length - (bytes.length % 4);
    if (whole > 0) this.gpuDevice.queue.writeBuffer(gpuBuffer, 0, bytes, 0, whole);
    if (whole === bytes.length) return;
    const rest = new Uint8Array(4);
    rest.set(bytes.subarray(whole));
    this.gpuDevice.queue.writeBuffer(gpuBuffer, whole, rest);
  }

  /** @internal */
  async read({
    gpuBuffer,
    byteOffset,
    byteLength,
    dtype,
    shape,
    destroyed,
    failure,
  }: WebGPUTensor): Promise<Tensor> {
    this.checkAlive();
    if (destroyed) throw new QkvError("read: the tensor must not be a released tensor");
    // Everything up to the map is enqueued before the first await, so that a destroy() right after
    // read() is harmless.
    const staging = this.#stagingPool.acquire("read", byteLength);
    this.gpuDevice.pushErrorScope("validation");
    const encoder = this.gpuDevice.createCommandEncoder();
    encoder.copyBufferToBuffer(gpuBuffer, byteOffset, staging.gpuBuffer, 0, byteLength);
    this.gpuDevice.queue.submit([encoder.finish()]);
    const copyFailure = this.popFailure("read");
    const mapped = staging.gpuBuffer.mapAsync(mapModeRead, 0, byteLength).then(
      () => undefined,
      (error: unknown) => error ?? new Error("mapAsync failed"),
    );
    const failed = await new Promise<unknown>((resolve) => {
      this.#whenLost.add(resolve);
      Promise.all([failure, staging.failure, copyFailure, mapped]).then((errors) => {
        const fail = () => {
          this.#whenLost.delete(resolve);
          resolve(errors.find(Boolean));
        };
        // A map fails with the device, of whose loss some implementations tell a moment later.
        if (errors[3] && !errors.slice(0, 3).some(Boolean)) setTimeout(fail, 1000);
        else fail();
      });
    });
    const error = this.#lost ?? failed;
    if (error) {
      staging.gpuBuffer.destroy();
      throw error instanceof Error ? error : new GPUOperationError(String(error));
    }
    const copy = staging.gpuBuffer.getMappedRange(0, byteLength).slice(0);
    staging.gpuBuffer.unmap();
    this.#stagingPool.release(staging);
    return { data: viewData(dtype, copy, 0, elementCount(shape)), dtype, shape };
  }

  /** Closes the innermost error scope. @internal */
  popFailure(operation: string): Failure {
    return this.gpuDevice.popErrorScope().then(
      (error) => (error ? new GPUOperationError(`${operation}: ${error.message}`) : undefined),
      () => undefined, // the device is lost; reads say so
    );
  }

  /** @internal */
  release(buffer: PooledBuffer): void {
    this.tensorPool.release(buffer);
  }

  #lose(reason: string): void {
    this.#lost ??= lostError(reason);
    for (const fail of this.#whenLost) fail(this.#lost);
  }

  destroy(): void {
    if (this.#ownsDevice) {
      this.#lose("destroyed");
      this.gpuDevice.destroy();
    } else
      for (const pool of [this.tensorPool, this.uniformPool, this.#stagingPool]) pool.destroy();
  }

  [Symbol.dispose](): void {
    this.destroy();
  }
}

function describeAdapter(info: GPUAdapterInfo | undefined): string {
  const { vendor = "", architecture = "", device = "", description = "" } = info ?? {};
  return `WebGPU: ${[description || device, [vendor, architecture].filter(Boolean).join(" ")].filter(Boolean).join(", ") || "an unnamed adapter"}`;
}
