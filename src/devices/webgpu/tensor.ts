import type { GPUOperationError } from "../../errors.ts";
import { type DType, tensorBytes } from "../../tensor/dtype.ts";
import type { Shape } from "../../tensor/shape.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { DeviceTensor } from "../device.ts";
import type { PooledBuffer } from "./buffer-pool.ts";
import type { WebGPUDevice } from "./device.ts";

/** Resolves to the error of the call that wrote a tensor, or to `undefined`. Never rejects. */
export type Failure = Promise<GPUOperationError | undefined>;

/** A tensor in a `GPUBuffer`: the device's own, or a caller's that was wrapped. */
export class WebGPUTensor implements DeviceTensor {
  readonly device: WebGPUDevice;
  readonly dtype: DType;
  readonly shape: Shape;
  /** The buffer it lies in, for the caller's own WebGPU work. It may be longer than the tensor. */
  readonly gpuBuffer: GPUBuffer;
  /** Where in `gpuBuffer` it begins. */
  readonly byteOffset: number;
  /** Its length in bytes, rounded up to the 4 that WebGPU copies and binds by. */
  readonly byteLength: number;
  /** Set while it is not known whether the last call that wrote it succeeded. @internal */
  failure: Failure | undefined;
  readonly #pooled: PooledBuffer | undefined;
  #destroyed = false;

  /** @internal */
  constructor(
    device: WebGPUDevice,
    storage: PooledBuffer | GPUBuffer,
    dtype: DType,
    shape: Shape,
    byteOffset = 0,
  ) {
    this.device = device;
    this.dtype = dtype;
    this.shape = shape;
    this.byteOffset = byteOffset;
    this.byteLength = Math.ceil(tensorBytes(dtype, shape) / 4) * 4;
    if ("gpuBuffer" in storage) {
      this.#pooled = storage;
      this.gpuBuffer = storage.gpuBuffer;
      this.failure = storage.failure;
    } else this.gpuBuffer = storage;
  }

  /** @internal */
  get memory(): object {
    return this.gpuBuffer;
  }

  /** Whether the buffer is the device's, not a caller's. @internal */
  get owned(): boolean {
    return this.#pooled !== undefined;
  }

  get destroyed(): boolean {
    return this.#destroyed;
  }

  async read(): Promise<Tensor> {
    return this.device.read(this);
  }

  /** Gives a buffer of the device's own back to its pool; a caller's buffer stays the caller's. */
  destroy(): void {
    if (this.#destroyed) return;
    this.#destroyed = true;
    if (this.#pooled) this.device.release(this.#pooled);
  }

  [Symbol.dispose](): void {
    this.destroy();
  }
}
