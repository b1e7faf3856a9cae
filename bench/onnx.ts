// Model files, in as much of protobuf as the benchmarks need.
// Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto

/** Encoded fields of a message, one after another. */
export type Fields = readonly Uint8Array[];

function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) + 128);
  return Uint8Array.from([...bytes, rest]);
}

export const integer = (field: number, value: number): Fields => [varint(field * 8), varint(value)];

export function message(field: number, ...parts: Fields[]): Fields {
  const body = parts.flat();
  const length = body.reduce((total, bytes) => total + bytes.length, 0);
  return [varint(field * 8 + 2), varint(length), ...body];
}

export const text = (field: number, value: string): Fields =>
  message(field, [new TextEncoder().encode(value)]);

/** Numbers of element types. */
export const elementType = { float32: 1, int64: 7, float16: 10 };

/** A node of a graph. `rest` holds its attributes, and its domain if that is not ONNX's own. */
export const node = (
  op: string,
  inputs: readonly string[],
  output: string,
  ...rest: Fields[]
): Fields =>
  message(1, ...inputs.map((name) => text(1, name)), text(2, output), text(4, op), ...rest);

/** An attribute of one integer. */
export const attribute = (name: string, value: number): Fields =>
  message(5, text(1, name), integer(3, value), integer(20, 2));

/** What a node of `com.microsoft.MultiHeadAttention` has beside its inputs. */
export const multiHeadAttention = (heads: number, ...attributes: Fields[]): Fields[] => [
  attribute("num_heads", heads),
  ...attributes,
  text(7, "com.microsoft"),
];

/** A constant of a graph. */
export const constant = (
  name: string,
  type: number,
  shape: readonly number[],
  data: Uint8Array,
): Fields =>
  message(
    5,
    ...shape.map((length) => integer(1, length)),
    integer(2, type),
    text(8, name),
    message(9, [data]),
  );

function valueInfo(field: number, name: string, type: number, shape: readonly number[]): Fields {
  const dimensions = shape.map((length) => message(1, integer(1, length)));
  const tensorType = message(1, integer(1, type), message(2, ...dimensions));
  return message(field, text(1, name), message(2, tensorType));
}

export const graphInput = (name: string, type: number, shape: readonly number[]): Fields =>
  valueInfo(11, name, type, shape);

export const graphOutput = (name: string, type: number, shape: readonly number[]): Fields =>
  valueInfo(12, name, type, shape);

/** A model file of a graph: its nodes, constants, inputs and outputs. */
export function model(...graph: Fields[]): Uint8Array<ArrayBuffer> {
  const opset = (domain: string, version: number) =>
    message(8, text(1, domain), integer(2, version));
  const parts = [
    integer(1, 8),
    message(7, ...graph, text(2, "chain")),
    opset("", 17),
    opset("com.microsoft", 1),
  ].flat();
  const file = new Uint8Array(parts.reduce((total, bytes) => total + bytes.length, 0));
  let end = 0;
  for (const bytes of parts) {
    file.set(bytes, end);
    end += bytes.length;
  }
  return file;
}
