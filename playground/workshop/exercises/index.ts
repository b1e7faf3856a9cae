import type { Exercise } from "../exercise.ts";
import { addOne } from "./add-one/exercise.ts";
import { attention } from "./attention/exercise.ts";
import { matmul } from "./matmul/exercise.ts";
import { softmax } from "./softmax/exercise.ts";
import { transpose } from "./transpose/exercise.ts";

/** In the order in which they build on each other. */
export const exercises: readonly Exercise[] = [addOne, transpose, softmax, matmul, attention];
