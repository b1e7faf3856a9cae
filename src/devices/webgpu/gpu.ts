import { DeviceUnavailableError } from "../../errors.ts";

/** Options of `requestDevice` that concern WebGPU. */
export interface WebGPUOptions {
  /** A device of the caller's own. Nothing is requested; `destroy()` leaves it open. */
  gpuDevice?: GPUDevice;
  /** Which adapter to prefer where there are several. */
  powerPreference?: GPUPowerPreference;
  /**
   * Ask for WebGPU's default limits and no optional feature, as on the least of adapters: to test that
   * one's own ops run everywhere. Default: all that the adapter has and kernels use.
   */
  portable?: boolean;
}

/** Instances of Dawn must stay referenced for as long as their devices live. */
let gpu: GPU | undefined;

/** What was looked for and not found, to be put into an error message. */
interface Absent {
  readonly looked: string;
  readonly advice: string;
}

/**
 * The runtime's own `navigator.gpu` (browsers, Deno), else Dawn through the optional packages `webgpu`
 * (Node, Bun) or `bun-webgpu` (Bun).
 */
async function findGPU(): Promise<GPU | Absent> {
  if (gpu) return gpu;
  if (globalThis.navigator?.gpu) return navigator.gpu;
  if (!("process" in globalThis))
    return {
      looked: "navigator.gpu",
      advice: "use a browser with WebGPU, on a page served over https or from localhost",
    };
  const failures: string[] = [];
  for (const name of "Bun" in globalThis ? ["webgpu", "bun-webgpu"] : ["webgpu"]) {
    try {
      // Not a literal, so that bundlers leave it alone.
      const module = await import(/* @vite-ignore */ /* webpackIgnore: true */ name);
      if (name === "webgpu") gpu = module.create(dawnFlags()) as GPU;
      else {
        await module.setupGlobals();
        gpu = navigator.gpu;
      }
      return gpu;
    } catch (error) {
      failures.push(`${name} (${error instanceof Error ? error.message.split("\n")[0] : error})`);
    }
  }
  return {
    looked: `navigator.gpu, ${failures.join(", ")}`,
    advice: "install the package: npm install webgpu",
  };
}

/**
 * Dawn hides some features behind flags: matrix units, and float16 on NVIDIA. `QKV_DAWN_FLAGS` (split at
 * spaces) replaces them.
 */
function dawnFlags(): string[] {
  const flags = globalThis.process?.env["QKV_DAWN_FLAGS"];
  return flags
    ? flags.split(" ").filter(Boolean)
    : ["enable-dawn-features=allow_unsafe_apis,vulkan_enable_f16_on_nvidia"];
}

/** An adapter. @throws DeviceUnavailableError saying what was looked for and how to get it. */
export async function requestAdapter({ powerPreference }: WebGPUOptions): Promise<GPUAdapter> {
  const found = await findGPU();
  if ("looked" in found)
    throw new DeviceUnavailableError(
      `requestDevice: no WebGPU here (looked for ${found.looked}); ${found.advice}`,
    );
  const adapter = await found.requestAdapter(powerPreference && { powerPreference });
  if (!adapter)
    throw new DeviceUnavailableError(
      "requestDevice: WebGPU is here but has no adapter; it needs a GPU with a driver for Vulkan, Metal or " +
        "Direct3D 12 (a software driver such as SwiftShader will do)",
    );
  return adapter;
}
