import { refuse } from "../../errors.ts";
import { permute, transpose as transposeKernel } from "../../kernels/transpose/kernel.ts";
import { graphOf } from "../graph.ts";
import { defineOp } from "../op.ts";
import { TensorType } from "../tensor-type.ts";
import type { Value } from "../value.ts";

interface Parameters {
  /** Axis of the input that each axis of the output is. */
  readonly permutation: readonly number[];
}

/** The op behind {@link transpose}. */
export const transposeOp = defineOp<Parameters>({
  name: "transpose",
  infer([x], { permutation }) {
    if (x!.dtype !== "float32") refuse("transpose", "x must be float32", x!.dtype);
    if (x!.shape.length < 2) refuse("transpose", "x must have two axes or more", x);
    if (
      ![...permutation].sort((a, b) => a - b).every((axis, i) => axis === i) ||
      permutation.length !== x!.shape.length
    )
      refuse("transpose", `permutation must hold each axis of ${x} once`, [...permutation]);
    return [
      new TensorType(
        x!.dtype,
        permutation.map((axis) => x!.shape[axis]!),
      ),
    ];
  },
  record({ inputs: [input], outputs: [output], parameters, enqueue }) {
    const tensors = { input: input!, output: output! };
    if (swapsLastTwo(parameters.permutation)) enqueue(transposeKernel, tensors);
    else enqueue(permute, tensors, parameters);
  },
});

/** Whether a permutation leaves all but the last two axes in place, and swaps those. */
export function swapsLastTwo(permutation: readonly number[]): boolean {
  const { length } = permutation;
  return permutation.every((axis, i) => axis === (i < length - 2 ? i : 2 * length - 3 - i));
}

/**
 * Moves axes.
 *
 * @param x float32, two axes or more.
 * @param permutation Which axis of `x` each axis of the result is. Default: the last two swapped.
 * @throws QkvError if `permutation` does not hold each axis once.
 */
export function transpose(x: Value, permutation?: readonly number[]): Value {
  const graph = graphOf("transpose", [x]);
  const value = graph.value("transpose", "x", x);
  const axes = value.type.shape.map((_, axis) => axis);
  const swapped = [...axes.slice(0, -2), ...axes.slice(-2).reverse()];
  if (permutation !== undefined && !Array.isArray(permutation))
    refuse("transpose", "permutation must be an array of axes", permutation);
  return graph.add(transposeOp, [value], { permutation: permutation ?? swapped })[0]!;
}
