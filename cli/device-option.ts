// The option --device, and what there is to say about a device.

import { InvalidArgumentError, Option } from "commander";
import {
  type CPUDevice,
  type DeviceKind,
  DeviceUnavailableError,
  requestDevice,
  type WebGPUDevice,
} from "../src/index.ts";

/** Options that {@link deviceOption} gives a command. */
export interface WithDevice {
  readonly device?: DeviceKind;
}

/** `--device webgpu|cpu`. */
export function deviceOption(otherwise: string): Option {
  return new Option("--device <kind>", `"webgpu" or "cpu" (default: ${otherwise})`).argParser(
    (kind: string) => {
      if (kind !== "webgpu" && kind !== "cpu")
        throw new InvalidArgumentError('It must be "webgpu" or "cpu".');
      return kind;
    },
  );
}

export type AnyDevice = WebGPUDevice | CPUDevice;

/** Opens a device; without a kind, WebGPU where an adapter answers, else the CPU. */
export async function openDevice(kind?: DeviceKind): Promise<AnyDevice> {
  try {
    return await requestDevice(kind);
  } catch (error) {
    if (error instanceof DeviceUnavailableError)
      throw new DeviceUnavailableError(
        `${unavailableReason(error)} ("qkv devices" says more, "--device cpu" does without)`,
      );
    throw error;
  }
}

/** Why a device is not there and how to get it, as the library says it. */
export function unavailableReason({ message }: DeviceUnavailableError): string {
  return message.replace(/^requestDevice: /, "");
}

/** A device as the JSON outputs describe it. */
export interface DescribedDevice {
  readonly kind: DeviceKind;
  readonly description: string;
  /** On WebGPU: whether the adapter is a program on the CPU. */
  readonly software?: boolean;
}

export function describeDevice(device: AnyDevice): DescribedDevice {
  const { kind, description } = device;
  if (device.kind === "cpu") return { kind, description };
  return { kind, description, software: isSoftware(device) };
}

/** `WebGPU: SwiftShader …, in software`. */
export function deviceText({ description, software }: DescribedDevice): string {
  return `${description}${software ? ", in software" : ""}`;
}

/** Whether a WebGPU adapter is a program on the CPU, not hardware. */
function isSoftware({ gpuDevice: { adapterInfo }, description }: WebGPUDevice): boolean {
  // Not every implementation has the flag.
  return adapterInfo?.isFallbackAdapter || /swiftshader|llvmpipe|basic render/i.test(description);
}
