import type { BenchmarkSize } from "./sizes.ts";

// An ONNX model of one node, written by hand: Protocol Buffers of a few fields
// (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).

type Bytes = readonly number[];

function varint(value: number): Bytes {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 128);
  return [...bytes, rest];
}

const integer = (field: number, value: number): Bytes => [...varint(8 * field), ...varint(value)];

function message(field: number, ...parts: readonly Bytes[]): Bytes {
  const content = parts.flat();
  return [...varint(8 * field + 2), ...varint(content.length), ...content];
}

const text = (field: number, value: string): Bytes =>
  message(field, [...new TextEncoder().encode(value)]);

const float32 = 1;
const integerAttribute = 2;

/** A `ValueInfoProto`. */
function value(field: number, name: string, shape: readonly number[]): Bytes {
  const dimensions = shape.map((length) => message(1, integer(1, length)));
  const type = message(1, integer(1, float32), message(2, ...dimensions));
  return message(field, text(1, name), message(2, type));
}

/**
 * `MultiHeadAttention` of ONNX Runtime's own operators, in the packed layout `[1, rows, heads · depth]`:
 * softmax(Q·Kᵀ/√depth)·V.
 */
export function attentionModel({ heads, queries, keys, depth }: BenchmarkSize): Uint8Array {
  const width = heads * depth;
  const node = message(
    1,
    ...["q", "k", "v"].map((name) => text(1, name)),
    text(2, "output"),
    text(4, "MultiHeadAttention"),
    message(5, text(1, "num_heads"), integer(3, heads), integer(20, integerAttribute)),
    text(7, "com.microsoft"),
  );
  const graph = message(
    7,
    node,
    text(2, "attention"),
    value(11, "q", [1, queries, width]),
    value(11, "k", [1, keys, width]),
    value(11, "v", [1, keys, width]),
    value(12, "output", [1, queries, width]),
  );
  const operators = [
    message(8, text(1, ""), integer(2, 17)),
    message(8, text(1, "com.microsoft"), integer(2, 1)),
  ];
  return Uint8Array.from([...integer(1, 8), ...operators.flat(), ...graph]);
}
