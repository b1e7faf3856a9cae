import { type Capabilities, type Device, requestDevice, WebGPUDevice } from "qkv";

/** The devices of the page. */
export interface Devices {
  /** The GPU; the CPU where there is none. */
  readonly main: Device;
  readonly cpu: Device;
  /** What kernels on the main device may use; without a GPU, what every GPU has. */
  readonly capabilities: Capabilities;
  /** Why there is no GPU. */
  readonly reason?: string;
}

/** WebGPU's default limits: what to show WGSL for where no GPU runs it. */
const defaultCapabilities: Capabilities = {
  float16: false,
  matrixShapes: [],
  workgroupBytes: 16384,
  invocations: 256,
  workgroupsPerDimension: 65535,
  bindingBytes: 128 * 2 ** 20,
  storageBuffers: 8,
};

/** Opens the GPU, or the CPU in its place, and a CPU device to compare with. */
export async function openDevices(): Promise<Devices> {
  const cpu = await requestDevice("cpu");
  try {
    const main = await requestDevice("webgpu");
    return { main, cpu, capabilities: main.capabilities };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return { main: cpu, cpu, capabilities: defaultCapabilities, reason };
  }
}

/** Calls back if a GPU device is lost. */
export function onDeviceLost(device: Device, callback: () => void): void {
  if (device instanceof WebGPUDevice) void device.gpuDevice.lost.then(callback);
}
