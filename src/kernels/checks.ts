import type { TensorShape } from "../devices/kernel.ts";
import { refuse } from "../errors.ts";

/** Refuses tensors that are not float32. */
export function checkFloat32(
  operation: string,
  tensors: Readonly<Record<string, TensorShape>>,
): void {
  for (const [name, { dtype }] of Object.entries(tensors))
    if (dtype !== "float32") refuse(operation, `${name} must be float32`, dtype);
}
