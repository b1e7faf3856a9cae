import { describe, refuse } from "../errors.ts";
import { elementCount } from "../tensor/shape.ts";
import { checkTensor, type Tensor } from "../tensor/tensor.ts";
import type { AnyOp } from "./op.ts";
import { TensorType } from "./tensor-type.ts";
import { type Node, Value } from "./value.ts";

/** What a graph is made of. */
export interface GraphDefinition {
  /** Types of the inputs, in order. */
  readonly inputTypes: readonly TensorType[];
  /** Ops that `ops.custom` may use in it. */
  readonly customExtensions?: readonly AnyOp[];
  /** Builds the graph from its inputs, with `ops`; returns its output or outputs. */
  readonly forward: (...inputs: Value[]) => Value | readonly Value[];
}

/**
 * A computation over tensors, built once and checked as it is built. It names no device: a session
 * loads it for one.
 */
export class Graph {
  readonly name: string;
  readonly inputTypes: readonly TensorType[];
  readonly inputs: readonly Value[];
  readonly outputs: readonly Value[];
  /** In the order they were added, which is an order they can run in. */
  readonly nodes: readonly Node[];
  readonly #nodes: Node[] = [];
  readonly #extensions = new Map<string, AnyOp>();

  /**
   * @param name Shown in plans and errors.
   * @throws QkvError naming the op, the argument, the rule and what was got.
   */
  constructor(name: string, { inputTypes, customExtensions = [], forward }: GraphDefinition) {
    if (typeof name !== "string" || name === "") refuse("Graph", "name must be a string", name);
    this.name = name;
    if (!Array.isArray(inputTypes) || !inputTypes.every((type) => type instanceof TensorType))
      refuse(name, "inputTypes must be an array of TensorType", inputTypes);
    this.inputTypes = inputTypes;
    for (const op of customExtensions) {
      if (typeof op?.name !== "string" || typeof op.infer !== "function")
        refuse(name, "customExtensions must be ops made by defineOp", op);
      if (this.#extensions.has(op.name))
        refuse(name, "customExtensions must have distinct names", op.name);
      this.#extensions.set(op.name, op);
    }
    this.nodes = this.#nodes;
    this.inputs = inputTypes.map((type, index) => new Value(this, type, { kind: "input", index }));
    const result = forward(...this.inputs);
    const outputs: readonly unknown[] = Array.isArray(result) ? result : [result];
    if (outputs.length === 0) refuse(name, "forward must return at least one value");
    this.outputs = outputs.map((output) => this.value(name, "what forward returns", output));
  }

  /** The op of `customExtensions` by that name. */
  extension(name: string): AnyOp {
    const names = [...this.#extensions.keys()].map(describe).join(", ") || "none";
    return (
      this.#extensions.get(name) ??
      refuse("ops.custom", `name must be among the graph's customExtensions (${names})`, name)
    );
  }

  /** A value of this graph; a host tensor becomes a constant. Throws on anything else. */
  value(operation: string, argument: string, value: unknown): Value {
    if (value instanceof Value) {
      if (value.graph !== this)
        refuse(
          operation,
          `${argument} must be a value of graph ${describe(this.name)}, got one of ${describe(value.graph.name)}`,
        );
      return value;
    }
    checkTensor(operation, argument, value);
    const { dtype, shape } = value;
    const data = value.data.slice(0, elementCount(shape)); // the caller may change it later
    const tensor = { dtype, shape: [...shape], data };
    return new Value(this, new TensorType(dtype, shape), { kind: "constant", tensor });
  }

  /** Adds a node. For ops. @internal */
  add(op: AnyOp, inputs: readonly Value[], parameters: object): readonly Value[] {
    const types = inferTypes(op, inputs, parameters);
    const outputs: Value[] = [];
    const node: Node = { op, inputs, outputs, parameters };
    for (const [index, type] of types.entries())
      outputs.push(new Value(this, type, { kind: "node", node, index }));
    this.#nodes.push(node);
    return outputs;
  }
}

/** The types of an op's outputs, by its own `infer`. */
export function inferTypes(
  op: AnyOp,
  inputs: readonly Value[],
  parameters: object,
): readonly TensorType[] {
  const types = op.infer(
    inputs.map(({ type }) => type),
    parameters,
  );
  if (!Array.isArray(types) || !types.every((type) => type instanceof TensorType))
    refuse(op.name, "infer must return an array of TensorType", types);
  return types;
}

/** The graph that an op's arguments belong to: that of the first which is a value. */
export function graphOf(operation: string, values: readonly (Value | Tensor)[]): Graph {
  for (const value of values) if (value instanceof Value) return value.graph;
  return refuse(operation, "at least one argument must be a value of a graph", [...values]);
}
