import { GPUOperationError, refuse } from "../../errors.ts";

/** A buffer of the pool, with what must be known of it beside the `GPUBuffer`. */
export interface PooledBuffer {
  readonly gpuBuffer: GPUBuffer;
  /** Counts up in the order of creation. */
  readonly number: number;
  /** Bytes of the buffer: at least what was asked for. */
  readonly capacity: number;
  /** Resolves to the error if the memory could not be had; forgotten once it is known that it could. */
  failure?: Promise<GPUOperationError | undefined> | undefined;
  /** Known to have no memory. */
  failed?: boolean;
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
    // The oldest that fits: the same calls then get the same buffers again, and find their bind groups.
    let oldest: PooledBuffer | undefined;
    for (const buffer of this.#free)
      if (buffer.capacity === capacity && !(oldest && oldest.number < buffer.number))
        oldest = buffer;
    if (!oldest) return this.#create(capacity);
    this.#take(oldest);
    return oldest;
  }

  #create(capacity: number): PooledBuffer {
    this.#created++;
    this.#device.pushErrorScope("out-of-memory");
    const gpuBuffer = this.#device.createBuffer({
      label: this.#label,
      size: capacity,
      usage: this.#usage,
    });
    const buffer: PooledBuffer = { gpuBuffer, capacity, number: this.#created };
    buffer.failure = this.#device.popErrorScope().then(
      (error) => {
        if (!error) {
          buffer.failure = undefined;
          return undefined;
        }
        buffer.failed = true;
        if (this.#free.includes(buffer)) this.#take(buffer);
        return new GPUOperationError(
          `allocate: no memory for ${capacity} bytes on the GPU (${error.message})`,
        );
      },
      () => undefined, // the device is lost; reads say so
    );
    return buffer;
  }

  #take(buffer: PooledBuffer): void {
    this.#free.splice(this.#free.indexOf(buffer), 1);
    this.#freeBytes -= buffer.capacity;
  }

  release(buffer: PooledBuffer): void {
    if (buffer.failed) return;
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
