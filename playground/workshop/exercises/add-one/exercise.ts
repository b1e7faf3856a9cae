import type { Exercise } from "../../exercise.ts";
import { made, normals } from "../cases.ts";
import solution from "./solution.ts?raw";
import starter from "./starter.ts?raw";

const oneCase = (title: string, length: number) => {
  const input = normals([length], length);
  return { title, inputs: [input], expected: made(length, (i) => input.data[i]! + 1) };
};

export const addOne: Exercise = {
  title: "Add one",
  goal: "Make the kernel add 1 to every element. It shows all there is to a kernel: bindings in the order of the tensors, a uniform, a grid, and a lane's number.",
  hint: "One line of WGSL. Numbers of type f32 are written with a point: 1.0.",
  starter,
  solution,
  tolerance: 1e-6,
  cases: () => [
    oneCase("64 elements, one workgroup", 64),
    oneCase("one element", 1),
    oneCase("1,000 elements, the last workgroup not full", 1000),
  ],
  timed: () => ({ ...oneCase("1,048,576 elements", 1 << 20), bytes: 8 * (1 << 20) }),
  planChecks: [],
};
