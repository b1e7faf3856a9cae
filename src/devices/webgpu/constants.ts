/** `GPUBufferUsage` by the WebGPU specification: Node has no such global. */
export const usage = {
  mapRead: 0x1,
  copySource: 0x4,
  copyDestination: 0x8,
  uniform: 0x40,
  storage: 0x80,
} as const;

/** `GPUShaderStage.COMPUTE`. */
export const computeStage = 0x4;

/** `GPUMapMode.READ`. */
export const mapModeRead = 0x1;

/** Usages of every tensor's buffer. */
export const tensorUsage = usage.storage | usage.copySource | usage.copyDestination;
