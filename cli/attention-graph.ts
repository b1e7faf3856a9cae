import {
  attentionOp,
  Graph,
  ops,
  type Shape,
  scaledDotProductAttentionOp,
  TensorType,
} from "../src/index.ts";

/** The shapes of an attention call. */
export interface AttentionShapes {
  /** `[depth]` or `[queries, depth]`. */
  readonly q: Shape;
  /** `[keys, depth]`. */
  readonly k: Shape;
  /** `[keys, valueDepth]`. */
  readonly v: Shape;
}

/** The graph of the op of seven steps. @throws QkvError if the shapes do not fit together. */
export function attentionGraph({ q, k, v }: AttentionShapes): Graph {
  return new Graph("attention", {
    inputTypes: [q, k, v].map((shape) => new TensorType("float32", shape)),
    customExtensions: [attentionOp],
    forward: (...values) => ops.custom("attention", { values }),
  });
}

/** The longest vectors that fused kernels take. */
const maximumDepth = 512;

/**
 * The graph of fused attention, unscaled as the other; of seven steps where vectors are too long for it.
 *
 * @throws QkvError if the shapes do not fit together.
 */
export function fusedAttentionGraph(shapes: AttentionShapes): Graph {
  const { q, k, v } = shapes;
  if (Math.max(k.at(-1)!, v.at(-1)!) > maximumDepth) return attentionGraph(shapes);
  const { name } = scaledDotProductAttentionOp;
  return new Graph("attention", {
    inputTypes: [q, k, v].map((shape) => new TensorType("float32", shape)),
    customExtensions: [scaledDotProductAttentionOp],
    forward: (...values) => ops.custom(name, { values, parameters: { scale: 1 } }),
  });
}
