// A model file of a chain of attention ops, in as much of protobuf as that needs.
// Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto

import type { BenchCase } from "./cases.ts";

function varint(value: number): number[] {
  const result: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) result.push((rest % 128) + 128);
  return [...result, rest];
}

const integer = (field: number, value: number): number[] => [
  ...varint(field << 3),
  ...varint(value),
];

function message(field: number, ...parts: readonly (readonly number[])[]): number[] {
  const body = parts.flat();
  return [...varint((field << 3) | 2), ...varint(body.length), ...body];
}

const text = (field: number, value: string): number[] =>
  message(field, [...new TextEncoder().encode(value)]);

const float32 = 1;

function valueInfo(field: number, name: string, shape: readonly number[]): number[] {
  const dimensions = shape.map((length) => message(1, integer(1, length)));
  const tensorType = message(1, integer(1, float32), message(2, ...dimensions));
  return message(field, text(1, name), message(2, tensorType));
}

/**
 * `ops` times `com.microsoft.MultiHeadAttention`, each with the output of the one before as its query
 * and all with the same key and value. Query `[batch, queries, heads · depth]`; key and value
 * `[batch, heads, keys, depth]`, as of a cache: so the op need not transpose them.
 */
export function attentionChain(
  { batch, heads, queries, keys, depth }: BenchCase,
  ops: number,
): Uint8Array {
  const numHeads = message(5, text(1, "num_heads"), integer(3, heads), integer(20, 2));
  const nodes = Array.from({ length: ops }, (_, i) =>
    message(
      1,
      ...[i === 0 ? "q" : `o${i - 1}`, "k", "v"].map((name) => text(1, name)),
      text(2, i === ops - 1 ? "o" : `o${i}`),
      text(4, "MultiHeadAttention"),
      numHeads,
      text(7, "com.microsoft"),
    ),
  );
  const graph = message(
    7,
    ...nodes,
    text(2, "chain"),
    valueInfo(11, "q", [batch, queries, heads * depth]),
    valueInfo(11, "k", [batch, heads, keys, depth]),
    valueInfo(11, "v", [batch, heads, keys, depth]),
    valueInfo(12, "o", [batch, queries, heads * depth]),
  );
  const opset = (domain: string, version: number) =>
    message(8, text(1, domain), integer(2, version));
  return Uint8Array.from([
    ...integer(1, 8),
    ...graph,
    ...opset("", 17),
    ...opset("com.microsoft", 1),
  ]);
}
