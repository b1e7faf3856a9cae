import { refuse } from "../../errors.ts";
import { binary, scale } from "../../kernels/elementwise/kernel.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { graphOf } from "../graph.ts";
import { defineOp } from "../op.ts";
import type { TensorType } from "../tensor-type.ts";
import type { Value } from "../value.ts";

/** The op behind {@link mul} by a number. */
export const scaleOp = defineOp<{ factor: number }>({
  name: "scale",
  infer([x], { factor }) {
    if (x!.dtype !== "float32") refuse("mul", "x must be float32", x!.dtype);
    if (!Number.isFinite(factor)) refuse("mul", "a number to multiply by must be finite", factor);
    return [x!];
  },
  record: ({ inputs: [x], outputs: [output], parameters, enqueue }) =>
    enqueue(scale, { input: x!, output: output! }, parameters),
});

function defineBinary(name: "mul" | "add") {
  return defineOp({
    name,
    infer([a, b]): [TensorType] {
      if (a!.dtype !== "float32" || !a!.equals(b!))
        refuse(name, "x and y must be float32 of one shape", [a, b]);
      return [a!];
    },
    record: ({ inputs: [a, b], outputs: [output], enqueue }) =>
      enqueue(binary[name], { a: a!, b: b!, output: output! }),
  });
}

/** The ops behind {@link mul} by a tensor and {@link add}. */
export const binaryOps = { mul: defineBinary("mul"), add: defineBinary("add") };

function addBinary(name: "mul" | "add", x: Value | Tensor, y: Value | Tensor): Value {
  const graph = graphOf(name, [x, y]);
  return graph.add(binaryOps[name], [graph.value(name, "x", x), graph.value(name, "y", y)], {})[0]!;
}

/**
 * x · y, element by element.
 *
 * @param x float32, any shape.
 * @param y A finite number, or float32 of the shape of `x`.
 * @throws QkvError on other dtypes or shapes.
 */
export function mul(x: Value, y: number | Value | Tensor): Value {
  if (typeof y !== "number") return addBinary("mul", x, y);
  const graph = graphOf("mul", [x]);
  return graph.add(scaleOp, [graph.value("mul", "x", x)], { factor: y })[0]!;
}

/**
 * x + y, element by element.
 *
 * @param x float32, any shape.
 * @param y float32 of the same shape.
 * @throws QkvError on other dtypes or shapes.
 */
export function add(x: Value | Tensor, y: Value | Tensor): Value {
  return addBinary("add", x, y);
}
