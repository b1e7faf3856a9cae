import { type Device, type DeviceTensor, type TensorData, WebGPUDevice } from "../../src/index.ts";

/**
 * Makes all memory that a device hands out from now on, for outputs, temporaries and uploads, begin with
 * every bit set: NaN in every float dtype. What a kernel does not write then shows, and what it reads
 * beyond the end of a tensor.
 */
export function poisonAllocations(device: Device): void {
  if (device instanceof WebGPUDevice) {
    const { tensorPool, gpuDevice } = device;
    const acquire = tensorPool.acquire.bind(tensorPool);
    tensorPool.acquire = (operation, bytes) => {
      const buffer = acquire(operation, bytes);
      const poison = new Uint8Array(buffer.capacity).fill(0xff);
      gpuDevice.queue.writeBuffer(buffer.gpuBuffer, 0, poison);
      return buffer;
    };
    return;
  }
  const allocate = device.allocate.bind(device);
  device.allocate = (dtype, shape) => {
    const tensor = allocate(dtype, shape) as DeviceTensor & { readonly data: TensorData };
    const { buffer, byteOffset, byteLength } = tensor.data;
    new Uint8Array(buffer, byteOffset, byteLength).fill(0xff);
    return tensor;
  };
}
