import type { Capabilities, MatrixShape } from "../capabilities.ts";

/** Optional features that kernels have variants for. */
export const wantedFeatures = [
  "subgroups",
  "shader-f16",
  "timestamp-query",
  "chromium-experimental-subgroup-matrix",
] as const;

/** Limits that kernels make use of where the adapter goes beyond WebGPU's defaults. */
const wantedLimits = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupSizeY",
] as const;

/** Asked for as they are: bun-webgpu replaces limits left out by defaults that its adapters may lack. */
const bunLimits = [
  "maxStorageBuffersInVertexStage",
  "maxStorageBuffersInFragmentStage",
  "maxStorageTexturesInVertexStage",
  "maxStorageTexturesInFragmentStage",
] as const;

/** A descriptor that asks for all that kernels have a use for, or for nothing beyond the defaults. */
export function deviceDescriptor(adapter: GPUAdapter, portable: boolean): GPUDeviceDescriptor {
  if (portable) return { label: "qkv" };
  const names = "Bun" in globalThis ? [...wantedLimits, ...bunLimits] : wantedLimits;
  const limits = adapter.limits as unknown as Readonly<Record<string, number>>;
  return {
    label: "qkv",
    requiredFeatures: wantedFeatures.filter((feature) =>
      adapter.features.has(feature),
    ) as GPUFeatureName[],
    requiredLimits: Object.fromEntries(names.map((name) => [name, limits[name]!])),
  };
}

/** Fields that are not in every implementation, nor yet in its types. */
interface AdapterInfo {
  readonly subgroupMinSize?: number;
  readonly subgroupMaxSize?: number;
  readonly subgroupMatrixConfigs?: readonly {
    readonly M: number;
    readonly N: number;
    readonly K: number;
    readonly componentType: string;
    readonly resultComponentType: string;
  }[];
}

/** What a device offers, read off its enabled features and limits. */
export function readCapabilities(device: GPUDevice, info: AdapterInfo = {}): Capabilities {
  const { features, limits } = device;
  const has = (feature: string) => features.has(feature as GPUFeatureName);
  const matrixShapes =
    (has("chromium-experimental-subgroup-matrix") && info.subgroupMatrixConfigs) || [];
  return {
    ...(has("subgroups") && {
      // The specification's bounds where an implementation does not tell.
      subgroups: { min: info.subgroupMinSize ?? 4, max: info.subgroupMaxSize ?? 128 },
    }),
    float16: has("shader-f16"),
    matrixShapes: [...matrixShapes]
      .filter(
        ({ componentType, resultComponentType }) =>
          /^f(16|32)$/.test(componentType) && /^f(16|32)$/.test(resultComponentType),
      )
      .map(
        ({ M, N, K, componentType, resultComponentType }) =>
          ({ M, N, K, component: componentType, result: resultComponentType }) as MatrixShape,
      ),
    workgroupBytes: limits.maxComputeWorkgroupStorageSize,
    invocations: Math.min(
      limits.maxComputeInvocationsPerWorkgroup,
      limits.maxComputeWorkgroupSizeX,
    ),
    workgroupsPerDimension: limits.maxComputeWorkgroupsPerDimension,
    bindingBytes: limits.maxStorageBufferBindingSize,
    storageBuffers: limits.maxStorageBuffersPerShaderStage,
  };
}
