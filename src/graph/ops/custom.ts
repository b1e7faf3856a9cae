import { refuse } from "../../errors.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { graphOf, inferTypes } from "../graph.ts";
import { TensorType } from "../tensor-type.ts";
import type { Value } from "../value.ts";

/** How `ops.custom` uses an op. */
export interface CustomUse {
  /** The op's inputs; host tensors become constants. */
  readonly values: readonly (Value | Tensor)[];
  /** The types expected of its outputs, checked against what the op infers. Default: what it infers. */
  readonly outTypes?: readonly TensorType[];
  /** The op's parameters, fixed in the graph. */
  readonly parameters?: object;
}

/**
 * Uses an op of the graph's `customExtensions`, made by `defineOp`.
 *
 * @returns The op's outputs.
 * @throws QkvError if the graph has no such op, the op refuses its inputs or parameters, or `outTypes`
 *   are not what it infers.
 */
export function custom(
  name: string,
  { values, outTypes, parameters = {} }: CustomUse,
): readonly Value[] {
  const operation = `ops.custom ${JSON.stringify(name)}`;
  if (!Array.isArray(values)) refuse(operation, "values must be an array", values);
  const graph = graphOf(operation, values);
  const op = graph.extension(name);
  const inputs = values.map((value, i) => graph.value(operation, `values[${i}]`, value));
  if (
    outTypes &&
    !(Array.isArray(outTypes) && outTypes.every((type) => type instanceof TensorType))
  )
    refuse(operation, "outTypes must be an array of TensorType", outTypes);
  const inferred = inferTypes(op, inputs, parameters);
  if (
    outTypes &&
    !(outTypes.length === inferred.length && outTypes.every((type, i) => type.equals(inferred[i]!)))
  )
    refuse(operation, `outTypes must be the types it infers, ${inferred.join(", ")}`, [
      ...outTypes,
    ]);
  return graph.add(op, inputs, parameters);
}
