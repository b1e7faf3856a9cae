import { DeviceLostError, refuse } from "../errors.ts";
import type { DType } from "../tensor/dtype.ts";
import type { Shape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Capabilities } from "./capabilities.ts";
import type { Access, AnyKernel, Kernel, Launch, Named } from "./kernel.ts";
import type { Program } from "./program.ts";

/** The kinds of device there are. */
export type DeviceKind = "webgpu" | "cpu";

/** A tensor that lives on a device until `destroy()`. */
export interface DeviceTensor extends Disposable {
  readonly device: Device;
  readonly shape: Shape;
  readonly dtype: DType;
  /** Whether `destroy()` was called. */
  readonly destroyed: boolean;
  /** Identifies the memory it lies in: tensors that share it have the same object here. @internal */
  readonly memory: object;
  /**
   * Copies the elements to the host, after the work enqueued so far. Any number may be in flight.
   * Rejects with `GPUOperationError` if the call that wrote the tensor failed, and with
   * `DeviceLostError` if the device is lost.
   */
  read(): Promise<Tensor>;
  /** Gives the memory back for reuse. Work already enqueued, reads included, is not disturbed. */
  destroy(): void;
}

/** A program made ready to run: everything that can be created once has been. */
export interface PreparedProgram {
  /** Enqueues the steps over the caller's tensors, which have been checked, and returns. */
  run(inputs: readonly DeviceTensor[], outputs: readonly DeviceTensor[]): void;
  /** Records the steps into the caller's work, on WebGPU. */
  encode?(
    target: GPUCommandEncoder | GPUComputePassEncoder,
    inputs: readonly DeviceTensor[],
    outputs: readonly DeviceTensor[],
  ): void;
  destroy(): void;
}

/** Where tensors live and kernels run. Made by `requestDevice`. */
export interface Device extends Disposable {
  readonly kind: DeviceKind;
  /** For people: adapter and driver, or what the CPU device runs on. */
  readonly description: string;
  /** What kernels may use; on a GPU only. */
  readonly capabilities?: Capabilities;
  /** Whether it is lost. A lost device does not come back; request a new one. */
  readonly lost: boolean;
  /** Copies a host tensor to the device. */
  upload(tensor: Tensor): DeviceTensor;
  /** A tensor with unspecified elements. */
  allocate(dtype: DType, shape: Shape): DeviceTensor;
  /** Makes a tensor of a caller's `GPUBuffer`, without a copy. On WebGPU. */
  wrap?(gpuBuffer: GPUBuffer, dtype: DType, shape: Shape, byteOffset?: number): DeviceTensor;
  /**
   * Runs one kernel over device tensors; returns at once.
   * @throws QkvError on tensors that the kernel does not take, before anything is enqueued.
   */
  enqueue<Tensors extends Record<string, Access>, Parameters extends object>(
    kernel: Kernel<Tensors, Parameters>,
    tensors: Named<Tensors, DeviceTensor>,
    ...parameters: object extends Parameters ? [parameters?: Parameters] : [parameters: Parameters]
  ): void;
  /** Frees the device's memory. A caller's own `GPUDevice` is left open. */
  destroy(): void;
  /** Compiles kernels ahead of time, in parallel. For the engine. @internal */
  compile(launches: readonly (readonly [AnyKernel, readonly string[], Launch])[]): Promise<void>;
  /** Creates what a program needs. For the engine. @internal */
  prepare(program: Program): PreparedProgram;
}

/** Whether `value` is a tensor of some device. */
export function isDeviceTensor(value: unknown): value is DeviceTensor {
  return typeof value === "object" && value !== null && "device" in value && "read" in value;
}

/** Throws unless `value` is a live tensor of `device`. */
export function checkDeviceTensor(
  operation: string,
  argument: string,
  value: unknown,
  device: Device,
): asserts value is DeviceTensor {
  if (!isDeviceTensor(value))
    refuse(operation, `${argument} must be a device tensor (see device.upload)`, value);
  if (value.device !== device)
    refuse(
      operation,
      `${argument} must be on the same device, got a tensor on ${value.device.description}`,
    );
  if (value.destroyed) refuse(operation, `${argument} must not be a released tensor`);
}

/** The error of a call on a lost device. */
export function lostError(reason: string): DeviceLostError {
  return new DeviceLostError(
    `the GPU device is lost (${reason}); request a new one with requestDevice()`,
  );
}
