/** The builds of the CPU kernels, the fastest first. */
export const cpuBuilds = ["relaxed", "simd", "typescript"] as const;

/**
 * `relaxed`: WebAssembly with fused multiply-add (relaxed SIMD); `simd`: WebAssembly; `typescript`: where
 * there is no WebAssembly, or none with SIMD.
 */
export type CPUBuild = (typeof cpuBuilds)[number];

/** The module's functions that threads run; a job names one by its index. */
export const moduleFunctions = [
  "attention",
  "attentionScores",
  "matmul",
  "softmax",
  "transpose",
  "permute",
  "elementwise",
] as const;

/** A compiled module, and the build that it is. */
export interface LoadedModule {
  readonly build: "relaxed" | "simd";
  readonly module: WebAssembly.Module;
}

const compiled = new Map<string, Promise<WebAssembly.Module>>();

/**
 * Compiles the first of `builds` that this engine takes; undefined if it takes none.
 *
 * @param shared For a shared memory.
 */
export async function loadModule(
  builds: readonly CPUBuild[],
  shared: boolean,
): Promise<LoadedModule | undefined> {
  if (typeof WebAssembly === "undefined") return undefined;
  const modules = await import("./modules.generated.ts");
  for (const build of builds) {
    if (build === "typescript") return undefined;
    const { base64, sharedFlag } = modules[build];
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    bytes[sharedFlag] = shared ? 3 : 1;
    if (!WebAssembly.validate(bytes)) continue;
    const key = `${build} ${shared}`;
    const module = compiled.get(key) ?? WebAssembly.compile(bytes);
    compiled.set(key, module);
    return { build, module: await module };
  }
  return undefined;
}
