import type { Matrix } from "../../numbers/matrix.ts";
import { random } from "../../numbers/random.ts";
import { elements } from "../elements.ts";
import type { CaseInput } from "../exercise.ts";

/** Random elements of a shape. */
export function normals(shape: readonly number[], seed: number, factor = 1): CaseInput {
  const { normal } = random(seed);
  return { shape, data: made(elements(shape), () => factor * normal()) };
}

/** `length` elements of what `at` gives. */
export function made(length: number, at: (index: number) => number): Float32Array {
  return Float32Array.from({ length }, (_, index) => at(index));
}

export function asMatrix({ shape: [rows, columns], data }: CaseInput): Matrix {
  return { rows: rows!, columns: columns!, data };
}
