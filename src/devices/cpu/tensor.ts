import { QkvError } from "../../errors.ts";
import type { DType, TensorData } from "../../tensor/dtype.ts";
import { elementCount, type Shape } from "../../tensor/shape.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { DeviceTensor } from "../device.ts";
import type { CPUDevice } from "./device.ts";
import type { Block } from "./memory.ts";

/** Gives back the memory of tensors that nobody can reach any more. */
const forgotten = new FinalizationRegistry<{ device: CPUDevice; block: Block }>(
  ({ device, block }) => device.release(block),
);

/** Keeps a tensor for as long as someone has a view of its elements. */
const viewed = new WeakMap<TensorData, CPUTensor>();

/** A tensor of the CPU device. */
export class CPUTensor implements DeviceTensor {
  readonly device: CPUDevice;
  readonly dtype: DType;
  readonly shape: Shape;
  /** How the call that wrote it failed, if it did. @internal */
  failure: Error | undefined;
  readonly #block: Block;
  #destroyed = false;

  /** @internal */
  constructor(device: CPUDevice, block: Block, dtype: DType, shape: Shape) {
    this.device = device;
    this.#block = block;
    this.dtype = dtype;
    this.shape = shape;
    forgotten.register(this, { device, block }, this);
  }

  /**
   * The elements, in place: writing to them writes the tensor. What calls wrote is there once `read()` of
   * it, or of a later result, has resolved. Ask again after other tensors were made: memory may have moved.
   */
  get data(): TensorData {
    const data = this.block.view(this.dtype, elementCount(this.shape));
    viewed.set(data, this);
    return data;
  }

  /** @internal */
  get block(): Block {
    if (this.#destroyed) throw new QkvError("CPU tensor: it must not be used after destroy()");
    return this.#block;
  }

  get destroyed(): boolean {
    return this.#destroyed;
  }

  /** @internal */
  get memory(): object {
    return this.#block;
  }

  async read(): Promise<Tensor> {
    const { block, device, dtype, shape } = this;
    return new Promise((resolve, reject) => {
      device.queue.add(() => {
        if (this.failure) reject(this.failure);
        else resolve({ data: block.view(dtype, elementCount(shape)).slice(), dtype, shape });
      });
    });
  }

  destroy(): void {
    if (this.#destroyed) return;
    this.#destroyed = true;
    forgotten.unregister(this);
    this.device.release(this.#block);
  }

  [Symbol.dispose](): void {
    this.destroy();
  }
}
