import type { CPUDevice, CPUTestOptions } from "../../src/devices/cpu/device.ts";
import { attentionCPU } from "../../src/kernels/attention/cpu-kernel.ts";
import { type AttentionResults, attentionOutputs } from "../../src/kernels/attention/spec.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { type AttentionCase, poisonedOutputs } from "./attention-cases.ts";

/** Every way in which the CPU device can run. */
export const cpuVariants: readonly (CPUTestOptions & { readonly title: string })[] = [
  { title: "TypeScript", build: "typescript", threads: 1 },
  ...(["simd", "relaxed"] as const).flatMap((build) =>
    [1, 2, 3].map((threads) => ({ title: `${build}, threads: ${threads}`, build, threads })),
  ),
  { title: "simd, threads: 2, caller waits", build: "simd", threads: 2, participates: false },
];

/** Whether this engine takes relaxed SIMD. `undefined`: it ought to, so tests are not skipped. */
export function relaxedSIMD(): { readonly missing?: string } {
  // (func (param v128 v128 v128) (result v128) f32x4.relaxed_madd)
  const module = [
    ...[0, 97, 115, 109, 1, 0, 0, 0, 1, 8, 1, 96, 3, 123, 123, 123, 1, 123, 3, 2, 1, 0],
    ...[10, 13, 1, 11, 0, 32, 0, 32, 1, 32, 2, 253, 133, 2, 11],
  ];
  if (WebAssembly.validate(new Uint8Array(module))) return {};
  const { process, Bun } = globalThis as { process?: NodeJS.Process; Bun?: unknown };
  if (Bun) return { missing: "JavaScriptCore has no relaxed SIMD" };
  const major = Number(process?.versions.node?.split(".")[0]);
  if (major < 22) return { missing: `Node ${major} has no relaxed SIMD; Node 22 has` };
  throw new Error("this engine ought to have relaxed SIMD");
}

/** Runs a case's attention on a CPU device, into poisoned outputs. */
export async function runOnCPU(
  device: CPUDevice,
  attention: AttentionCase,
): Promise<AttentionResults<Tensor>> {
  const { problem, inputs } = attention;
  const given = Object.entries({ ...inputs, ...poisonedOutputs(attention) }).flatMap(
    ([name, tensor]) => (tensor ? [[name, device.upload(tensor)] as const] : []),
  );
  const tensors = Object.fromEntries(given);
  device.enqueue(attentionCPU, tensors as never, { problem, operation: "attention" });
  const results = await Promise.all(
    attentionOutputs
      .filter((name) => problem.outputs.includes(name))
      .map(async (name) => [name, await tensors[name]!.read()] as const),
  );
  for (const [, tensor] of given) tensor.destroy();
  return Object.fromEntries(results) as unknown as AttentionResults<Tensor>;
}
