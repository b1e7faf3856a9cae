/** One shape of product that an adapter's matrix units offer: `M×K · K×N`, accumulated in `result`. */
export interface MatrixShape {
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly component: "f16" | "f32";
  readonly result: "f16" | "f32";
}

/**
 * What a WebGPU device offers that the choice of a kernel's variant may depend on: plain data, so that
 * the choice is a pure function and a test can pose as any adapter.
 */
export interface Capabilities {
  /** Lanes of the smallest and largest subgroup, where `subgroups` is enabled. */
  readonly subgroups?: { readonly min: number; readonly max: number };
  /** Whether WGSL may `enable f16`. */
  readonly float16: boolean;
  /** Products of the matrix units (`chromium-experimental-subgroup-matrix`); empty without. */
  readonly matrixShapes: readonly MatrixShape[];
  /** Bytes of workgroup memory. */
  readonly workgroupBytes: number;
  /** Invocations in a workgroup. */
  readonly invocations: number;
  /** Workgroups on one axis of a dispatch. */
  readonly workgroupsPerDimension: number;
  /** Bytes that one storage binding may cover. */
  readonly bindingBytes: number;
  /** Storage buffers that one kernel may bind. */
  readonly storageBuffers: number;
}

/** WebGPU's default limits and no optional feature: what every adapter offers. */
export const portableCapabilities: Capabilities = {
  float16: false,
  matrixShapes: [],
  workgroupBytes: 16384,
  invocations: 256,
  workgroupsPerDimension: 65535,
  bindingBytes: 128 * 2 ** 20,
  storageBuffers: 8,
};
