import { attentionOp, Graph, ops, type Shape, TensorType } from "../src/index.ts";

/** The shapes of an attention call. */
export interface AttentionShapes {
  /** `[depth]` or `[queries, depth]`. */
  readonly q: Shape;
  /** `[keys, depth]`. */
  readonly k: Shape;
  /** `[keys, valueDepth]`. */
  readonly v: Shape;
}

/** The graph of one float32 attention op. @throws QkvError if the shapes do not fit together. */
export function attentionGraph({ q, k, v }: AttentionShapes): Graph {
  return new Graph("attention", {
    inputTypes: [q, k, v].map((shape) => new TensorType("float32", shape)),
    customExtensions: [attentionOp],
    forward: (...values) => ops.custom("attention", { values }),
  });
}
