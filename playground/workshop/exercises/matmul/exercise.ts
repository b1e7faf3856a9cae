import type { Exercise } from "../../exercise.ts";
import { asMatrix, normals } from "../cases.ts";
import { product } from "../reference.ts";
import solution from "./solution.ts?raw";
import starter from "./starter.ts?raw";

const matrices = (title: string, rows: number, inner: number, columns: number) => {
  const a = normals([rows, inner], rows + inner);
  const b = normals([inner, columns], inner + 7 * columns);
  return { title, inputs: [a, b], expected: product(asMatrix(a), asMatrix(b)).data };
};

const timed = 128;

export const matmul: Exercise = {
  title: "Matmul, in tiles",
  goal: "The product of two matrices, the kernel of steps 3 and 7. Tiles of both come into workgroup memory already; multiply them there.",
  hint: "A loop of 16: the lane's row of a_tile begins at lane.y * size, its column of b_tile steps by size from lane.x.",
  starter,
  solution,
  tolerance: 1e-4,
  cases: () => [
    matrices("16 × 16 times 16 × 16", 16, 16, 16),
    matrices("5 × 40 times 40 × 9", 5, 40, 9),
    matrices("one row times 33 × 70", 1, 33, 70),
  ],
  timed: () => ({
    ...matrices(`${timed} × ${timed} times ${timed} × ${timed}`, timed, timed, timed),
    bytes: 12 * timed * timed,
    flops: 2 * timed ** 3,
  }),
  planChecks: [],
};
