import { GPUOperationError, refuse } from "../../errors.ts";

/** A buffer of the pool, with what must be known of it beside the `GPUBuffer`. */
export interface PooledBuffer {
  readonly gpuBuffer: GPUBuffer;
  /** Bytes of the buffer: at least what was asked for. */
  readonly capacity: number;
  /** Resolves to the error if the memory could not be had; forgotten once it is known that it could. */
  failure?: Promise<GPUOperationError | undefined> | undefined;
}

/** Free buffers are kept up to this many bytes, the most recently used ones. */
const freeBytesKept = 256 * 2 ** 20;

/**
 * Rounds up to one of four sizes an octave, so that tensors of changing lengths (a growing key/value
 * cache) find buffers to reuse, at a quarter of waste at most.
 */
function capacityFor(bytes: number, maximum: number): number {
  if (bytes <= 256) return 256;
  const step = 2 ** (Math.floor(Math.log2(bytes - 1)) - 2);
  return Math.min(Math.ceil(bytes / step) * step, Math.max(maximum - (maximum % 4), bytes));
}

/**
 * Hands out `GPUBuffer`s of one usage and takes them back. A buffer may be handed out again while work
 * on it is still queued: the queue runs in order, so the next user's writes come after.
 */
export class BufferPool {
  readonly #device: GPUDevice;
  readonly #usage: GPUBufferUsageFlags;
  readonly #label: string;
  /** Free buffers, least recently released first. */
  readonly #free: PooledBuffer[] = [];
  #freeBytes = 0;
  #created = 0;

  constructor(device: GPUDevice, usage: GPUBufferUsageFlags, label: string) {
    this.#device = device;
    this.#usage = usage;
    this.#label = label;
  }

  /** How many buffers were ever created. */
  get created(): number {
    return this.#created;
  }

  /** A buffer of `bytes` or more, its content unspecified. */
  acquire(operation: string, bytes: number): PooledBuffer {
    const limit = this.#device.limits.maxBufferSize;
    if (bytes > limit)
      refuse(operation, `a tensor may take the device's maxBufferSize of ${limit} bytes`, bytes);
    const capacity = capacityFor(bytes, limit);
    const index = this.#free.findLastIndex((buffer) => buffer.capacity === capacity);
    if (index >= 0) {
      const [buffer] = this.#free.splice(index, 1);
      this.#freeBytes -= capacity;
      return buffer!;
    }
    return this.#create(capacity);
  }

  #create(capacity: number): PooledBuffer {
    this.#created++;
    this.#device.pushErrorScope("out-of-memory");
    const gpuBuffer = this.#device.createBuffer({
      label: this.#label,
      size: capacity,
      usage: this.#usage,
    });
    const buffer: PooledBuffer = { gpuBuffer, capacity };
    buffer.failure = this.#device.popErrorScope().then(
      (error) => {
        if (!error) {
          buffer.failure = undefined;
          return undefined;
        }
        return new GPUOperationError(
          `allocate: no memory for ${capacity} bytes on the GPU (${error.message})`,
        );
      },
      () => undefined, // the device is lost; reads say so
    );
    return buffer;
  }

  release(buffer: PooledBuffer): void {
    this.#free.push(buffer);
    this.#freeBytes += buffer.capacity;
    while (this.#freeBytes > freeBytesKept) {
      const oldest = this.#free.shift()!;
      this.#freeBytes -= oldest.capacity;
      oldest.gpuBuffer.destroy();
    }
  }

  /** Destroys the free buffers. */
  destroy(): void {
    for (const { gpuBuffer } of this.#free.splice(0)) gpuBuffer.destroy();
    this.#freeBytes = 0;
  }
}
