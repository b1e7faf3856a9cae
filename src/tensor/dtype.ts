import { refuse } from "../errors.ts";

/**
 * Element types. `float16` and `bfloat16` are held on the host as the bits in a `Uint16Array`
 * (see `fromFloat32` and `toFloat32`), `bool` as one byte an element, 0 or 1.
 */
export type DType = "float32" | "float16" | "bfloat16" | "int32" | "bool";

/** Host storage of a tensor. */
export type TensorData = Float32Array | Uint16Array | Int32Array | Uint8Array;

interface DTypeInfo {
  readonly bytes: number;
  readonly array: {
    new (length: number): TensorData;
    new (buffer: ArrayBufferLike, byteOffset: number, length: number): TensorData;
  };
}

const table: Readonly<Record<DType, DTypeInfo>> = {
  float32: { bytes: 4, array: Float32Array },
  float16: { bytes: 2, array: Uint16Array },
  bfloat16: { bytes: 2, array: Uint16Array },
  int32: { bytes: 4, array: Int32Array },
  bool: { bytes: 1, array: Uint8Array },
};

/** Every dtype, in the order of the documentation. */
export const dtypes = Object.keys(table) as readonly DType[];

/** Bytes of one element of `dtype`. */
export function bytesPerElement(dtype: DType): number {
  return table[dtype].bytes;
}

/** Throws unless `dtype` is one of {@link dtypes}. */
export function checkDType(operation: string, dtype: unknown): asserts dtype is DType {
  if (typeof dtype !== "string" || !Object.hasOwn(table, dtype))
    refuse(operation, `dtype must be one of ${dtypes.join(", ")}`, dtype);
}

/** A zeroed host array of `length` elements of `dtype`. */
export function allocateData(dtype: DType, length: number): TensorData {
  return new table[dtype].array(length);
}

/** `length` elements of `dtype` in `buffer` from `byteOffset` on, without a copy. */
export function viewData(
  dtype: DType,
  buffer: ArrayBufferLike,
  byteOffset: number,
  length: number,
): TensorData {
  return new table[dtype].array(buffer, byteOffset, length);
}

/** Whether `data` is the host storage of `dtype`. */
export function holdsDType(data: unknown, dtype: DType): data is TensorData {
  return data instanceof table[dtype].array;
}

/** Bytes of a tensor of `dtype` and `shape`. */
export function tensorBytes(dtype: DType, shape: readonly number[]): number {
  return shape.reduce((product, length) => product * length, bytesPerElement(dtype));
}
