/**
 * Bad input: a shape, dtype, option or buffer that the named operation does not take. Thrown before
 * anything is enqueued. The message names the operation, the argument, the rule and what was got.
 */
export class QkvError extends Error {
  override name = "QkvError";
}

/** The device asked for is not there, or lacks something the call needs; the message says how to get it. */
export class DeviceUnavailableError extends QkvError {
  override name = "DeviceUnavailableError";
}

/**
 * The GPU device is gone (driver reset, `GPUDevice.destroy()`, tab in the background too long).
 * Pending reads reject with it; request a new device and upload again.
 */
export class DeviceLostError extends Error {
  override name = "DeviceLostError";
}

/**
 * WebGPU refused work that passed qkv's own checks: a WGSL error in a user's kernel, a caller's buffer
 * already destroyed, memory exhausted. The message holds WebGPU's, and the label of the call at fault.
 */
export class GPUOperationError extends Error {
  override name = "GPUOperationError";
}

/** A thread of the CPU device died, and with it a call. The device goes on with new threads. */
export class ThreadError extends Error {
  override name = "ThreadError";
}

/** Throws a {@link QkvError} reading `operation: rule, got …`. */
export function refuse(operation: string, rule: string, ...got: [] | [unknown]): never {
  throw new QkvError(`${operation}: ${rule}${got.length === 0 ? "" : `, got ${describe(got[0])}`}`);
}

/** A short, unambiguous spelling of a value for an error message. */
export function describe(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(describe).join(", ")}]`;
  if (typeof value === "function") return `a function${value.name ? ` (${value.name})` : ""}`;
  if (value === null || typeof value !== "object") return String(value);
  if ("data" in value && "dtype" in value && "shape" in value && Array.isArray(value.shape))
    return `a host tensor ${value.dtype}[${value.shape.join(", ")}]`;
  // Types and the like spell themselves; typed arrays would spell every element.
  if (value.toString !== Object.prototype.toString && !ArrayBuffer.isView(value)) return `${value}`;
  const kind = Object.getPrototypeOf(value)?.constructor?.name;
  return kind && kind !== "Object" ? `a ${kind}` : JSON.stringify(value);
}
