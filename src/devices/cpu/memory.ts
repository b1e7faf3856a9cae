import { QkvError } from "../../errors.ts";
import { type DType, type TensorData, tensorBytes, viewData } from "../../tensor/dtype.ts";

/** A piece of a device's memory. */
export interface Block {
  /** Where it begins in the module's memory; 0 where there is no module. */
  readonly address: number;
  /**
   * Its first `length` elements of `dtype`, in place. Without threads, a view is good only until the
   * memory grows.
   */
  view(dtype: DType, length: number): TensorData;
  /** Gives it back. Does nothing the second time. */
  release(): void;
}

/** Where the tensors of a CPU device lie. */
export interface Memory {
  /** Bytes in use. */
  readonly used: number;
  /** @throws QkvError where there is no room. */
  allocate(bytes: number): Block;
}

/** Memory of the JavaScript engine: an `ArrayBuffer` a block. */
export class HeapMemory implements Memory {
  used = 0;

  allocate(bytes: number): Block {
    let buffer: ArrayBuffer | undefined;
    try {
      buffer = new ArrayBuffer(Math.ceil(bytes / 8) * 8);
    } catch (cause) {
      throw new QkvError(`CPU device: there is no memory for ${bytes.toLocaleString("en")} bytes`, {
        cause,
      });
    }
    this.used += bytes;
    return {
      address: 0,
      view(dtype, length) {
        if (!buffer) throw new QkvError("CPU device: memory was used after it was released");
        return viewData(dtype, buffer, 0, length);
      },
      release: () => {
        if (buffer) this.used -= bytes;
        buffer = undefined;
      },
    };
  }
}

export const pageBytes = 65_536;
/** What 32-bit addresses reach. */
export const mostPages = 65_536;
/** A cache line, so that no two threads write to one by accident. */
const alignment = 64;

interface Range {
  readonly start: number;
  readonly end: number;
}

/**
 * A WebAssembly module's memory. Free ranges are kept in the order of their addresses, neighbors merged;
 * a block takes the smallest range that holds it; the memory grows where none does, and never shrinks.
 */
export class ModuleMemory implements Memory {
  readonly memory: WebAssembly.Memory;
  used = 0;
  readonly #mostBytes: number;
  readonly #free: Range[];

  /**
   * @param start The first address to give out.
   * @param maximumPages What the memory was made with.
   */
  constructor(memory: WebAssembly.Memory, start: number, maximumPages: number) {
    this.memory = memory;
    this.#mostBytes = maximumPages * pageBytes;
    this.#free = [{ start, end: memory.buffer.byteLength }];
  }

  allocate(bytes: number): ModuleBlock {
    const size = Math.max(Math.ceil(bytes / alignment), 1) * alignment;
    let best = this.#bestFit(size);
    if (best < 0) {
      this.#grow(size);
      best = this.#bestFit(size);
    }
    const { start, end } = this.#free[best]!;
    if (end - start === size) this.#free.splice(best, 1);
    else this.#free[best] = { start: start + size, end };
    this.used += size;
    return new ModuleBlock(this, start, size);
  }

  /** Puts a block's range back among the free ones. */
  release({ address: start, bytes }: ModuleBlock): void {
    const free = this.#free;
    let low = 0;
    let high = free.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (free[middle]!.start < start) low = middle + 1;
      else high = middle;
    }
    let end = start + bytes;
    let from = start;
    let replaced = 0;
    if (free[low]?.start === end) {
      end = free[low]!.end;
      replaced++;
    }
    if (low > 0 && free[low - 1]!.end === start) {
      from = free[--low]!.start;
      replaced++;
    }
    free.splice(low, replaced, { start: from, end });
    this.used -= bytes;
  }

  #bestFit(size: number): number {
    let best = -1;
    let bestSize = Infinity;
    for (let i = 0; i < this.#free.length; i++) {
      const { start, end } = this.#free[i]!;
      if (end - start >= size && end - start < bestSize) {
        best = i;
        bestSize = end - start;
      }
    }
    return best;
  }

  /** Grows until a block of `size` fits, by a quarter at least, for growing is slow. */
  #grow(size: number): void {
    const length = this.memory.buffer.byteLength;
    const last = this.#free.at(-1);
    const needed = size - (last?.end === length ? last.end - last.start : 0);
    const room = this.#mostBytes - length;
    if (needed > room) this.#refuse(size);
    const generous = Math.min(Math.max(needed, length / 4), room);
    for (const bytes of new Set([generous, needed])) {
      try {
        this.memory.grow(Math.ceil(bytes / pageBytes));
      } catch {
        continue; // the system has less than the limit
      }
      const end = this.memory.buffer.byteLength;
      if (last?.end === length) this.#free[this.#free.length - 1] = { start: last.start, end };
      else this.#free.push({ start: length, end });
      return;
    }
    this.#refuse(size);
  }

  #refuse(size: number): never {
    const count = (bytes: number) => `${bytes.toLocaleString("en")} bytes`;
    if (size > mostPages * pageBytes)
      throw new QkvError(
        `CPU device: a tensor may take at most 4 GiB, all that WebAssembly's 32-bit addresses reach, got ${count(size)}`,
      );
    throw new QkvError(
      `CPU device: there is no room for ${count(size)}: ${this.used.toLocaleString("en")} of ${count(this.#mostBytes)} are in use; give tensors back with destroy()`,
    );
  }
}

/** A block of a module's memory. */
export class ModuleBlock implements Block {
  readonly address: number;
  readonly bytes: number;
  readonly #memory: ModuleMemory;
  #released = false;

  constructor(memory: ModuleMemory, address: number, bytes: number) {
    this.#memory = memory;
    this.address = address;
    this.bytes = bytes;
  }

  view(dtype: DType, length: number): TensorData {
    if (this.#released) throw new QkvError("CPU device: memory was used after it was released");
    return viewData(dtype, this.#memory.memory.buffer, this.address, length);
  }

  release(): void {
    if (this.#released) return;
    this.#released = true;
    this.#memory.release(this);
  }
}

/** {@link Memory.allocate} for a tensor. */
export function allocateTensor(memory: Memory, dtype: DType, shape: readonly number[]): Block {
  return memory.allocate(tensorBytes(dtype, shape));
}
