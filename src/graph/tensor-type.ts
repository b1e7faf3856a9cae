import { refuse } from "../errors.ts";
import { checkDType, type DType } from "../tensor/dtype.ts";
import type { Shape } from "../tensor/shape.ts";
import {
  canonicalDimension,
  type Dimension,
  type DimensionValues,
  dimensionNames,
  evaluateDimension,
} from "./dimension.ts";

/** The dtype and shape of a value in a graph; axes may be named and get their lengths at execute. */
export class TensorType {
  readonly dtype: DType;
  readonly shape: readonly Dimension[];

  /**
   * @param dtype Element type.
   * @param shape Axes, outermost first: an integer ≥ 1, a name (`"seq_len"`), or sums and products of
   *   them (`"past + kv"`). `[]` is a scalar.
   * @throws QkvError on an unknown dtype or a malformed dimension.
   */
  constructor(dtype: DType, shape: readonly Dimension[]) {
    checkDType("TensorType", dtype);
    if (!Array.isArray(shape)) refuse("TensorType", "shape must be an array of dimensions", shape);
    this.dtype = dtype;
    this.shape = shape.map(canonicalDimension);
  }

  /** Whether both have one dtype and one shape, names included. */
  equals(other: TensorType): boolean {
    return (
      this.dtype === other.dtype &&
      this.shape.length === other.shape.length &&
      this.shape.every((dimension, axis) => dimension === other.shape[axis])
    );
  }

  /** The names of dimensions it uses, in order of appearance. */
  get names(): string[] {
    return [...new Set(this.shape.flatMap(dimensionNames))];
  }

  /** The lengths under `values`. @throws QkvError if a name has no value. */
  resolve(values: DimensionValues): Shape {
    return this.shape.map((dimension) => evaluateDimension(dimension, values));
  }

  /** `float32[seq_len, 64]`. */
  toString(): string {
    return `${this.dtype}[${this.shape.join(", ")}]`;
  }
}
