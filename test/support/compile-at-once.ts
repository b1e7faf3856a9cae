import { type Device, WebGPUDevice } from "../../src/index.ts";

/**
 * Has a device compile its pipelines one after another, within the call, where WebGPU is Dawn in Node or Bun:
 * there the event loop polls while a promise is pending, and takes a core from the compiler. Without
 * hardware, where a kernel takes seconds, suites then need half the time. Not for tests of loading itself.
 */
export function compileAtOnce(device: Device): void {
  if (!(device instanceof WebGPUDevice) || globalThis.navigator?.gpu) return;
  const { gpuDevice } = device;
  gpuDevice.createComputePipelineAsync = async (descriptor) =>
    gpuDevice.createComputePipeline(descriptor);
}
