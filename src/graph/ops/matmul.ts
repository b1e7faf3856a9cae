import { refuse } from "../../errors.ts";
import { matmul as matmulKernel } from "../../kernels/matmul/kernel.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { graphOf } from "../graph.ts";
import { defineOp } from "../op.ts";
import { TensorType } from "../tensor-type.ts";
import type { Value } from "../value.ts";

/** The op behind {@link matmul}. */
export const matmulOp = defineOp({
  name: "matmul",
  infer([a, b]) {
    if (a!.dtype !== "float32" || b!.dtype !== "float32")
      refuse("matmul", "a and b must be float32", [a!.dtype, b!.dtype]);
    const rank = a!.shape.length;
    if (rank < 2 || b!.shape.length !== rank)
      refuse("matmul", "a and b must have one rank of 2 or more", [a, b]);
    const [rows, inner] = a!.shape.slice(-2);
    const [innerB, columns] = b!.shape.slice(-2);
    if (inner !== innerB) refuse("matmul", "the columns of a must equal the rows of b", [a, b]);
    const batch = a!.shape.slice(0, -2);
    if (!batch.every((dimension, axis) => dimension === b!.shape[axis]))
      refuse("matmul", "the leading axes of a and b must be equal", [a, b]);
    return [new TensorType("float32", [...batch, rows!, columns!])];
  },
  record: ({ inputs: [a, b], outputs: [output], enqueue }) =>
    enqueue(matmulKernel, { a: a!, b: b!, output: output! }),
});

/**
 * The matrix product over the last two axes.
 *
 * @param a float32 `[…, m, k]`.
 * @param b float32 `[…, k, n]`, the leading axes as in `a`.
 * @returns float32 `[…, m, n]`.
 * @throws QkvError on other dtypes, ranks or shapes.
 */
export function matmul(a: Value | Tensor, b: Value | Tensor): Value {
  const graph = graphOf("matmul", [a, b]);
  return graph.add(
    matmulOp,
    [graph.value("matmul", "a", a), graph.value("matmul", "b", b)],
    {},
  )[0]!;
}
