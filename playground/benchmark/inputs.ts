import { random } from "../numbers/random.ts";
import type { BenchmarkSize } from "./sizes.ts";

/** Elements of q, k and v, packed: `[1, rows, heads · depth]`. */
export interface Inputs {
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly v: Float32Array;
}

export function makeInputs({ heads, queries, keys, depth }: BenchmarkSize): Inputs {
  const { uniform } = random(5);
  const make = (rows: number) =>
    Float32Array.from({ length: rows * heads * depth }, () => 2 * uniform() - 1);
  return { q: make(queries), k: make(keys), v: make(keys) };
}
