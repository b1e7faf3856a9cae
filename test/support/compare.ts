import { AssertionError } from "chai";
import type { HostView } from "../../src/devices/kernel.ts";
import type { DType } from "../../src/tensor/dtype.ts";
import { toFloat32 } from "../../src/tensor/half.ts";

/** A result passes where `|got − expected| ≤ absolute + relative · |expected|`. */
export interface Tolerance {
  readonly absolute: number;
  readonly relative: number;
}

/** The tolerances that docs/attention.md promises for inputs of order 1. */
export function toleranceFor(dtype: DType, device: "cpu" | "webgpu"): Tolerance {
  if (dtype === "float16") return { absolute: 2e-3, relative: 2e-3 };
  if (dtype === "bfloat16") return { absolute: 1e-2, relative: 1e-2 };
  return device === "cpu" ? { absolute: 1e-6, relative: 1e-5 } : { absolute: 1e-5, relative: 1e-4 };
}

const shownFailures = 8;

/**
 * Fails with a table of indices, expected and got unless every element is within the tolerance. NaN
 * matches NaN, and an infinity only itself.
 *
 * @param got Any dtype; halves are widened.
 * @param expected Numbers, rounded to `got`'s dtype where that makes them infinite.
 * @param context Printed below the table: whatever it takes to run the case again.
 * @param allowance What an element may be off by beside that. Asked of those that need it.
 */
export function assertClose(
  label: string,
  got: HostView,
  expected: ArrayLike<number>,
  tolerance: Tolerance,
  context = "",
  allowance: (element: number) => number = () => 0,
): void {
  const { dtype, shape } = got;
  const count = shape.reduce((product, length) => product * length, 1);
  if (got.data.length < count || expected.length !== count)
    throw new AssertionError(
      `${label}: shape [${shape}] needs ${count} elements, got ${got.data.length}, expected ${expected.length}`,
    );
  const values = widened(got);
  const failures: string[][] = [];
  let failed = 0;
  let worst = 0;
  for (let i = 0; i < count; i++) {
    const value = values[i]!;
    const target = asStored(expected[i]!, dtype);
    if (Object.is(value, target) || value === target) continue;
    if (Number.isNaN(value) && Number.isNaN(target)) continue;
    const difference = Math.abs(value - target);
    const allowed = tolerance.absolute + tolerance.relative * Math.abs(target);
    if (Number.isFinite(target) && (difference <= allowed || difference <= allowed + allowance(i)))
      continue;
    failed++;
    if (difference > worst) worst = difference;
    if (failures.length < shownFailures)
      failures.push([
        `[${indices(i, shape)}]`,
        String(target),
        String(value),
        difference.toExponential(2),
      ]);
  }
  if (failed === 0) return;
  const rows = [["index", "expected", "got", "|difference|"], ...failures];
  const widths = [0, 1, 2, 3].map((column) => Math.max(...rows.map((row) => row[column]!.length)));
  const table = rows.map((row) =>
    row.map((cell, column) => cell.padEnd(widths[column]!)).join("  "),
  );
  throw new AssertionError(
    [
      `${label}: ${failed} of ${count} elements of ${dtype} [${shape}] differ by more than ` +
        `${tolerance.absolute} + ${tolerance.relative}·|expected| (worst ${worst.toExponential(2)})`,
      ...table,
      ...(failed > shownFailures ? [`… and ${failed - shownFailures} more`] : []),
      context,
    ].join("\n"),
  );
}

function widened({ data, dtype }: HostView): ArrayLike<number> {
  return dtype === "float16" || dtype === "bfloat16" ? toFloat32(data, dtype) : data;
}

/** Where rounding to the nearest begins to give ∞. */
const infiniteFrom: Readonly<Record<DType, number>> = {
  float32: 2 ** 128 - 2 ** 103,
  float16: 65520,
  bfloat16: 2 ** 128 - 2 ** 119,
  int32: Infinity,
  bool: Infinity,
};

function asStored(value: number, dtype: DType): number {
  return Math.abs(value) >= infiniteFrom[dtype] ? Math.sign(value) * Infinity : value;
}

function indices(flat: number, shape: readonly number[]): string {
  const result: number[] = [];
  let rest = flat;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    result.unshift(rest % shape[axis]!);
    rest = Math.floor(rest / shape[axis]!);
  }
  return result.join(", ");
}
