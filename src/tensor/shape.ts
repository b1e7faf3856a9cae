import { refuse } from "../errors.ts";

/** The lengths of a tensor's axes, outermost first; row-major. `[]` is a scalar. */
export type Shape = readonly number[];

/** The number of elements of `shape`. */
export function elementCount(shape: Shape): number {
  let count = 1;
  for (const length of shape) count *= length;
  return count;
}

/** Whether two shapes are the same. */
export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((length, axis) => length === b[axis]);
}

/** Throws unless `shape` is an array of integers ≥ 1 whose product is exact in a double. */
export function checkShape(
  operation: string,
  argument: string,
  shape: unknown,
): asserts shape is Shape {
  const valid =
    Array.isArray(shape) && shape.every((length) => Number.isSafeInteger(length) && length >= 1);
  if (!valid) refuse(operation, `${argument} must be a shape of integers of 1 or more`, shape);
  if (!Number.isSafeInteger(elementCount(shape as Shape)))
    refuse(operation, `${argument} must have fewer than 2^53 elements`, shape);
}
