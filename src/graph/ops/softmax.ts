import { refuse } from "../../errors.ts";
import { softmax as softmaxKernel } from "../../kernels/softmax/kernel.ts";
import { graphOf } from "../graph.ts";
import { defineOp } from "../op.ts";
import type { Value } from "../value.ts";

/** The op behind {@link softmax}. */
export const softmaxOp = defineOp({
  name: "softmax",
  infer([x]) {
    if (x!.dtype !== "float32") refuse("softmax", "x must be float32", x!.dtype);
    if (x!.shape.length === 0) refuse("softmax", "x must have an axis to normalise", x);
    return [x!];
  },
  record: ({ inputs: [input], outputs: [output], enqueue }) =>
    enqueue(softmaxKernel, { input: input!, output: output! }),
});

/**
 * exp(x − max) / Σ exp(x − max) over the last axis. A row that is −∞ throughout gives zeros.
 *
 * @param x float32 `[…, n]`.
 * @throws QkvError on other dtypes and on scalars.
 */
export function softmax(x: Value): Value {
  const graph = graphOf("softmax", [x]);
  return graph.add(softmaxOp, [graph.value("softmax", "x", x)], {})[0]!;
}
