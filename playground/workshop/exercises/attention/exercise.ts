import { referenceAttention } from "../../../numbers/reference.ts";
import type { Exercise } from "../../exercise.ts";
import { asMatrix, normals } from "../cases.ts";
import solution from "./solution.ts?raw";
import starter from "./starter.ts?raw";

interface Size {
  readonly queries: number;
  readonly keys: number;
  readonly depth: number;
  readonly valueDepth: number;
}

const problem = (title: string, { queries, keys, depth, valueDepth }: Size, factor = 1) => {
  const q = normals([queries, depth], queries, factor);
  const k = normals([keys, depth], keys + 1, factor);
  const v = normals([keys, valueDepth], keys + 2);
  const { output } = referenceAttention(asMatrix(q), asMatrix(k), asMatrix(v));
  return { title, inputs: [q, k, v], expected: output.data };
};

const timed: Size = { queries: 128, keys: 256, depth: 64, valueDepth: 64 };

export const attention: Exercise = {
  title: "Attention, fused",
  goal: "softmax(Q·Kᵀ)·V, unscaled. First put it together from kernels that are there: an op that orchestrates. Then write it as one kernel that never stores the scores, which the last check asks for.",
  hint: "Orchestrated: enqueue(softmaxInPlace, { values: scores }) between the products. Fused: give each query a workgroup, walk the keys in tiles of 64, and keep the largest score, the sum and the mixed values; section 2 shows the steps. The value depth here is 64 at most.",
  starter,
  solution,
  tolerance: 1e-4,
  cases: () => [
    problem("4 queries, 16 keys", { queries: 4, keys: 16, depth: 8, valueDepth: 8 }),
    problem("1 query, 100 keys, values of another depth", {
      queries: 1,
      keys: 100,
      depth: 16,
      valueDepth: 5,
    }),
    problem("scores in the hundreds", { queries: 3, keys: 130, depth: 32, valueDepth: 64 }, 6),
  ],
  timed: () => ({
    ...problem("128 queries, 256 keys, depth 64", timed),
    bytes: 4 * 64 * (128 + 256 + 256 + 128),
    flops: 4 * timed.queries * timed.keys * timed.depth,
  }),
  planChecks: [
    {
      title: "fused: one kernel, and no temporaries",
      failure: ({ dispatches, temporaryBytes }) =>
        dispatches === 1 && temporaryBytes === 0
          ? undefined
          : `${dispatches} kernels and ${temporaryBytes.toLocaleString("en")} bytes of temporaries; write one kernel that walks the keys`,
    },
  ],
};
