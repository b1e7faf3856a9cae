import type { ExplainedStep, WebGPUDevice } from "qkv";

/** WGSL in the order it was compiled, with the name of its kernel. */
export type ShaderTexts = readonly { readonly kernel: string; readonly wgsl: string }[];

/** Takes down the WGSL that a device compiles: plans name kernels, and do not hold their text. */
export function recordShaders({ gpuDevice }: WebGPUDevice): ShaderTexts {
  const texts: { kernel: string; wgsl: string }[] = [];
  const create = gpuDevice.createShaderModule.bind(gpuDevice);
  gpuDevice.createShaderModule = (descriptor) => {
    texts.push({ kernel: descriptor.label ?? "", wgsl: descriptor.code });
    return create(descriptor);
  };
  return texts;
}

/** The text of a step of a plan, which is cached by what the text depends on. */
export class StepTexts {
  readonly #texts = new Map<string, string>();

  /**
   * @param step A step of a plan.
   * @param flags Whatever else the kernel's text depends on.
   * @param compiled What was compiled while the plan's graph was loaded.
   */
  find(step: ExplainedStep, flags: string, compiled: ShaderTexts): string | undefined {
    const key = [step.kernel, step.variant, step.workgroupBytes, flags].join();
    const text = compiled.find(({ kernel }) => kernel === step.kernel)?.wgsl;
    if (text !== undefined) this.#texts.set(key, text);
    return this.#texts.get(key);
  }
}
