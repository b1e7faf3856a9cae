import { matrixOf } from "../../../numbers/matrix.ts";
import type { Exercise } from "../../exercise.ts";
import { normals } from "../cases.ts";
import { softmaxRows } from "../reference.ts";
import solution from "./solution.ts?raw";
import starter from "./starter.ts?raw";

const matrix = (title: string, rows: number, columns: number, factor = 1) => {
  const input = normals([rows, columns], 3 * rows + columns, factor);
  const scores = matrixOf(rows, columns, (row, column) => input.data[row * columns + column]!);
  return { title, inputs: [input], expected: softmaxRows(scores).data };
};

export const softmax: Exercise = {
  title: "Softmax, a reduction",
  goal: "Step 5 of the op: exp(x − largest) ÷ sum, row by row. The lanes of a workgroup find the largest together, as a tree. Write the same for the sum.",
  hint: "total() is largest() with + in place of max. Without the barriers a lane may read what another has not written yet.",
  starter,
  solution,
  tolerance: 1e-5,
  cases: () => [
    matrix("5 rows of 64", 5, 64),
    matrix("3 rows of 1,000", 3, 1000),
    matrix("2 rows of 7, fewer than lanes", 2, 7),
    matrix("scores in the thousands", 2, 100, 2000),
  ],
  timed: () => ({ ...matrix("512 rows of 1,024", 512, 1024), bytes: 8 * 512 * 1024 }),
  planChecks: [],
};
