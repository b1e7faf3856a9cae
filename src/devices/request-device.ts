import { DeviceUnavailableError, refuse } from "../errors.ts";
import { CPUDevice, type CPUOptions } from "./cpu/device.ts";
import type { DeviceKind } from "./device.ts";
import { deviceDescriptor } from "./webgpu/capabilities.ts";
import { WebGPUDevice } from "./webgpu/device.ts";
import { requestAdapter, type WebGPUOptions } from "./webgpu/gpu.ts";

/** Options of {@link requestDevice}. */
export interface DeviceOptions extends WebGPUOptions, CPUOptions {}

const optionNames: readonly string[] = [
  "gpuDevice",
  "powerPreference",
  "portable",
  "threads",
] satisfies (keyof DeviceOptions)[];

/**
 * Opens a device. Without a `kind`: WebGPU where an adapter answers, else the CPU. Every call makes a
 * new one; keep it and share it.
 *
 * @throws DeviceUnavailableError if the kind asked for is not there, saying what was looked for and how
 *   to get it; QkvError on an unknown kind or option.
 */
export function requestDevice(kind: "webgpu", options?: DeviceOptions): Promise<WebGPUDevice>;
export function requestDevice(kind: "cpu", options?: DeviceOptions): Promise<CPUDevice>;
export function requestDevice(
  kind?: DeviceKind,
  options?: DeviceOptions,
): Promise<WebGPUDevice | CPUDevice>;
export async function requestDevice(
  kind?: DeviceKind,
  options: DeviceOptions = {},
): Promise<WebGPUDevice | CPUDevice> {
  if (kind !== undefined && kind !== "webgpu" && kind !== "cpu")
    refuse("requestDevice", 'kind must be "webgpu" or "cpu"', kind);
  for (const name of Object.keys(options))
    if (!optionNames.includes(name))
      refuse("requestDevice", `options must be among ${optionNames.join(", ")}`, name);
  const { threads } = options;
  const cpuOptions = { ...(threads !== undefined && { threads }) };
  if (kind === "cpu") return CPUDevice.open(cpuOptions);
  if (options.gpuDevice) return new WebGPUDevice(options.gpuDevice);
  try {
    const adapter = await requestAdapter(options);
    const gpuDevice = await adapter.requestDevice(
      deviceDescriptor(adapter, options.portable ?? false),
    );
    return new WebGPUDevice(gpuDevice, true, adapter.info);
  } catch (error) {
    if (kind === undefined && error instanceof DeviceUnavailableError)
      return CPUDevice.open(cpuOptions);
    throw error;
  }
}
