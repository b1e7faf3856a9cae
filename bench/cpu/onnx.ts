import { elementType, graphInput, graphOutput, model, multiHeadAttention, node } from "../onnx.ts";
import { type BenchCase, packedShape, shapes } from "./cases.ts";

/**
 * A model file of `ops` times `com.microsoft.MultiHeadAttention`, each with the output of the one before
 * as its query and all with the same key and value, which lie as the case has them. The op takes queries
 * packed only; it transposes packed keys and values at each call.
 */
export function attentionChain(benchCase: BenchCase, ops: number): Uint8Array {
  const { batch, heads, queries, depth } = benchCase;
  const [, key, value] = shapes(benchCase);
  const query = packedShape(batch, heads, queries, depth);
  const { float32 } = elementType;
  return model(
    ...Array.from({ length: ops }, (_, i) =>
      node("MultiHeadAttention", [`q${i}`, "k", "v"], `q${i + 1}`, ...multiHeadAttention(heads)),
    ),
    graphInput("q0", float32, query),
    graphInput("k", float32, key),
    graphInput("v", float32, value),
    graphOutput(`q${ops}`, float32, query),
  );
}
