import {
  attribute,
  constant,
  elementType,
  type Fields,
  graphInput,
  graphOutput,
  model,
  multiHeadAttention,
  node,
} from "../onnx.ts";
import { type BenchCase, bytesMoved } from "./cases.ts";
import { randomElements } from "./numbers.ts";

/**
 * A model file of `ops` times `com.microsoft.MultiHeadAttention`, each with the output of the one before
 * as its query, and all with the same key and value. Query, key and value are constants and the result is
 * reduced to one number, so that a run copies nothing of size; a scalar input, to be given as 0
 * and added to the query, keeps the runtime from computing the model when it is loaded.
 */
export function attentionChain(of: BenchCase, ops: number): Uint8Array {
  const { dtype, batch, heads, keys, depth, queries, causal } = of;
  const type = elementType[dtype];
  const packed = (rows: number) => [batch, rows, heads * depth];
  const random = (name: string, shape: readonly number[]): Fields => {
    const { buffer } = randomElements(
      dtype,
      shape.reduce((a, b) => a * b),
    );
    return constant(name, type, shape, new Uint8Array(buffer));
  };
  const attention = multiHeadAttention(heads, ...(causal ? [attribute("unidirectional", 1)] : []));
  const cache = queries === keys ? packed(keys) : [batch, heads, keys, depth];
  return model(
    node("Add", ["query", "zero"], "q0"),
    ...Array.from({ length: ops }, (_, i) =>
      node("MultiHeadAttention", [`q${i}`, "key", "value"], `q${i + 1}`, ...attention),
    ),
    node("ReduceMax", [`q${ops}`], "largest", attribute("keepdims", 1)),
    node("Reshape", ["largest", "one"], "result"),
    random("query", packed(queries)),
    random("key", cache),
    random("value", cache),
    constant("one", elementType.int64, [1], oneAsInt64),
    graphInput("zero", type, [1]),
    graphOutput("result", type, [1]),
  );
}

const oneAsInt64 = Uint8Array.from([1, 0, 0, 0, 0, 0, 0, 0]);

/** Whether the op takes the case, which has no grouped heads, and a model file its constants. */
export const takesCase = (of: BenchCase): boolean =>
  of.heads === of.kvHeads && !of.vector && bytesMoved(of) < 2 ** 29;
