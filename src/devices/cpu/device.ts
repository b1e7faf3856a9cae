import { QkvError } from "../../errors.ts";
import { allocateData, type DType, type TensorData, viewData } from "../../tensor/dtype.ts";
import { checkShape, elementCount, type Shape } from "../../tensor/shape.ts";
import { checkTensor, type Tensor } from "../../tensor/tensor.ts";
import {
  checkDeviceTensor,
  type Device,
  type DeviceTensor,
  type PreparedProgram,
} from "../device.ts";
import { type AnyKernel, type HostView, presentTensors, runKernel } from "../kernel.ts";
import { type BoundTensor, givenTensors, type Program } from "../program.ts";

/** A tensor of the CPU device: a typed array. */
export class CPUTensor implements DeviceTensor {
  readonly device: CPUDevice;
  readonly dtype: DType;
  readonly shape: Shape;
  #data: TensorData | undefined;

  constructor(device: CPUDevice, data: TensorData, dtype: DType, shape: Shape) {
    this.device = device;
    this.#data = data;
    this.dtype = dtype;
    this.shape = shape;
  }

  /** The elements, in place. */
  get data(): TensorData {
    if (!this.#data) throw new QkvError("CPU tensor: it must not be used after destroy()");
    return this.#data;
  }

  get destroyed(): boolean {
    return this.#data === undefined;
  }

  get memory(): object {
    return this.data;
  }

  async read(): Promise<Tensor> {
    return { data: this.data.slice(), dtype: this.dtype, shape: this.shape };
  }

  destroy(): void {
    this.#data = undefined;
  }

  [Symbol.dispose](): void {
    this.destroy();
  }
}

/** The CPU, in plain TypeScript. Work is done when a call returns. */
export class CPUDevice implements Device {
  readonly kind = "cpu";
  readonly description = "CPU (TypeScript)";
  readonly lost = false;

  upload(tensor: Tensor): CPUTensor {
    checkTensor("upload", "tensor", tensor);
    return new CPUTensor(this, tensor.data.slice(0, elementCount(tensor.shape)), tensor.dtype, [
      ...tensor.shape,
    ]);
  }

  allocate(dtype: DType, shape: Shape): CPUTensor {
    checkShape("allocate", "shape", shape);
    return new CPUTensor(this, allocateData(dtype, elementCount(shape)), dtype, [...shape]);
  }

  enqueue(
    kernel: AnyKernel,
    tensors: Readonly<Record<string, DeviceTensor | undefined>>,
    parameters: object = {},
  ): void {
    for (const name of presentTensors(kernel, tensors))
      checkDeviceTensor(kernel.name, name, tensors[name]!, this);
    runKernel(kernel, tensors as Readonly<Record<string, CPUTensor>>, parameters);
  }

  async compile(): Promise<void> {}

  prepare(program: Program): PreparedProgram {
    return new CPUProgram(program);
  }

  destroy(): void {}

  [Symbol.dispose](): void {}
}

class CPUProgram implements PreparedProgram {
  readonly #program: Program;
  /** One store for each buffer of the program's own; typed views of it are made as steps need them. */
  readonly #own: (ArrayBufferLike | undefined)[];

  constructor(program: Program) {
    this.#program = program;
    this.#own = program.buffers.map(({ role, bytes }, index) => {
      const constant = program.constants.get(index);
      if (constant) {
        const { buffer, byteOffset, byteLength } = constant.data;
        return buffer.slice(byteOffset, byteOffset + byteLength);
      }
      return role === "temporary" ? new ArrayBuffer(Math.ceil(bytes / 8) * 8) : undefined;
    });
  }

  run(inputs: readonly DeviceTensor[], outputs: readonly DeviceTensor[]): void {
    const given = givenTensors(this.#program, inputs as CPUTensor[], outputs as CPUTensor[]);
    const view = ({ buffer, dtype, shape }: BoundTensor): HostView => {
      const own = this.#own[buffer];
      const data = own ? viewData(dtype, own, 0, elementCount(shape)) : given.get(buffer)!.data;
      return { data, dtype, shape };
    };
    for (const step of this.#program.steps) {
      if (step.kind === "function") step.run(step.inputs.map(view), step.outputs.map(view));
      else {
        const tensors = Object.fromEntries(
          Object.entries(step.tensors).map(([name, tensor]) => [name, view(tensor)]),
        );
        runKernel(step.kernel, tensors, step.parameters);
      }
    }
  }

  destroy(): void {
    this.#own.fill(undefined);
  }
}
