import { type BenchCase, bytesMoved } from "./cases.ts";
import { randomElements } from "./numbers.ts";

// A model file, in as much of protobuf as it needs.
// Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto

type Bytes = readonly Uint8Array[];

function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) + 128);
  return Uint8Array.from([...bytes, rest]);
}

const integer = (field: number, value: number): Bytes => [varint(field * 8), varint(value)];

function message(field: number, ...parts: Bytes[]): Bytes {
  const body = parts.flat();
  const length = body.reduce((total, bytes) => total + bytes.length, 0);
  return [varint(field * 8 + 2), varint(length), ...body];
}

const text = (field: number, value: string): Bytes =>
  message(field, [new TextEncoder().encode(value)]);

const elementType = { float32: 1, float16: 10 };

/**
 * `ops` times `com.microsoft.MultiHeadAttention`, each with the output of the one before as its
 * query, and all with the same key and value. Query, key and value are constants and the result is
 * reduced to one number, so that a run copies nothing of size; a scalar input, to be given as 0
 * and added to the query, keeps the runtime from computing the model when it is loaded.
 */
export function attentionChain(of: BenchCase, ops: number): Uint8Array {
  const { dtype, batch, heads, keys, depth, queries, causal } = of;
  const type = elementType[dtype];
  const packed = (rows: number) => [batch, rows, heads * depth];
  const constant = (name: string, shape: readonly number[]): Bytes => {
    const { buffer } = randomElements(
      dtype,
      shape.reduce((a, b) => a * b),
    );
    const dimensions = shape.map((length) => integer(1, length));
    return message(
      5,
      ...dimensions,
      integer(2, type),
      text(8, name),
      message(9, [new Uint8Array(buffer)]),
    );
  };
  const value = (field: number, name: string): Bytes => {
    const tensorType = message(1, integer(1, type), message(2, message(1, integer(1, 1))));
    return message(field, text(1, name), message(2, tensorType));
  };
  const node = (op: string, inputs: string[], output: string, ...rest: Bytes[]): Bytes =>
    message(1, ...inputs.map((name) => text(1, name)), text(2, output), text(4, op), ...rest);
  const attribute = (name: string, number: number): Bytes =>
    message(5, text(1, name), integer(3, number), integer(20, 2));
  const attention = [
    attribute("num_heads", heads),
    ...(causal ? [attribute("unidirectional", 1)] : []),
    text(7, "com.microsoft"),
  ];
  const cache = [batch, heads, keys, depth];
  const graph = message(
    7,
    node("Add", ["query", "zero"], "q0"),
    ...Array.from({ length: ops }, (_, i) =>
      node("MultiHeadAttention", [`q${i}`, "key", "value"], `q${i + 1}`, ...attention),
    ),
    node("ReduceMax", [`q${ops}`], "largest", attribute("keepdims", 1)),
    node("Reshape", ["largest", "one"], "result"),
    text(2, "chain"),
    constant("query", packed(queries)),
    constant("key", queries === keys ? packed(keys) : cache),
    constant("value", queries === keys ? packed(keys) : cache),
    message(5, integer(1, 1), integer(2, 7), text(8, "one"), message(9, [oneAsInt64])),
    value(11, "zero"),
    value(12, "result"),
  );
  const opset = (domain: string, version: number) =>
    message(8, text(1, domain), integer(2, version));
  const model = [integer(1, 8), graph, opset("", 17), opset("com.microsoft", 1)].flat();
  return Buffer.concat(model);
}

const oneAsInt64 = Uint8Array.from([1, 0, 0, 0, 0, 0, 0, 0]);

/** Whether the op takes the case, which has no grouped heads, and a model file its constants. */
export const takesCase = (of: BenchCase): boolean =>
  of.heads === of.kvHeads && !of.vector && bytesMoved(of) < 2 ** 29;
