import type { Exercise } from "../../exercise.ts";
import { made, normals } from "../cases.ts";
import solution from "./solution.ts?raw";
import starter from "./starter.ts?raw";

const matrix = (title: string, rows: number, columns: number) => {
  const input = normals([rows, columns], rows + columns);
  const expected = made(
    rows * columns,
    (i) => input.data[(i % rows) * columns + Math.floor(i / rows)]!,
  );
  return { title, inputs: [input], expected };
};

export const transpose: Exercise = {
  title: "Transpose",
  goal: "Turn [rows, columns] into [columns, rows]: step 2 of the op. First get the address right; then make it fast, as the solution does, through a tile in workgroup memory.",
  hint: "Element (row, column) goes to row “column”, column “row” of a matrix whose rows are uniforms.rows long.",
  starter,
  solution,
  tolerance: 0,
  cases: () => [
    matrix("16 × 16, one workgroup", 16, 16),
    matrix("3 × 40", 3, 40),
    matrix("one row of 7", 1, 7),
  ],
  timed: () => ({ ...matrix("512 × 512", 512, 512), bytes: 8 * 512 * 512 }),
  planChecks: [],
};
