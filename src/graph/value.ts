import type { Tensor } from "../tensor/tensor.ts";
import type { Graph } from "./graph.ts";
import type { AnyOp } from "./op.ts";
import type { TensorType } from "./tensor-type.ts";

/** An edge of a graph: an input, a constant, or an output of a node. Made by `Graph` and `ops`. */
export class Value {
  readonly graph: Graph;
  readonly type: TensorType;
  /** Where it comes from. */
  readonly source:
    | { readonly kind: "input"; readonly index: number }
    | { readonly kind: "constant"; readonly tensor: Tensor }
    | { readonly kind: "node"; readonly node: Node; readonly index: number };

  /** @internal */
  constructor(graph: Graph, type: TensorType, source: Value["source"]) {
    this.graph = graph;
    this.type = type;
    this.source = source;
  }
}

/** One use of an op in a graph. */
export interface Node {
  readonly op: AnyOp;
  readonly inputs: readonly Value[];
  readonly outputs: readonly Value[];
  readonly parameters: object;
  /** What plans call it, where a pass put it in the place of others. Default: the op's name. */
  readonly label?: string;
}
