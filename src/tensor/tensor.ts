import { describe, refuse } from "../errors.ts";
import { checkDType, type DType, holdsDType, type TensorData } from "./dtype.ts";
import { checkShape, elementCount, type Shape } from "./shape.ts";

/** A tensor on the host: row-major `data` of `shape`. Made by {@link tensor}. */
export interface Tensor {
  readonly data: TensorData;
  readonly shape: Shape;
  readonly dtype: DType;
}

const defaultDType = (data: unknown): DType => {
  if (data instanceof Int32Array) return "int32";
  if (data instanceof Uint8Array) return "bool";
  if (data instanceof Uint16Array)
    return refuse("tensor", "dtype must be given for Uint16Array data: float16 or bfloat16");
  return "float32";
};

/**
 * Makes a host tensor. No copy is made of a typed array; an array of numbers becomes a new one.
 *
 * @param data Row-major elements: `Float32Array` (float32), `Uint16Array` of bits (float16, bfloat16),
 *   `Int32Array` (int32), `Uint8Array` of 0 and 1 (bool), or plain numbers (float32, int32, bool).
 *   It may be longer than `shape` needs; the rest is ignored.
 * @param shape Lengths of the axes, each 1 or more. Default: one axis of all the data.
 * @param dtype Default: from the kind of `data`; float32 for plain numbers.
 * @throws QkvError if the dtype is unknown or does not fit the data, a length is not an integer ≥ 1,
 *   or the data is shorter than the shape.
 */
export function tensor(
  data: TensorData | readonly number[],
  shape: Shape = [data?.length],
  dtype: DType = defaultDType(data),
): Tensor {
  checkDType("tensor", dtype);
  checkShape("tensor", "shape", shape);
  const count = elementCount(shape);
  let typed = data as TensorData;
  if (Array.isArray(data)) {
    if (dtype === "float16" || dtype === "bfloat16")
      refuse(
        "tensor",
        `data for ${dtype} must be a Uint16Array of bits (see fromFloat32)`,
        data.slice(0, 3),
      );
    typed =
      dtype === "float32"
        ? new Float32Array(data)
        : dtype === "int32"
          ? new Int32Array(data)
          : new Uint8Array(data);
  }
  if (!holdsDType(typed, dtype))
    refuse("tensor", `data must be the typed array of dtype ${dtype}`, typed);
  if (typed.length < count)
    refuse(
      "tensor",
      `data must hold the ${count} elements of shape [${shape.join(", ")}]`,
      typed.length,
    );
  return {
    data: typed.length === count ? typed : typed.subarray(0, count),
    shape: [...shape],
    dtype,
  };
}

/** Whether `value` is a host tensor: an object with typed-array data, a shape and a dtype, and no device. */
export function isTensor(value: unknown): value is Tensor {
  return (
    typeof value === "object" &&
    value !== null &&
    !("device" in value) &&
    "data" in value &&
    ArrayBuffer.isView(value.data) &&
    "shape" in value &&
    "dtype" in value
  );
}

/** Throws unless `value` is a host tensor whose parts agree: it may have been built by hand. */
export function checkTensor(
  operation: string,
  argument: string,
  value: unknown,
): asserts value is Tensor {
  if (!isTensor(value)) refuse(operation, `${argument} must be a tensor`, value);
  checkDType(operation, value.dtype);
  checkShape(operation, `${argument}'s shape`, value.shape);
  if (!holdsDType(value.data, value.dtype))
    refuse(
      operation,
      `${argument}'s data must be the typed array of dtype ${value.dtype}`,
      value.data,
    );
  const count = elementCount(value.shape);
  if (value.data.length < count)
    refuse(
      operation,
      `${argument}'s data must hold the ${count} elements of its shape ${describe([...value.shape])}`,
      value.data.length,
    );
}
