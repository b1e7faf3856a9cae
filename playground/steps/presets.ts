import { type Matrix, matrixOf } from "../numbers/matrix.ts";
import type { Random } from "../numbers/random.ts";

/** How large an attention is. */
export interface Sizes {
  readonly queries: number;
  readonly keys: number;
  readonly depth: number;
  readonly valueDepth: number;
}

export interface Inputs {
  readonly q: Matrix;
  readonly k: Matrix;
  readonly v: Matrix;
}

export interface Preset {
  readonly name: string;
  readonly label: string;
  /** What to look at. */
  readonly note: string;
  readonly sizes: Sizes;
  make(sizes: Sizes, random: Random): Inputs;
}

const normal = (rows: number, columns: number, random: Random, factor = 1) =>
  matrixOf(rows, columns, () => factor * random.normal());

export const presets: readonly Preset[] = [
  {
    name: "random",
    label: "Random",
    note: "Every score is a sum of products of chance; softmax still makes each row of weights add up to 1.",
    sizes: { queries: 8, keys: 12, depth: 8, valueDepth: 8 },
    make: ({ queries, keys, depth, valueDepth }, random) => ({
      q: normal(queries, depth, random, 0.8),
      k: normal(keys, depth, random, 0.8),
      v: normal(keys, valueDepth, random),
    }),
  },
  {
    name: "one-hot",
    label: "One-hot lookup",
    note: "Each query is one of the keys, and keys share nothing: almost all the weight falls on the match, and the output is that key's value. Attention as a dictionary.",
    sizes: { queries: 8, keys: 8, depth: 8, valueDepth: 8 },
    make: ({ queries, keys, depth, valueDepth }, random) => ({
      q: matrixOf(queries, depth, (row, column) => (column === (5 * row + 2) % depth ? 4 : 0)),
      k: matrixOf(keys, depth, (row, column) => (column === row % depth ? 4 : 0)),
      v: normal(keys, valueDepth, random),
    }),
  },
  {
    name: "repeated",
    label: "Repeated keys",
    note: "There are only four keys, repeated. Equal keys get equal weights: the pattern returns every four columns, and the output is the mean of their values.",
    sizes: { queries: 8, keys: 16, depth: 8, valueDepth: 8 },
    make: ({ queries, keys, depth, valueDepth }, random) => {
      const few = normal(4, depth, random, 0.9);
      return {
        q: normal(queries, depth, random, 0.9),
        k: matrixOf(keys, depth, (row, column) => few.data[(row % 4) * depth + column]!),
        v: normal(keys, valueDepth, random),
      };
    },
  },
  {
    name: "extreme",
    label: "Extreme scores",
    note: "Scores run into the thousands, and exp(89) is more than float32 holds. No weight is NaN: softmax subtracts the row's largest score first.",
    sizes: { queries: 8, keys: 12, depth: 8, valueDepth: 8 },
    make: ({ queries, keys, depth, valueDepth }, random) => ({
      q: normal(queries, depth, random, 40),
      k: normal(keys, depth, random, 40),
      v: normal(keys, valueDepth, random),
    }),
  },
];
