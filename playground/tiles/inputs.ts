import { matrixOf } from "../numbers/matrix.ts";
import { random } from "../numbers/random.ts";
import type { Inputs } from "../steps/presets.ts";

/** How scores go along the keys. */
export type Course = "random" | "rising" | "falling";

export const depth = 16;

/**
 * Self-attention over `length` positions. Rising scores raise the maximum in every tile; falling ones
 * never after the first.
 */
export function tileInputs(length: number, course: Course, seed: number): Inputs {
  const { normal } = random(seed);
  // One element is the same in every query: what keys hold there is added to their scores.
  const slope = { random: 0, rising: 1, falling: -1 }[course];
  return {
    q: matrixOf(length, depth, (_, column) => (column === 0 ? 4 : normal())),
    k: matrixOf(length, depth, (row, column) =>
      column === 0 ? slope * ((4 * row) / length - 2) : normal(),
    ),
    v: matrixOf(length, depth, () => normal()),
  };
}
