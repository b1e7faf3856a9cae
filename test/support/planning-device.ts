import type { Capabilities } from "../../src/devices/capabilities.ts";
import type { Device, DeviceTensor, PreparedProgram } from "../../src/devices/device.ts";
import type { AnyKernel, Launch } from "../../src/devices/kernel.ts";
import type { Program } from "../../src/devices/program.ts";

/**
 * A WebGPU device without a GPU: it plans as an adapter of any capabilities would, and keeps the WGSL
 * that a load compiles and that programs want. It runs nothing.
 */
export class PlanningDevice implements Device {
  readonly kind = "webgpu";
  readonly description = "planning only";
  readonly lost = false;
  readonly capabilities: Capabilities;
  /** WGSL compiled by loads. */
  readonly compiled = new Set<string>();
  /** WGSL that programs need and no load has compiled: at execute, a stall. */
  readonly missed = new Map<string, string>();

  /** Programs prepared. */
  programs = 0;

  constructor(capabilities: Capabilities) {
    this.capabilities = capabilities;
  }

  async compile(
    launches: readonly (readonly [AnyKernel, readonly string[], Launch])[],
  ): Promise<void> {
    for (const [, , { wgsl }] of launches) this.compiled.add(wgsl);
  }

  prepare({ steps }: Program): PreparedProgram {
    this.programs++;
    for (const step of steps)
      if (step.kind === "kernel" && !this.compiled.has(step.launch!.wgsl))
        this.missed.set(step.launch!.wgsl, `${step.kernel.name}: ${step.launch!.variant}`);
    return { run: () => unsupported(), destroy() {} };
  }

  upload = (): DeviceTensor => unsupported();
  allocate = (): DeviceTensor => unsupported();
  enqueue = (): void => unsupported();
  destroy(): void {}
  [Symbol.dispose](): void {}
}

function unsupported(): never {
  throw new Error("the planning device runs nothing");
}
