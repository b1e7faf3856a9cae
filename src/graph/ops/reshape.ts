import { refuse } from "../../errors.ts";
import { type Dimension, divideDimensions, multiplyDimensions } from "../dimension.ts";
import { graphOf } from "../graph.ts";
import { defineOp } from "../op.ts";
import { TensorType } from "../tensor-type.ts";
import type { Value } from "../value.ts";

/** The op behind {@link reshape}: its output is its input's memory. */
export const reshapeOp = defineOp<{ readonly shape: readonly Dimension[] }>({
  name: "reshape",
  view: true,
  infer([x], { shape }) {
    const count = multiplyDimensions(...x!.shape);
    const open = shape.indexOf(-1);
    if (open !== shape.lastIndexOf(-1))
      refuse("reshape", "one axis of shape at most may be -1", [...shape]);
    const known = shape.filter((dimension) => dimension !== -1);
    const rest = divideDimensions(count, multiplyDimensions(...known));
    if (rest === undefined || (open < 0 && rest !== 1))
      refuse("reshape", `shape must have the ${count} elements of ${x}`, [...shape]);
    return [
      new TensorType(
        x!.dtype,
        shape.map((dimension) => (dimension === -1 ? rest : dimension)),
      ),
    ];
  },
});

/**
 * The same elements under another shape. Costs nothing: the result is the input's memory.
 *
 * @param shape Axes of the result, numbers or names; one may be −1 and is computed.
 * @throws QkvError unless the number of elements is the same.
 */
export function reshape(x: Value, shape: readonly Dimension[]): Value {
  if (!Array.isArray(shape)) refuse("reshape", "shape must be an array of dimensions", shape);
  const graph = graphOf("reshape", [x]);
  return graph.add(reshapeOp, [graph.value("reshape", "x", x)], { shape })[0]!;
}
