import { describe, test } from "node:test";
import { assert } from "chai";
import { fromFloat32, type HalfDType, toFloat32 } from "../../src/tensor/half.ts";
import { random } from "../support/random.ts";

// Each format anew, from its definition: a sign, `exponentBits`, `fractionBits`.
const formats = {
  float16: { exponentBits: 5, fractionBits: 10 },
  bfloat16: { exponentBits: 8, fractionBits: 7 },
} as const;

function numberOf(bits: number, dtype: HalfDType): number {
  const { exponentBits, fractionBits } = formats[dtype];
  const bias = 2 ** (exponentBits - 1) - 1;
  const sign = bits >= 2 ** 15 ? -1 : 1;
  const exponent = Math.floor(bits / 2 ** fractionBits) % 2 ** exponentBits;
  const fraction = (bits % 2 ** fractionBits) / 2 ** fractionBits;
  if (exponent === 2 ** exponentBits - 1) return fraction === 0 ? sign * Infinity : Number.NaN;
  return exponent === 0
    ? sign * fraction * 2 ** (1 - bias)
    : sign * (1 + fraction) * 2 ** (exponent - bias);
}

const everyPattern = Uint16Array.from({ length: 2 ** 16 }, (_, bits) => bits);
const infinityBits = (dtype: HalfDType) => (dtype === "float16" ? 0x7c00 : 0x7f80);

describe("half-precision conversion", () => {
  for (const dtype of ["float16", "bfloat16"] as const) {
    test(`${dtype}: all 65,536 patterns widen to their value and round back to themselves`, () => {
      const wide = toFloat32(everyPattern, dtype);
      const back = fromFloat32(wide, dtype);
      const wrong: string[] = [];
      for (const bits of everyPattern) {
        const expected = numberOf(bits, dtype);
        const nan = Number.isNaN(expected);
        const same = nan
          ? Number.isNaN(numberOf(back[bits]!, dtype)) // of whatever sign: engines keep one NaN only
          : back[bits] === bits;
        if (!Object.is(wide[bits], expected) || !same)
          wrong.push(
            `0x${bits.toString(16)}: ${expected}, got ${wide[bits]}, 0x${back[bits]!.toString(16)}`,
          );
      }
      assert.deepEqual(wrong.slice(0, 8), []);
    });

    test(`${dtype}: numbers between two neighbours go to the nearer, ties to the even one`, () => {
      const wrong: string[] = [];
      const expect = (value: number, bits: number) => {
        for (const sign of [0, 0x8000]) {
          const [got] = fromFloat32([sign ? -value : value], dtype);
          if (got !== (bits | sign))
            wrong.push(`${sign ? -value : value}: ${bits | sign}, got ${got}`);
        }
      };
      for (let low = 0; low < infinityBits(dtype); low++) {
        // Beyond the largest number its upper neighbour would be 2^16 or 2^128.
        const isLargest = low + 1 === infinityBits(dtype);
        const below = numberOf(low, dtype);
        const step = isLargest
          ? below - numberOf(low - 1, dtype)
          : numberOf(low + 1, dtype) - below;
        const middle = below + step / 2;
        if (Math.fround(middle) !== middle) continue; // below float32's own subnormals
        expect(middle, low % 2 === 0 ? low : low + 1);
        const lower = Math.fround(middle - step / 64);
        const upper = Math.fround(middle + step / 64);
        if (lower < middle) expect(lower, low);
        if (upper > middle) expect(upper, low + 1);
      }
      assert.deepEqual(wrong.slice(0, 8), []);
    });

    test(`${dtype}: random numbers round to the nearest of all patterns`, () => {
      const generator = random();
      const finite = [...everyPattern.subarray(0, infinityBits(dtype))];
      for (let i = 0; i < 500; i++) {
        const value = Math.fround(Math.abs(generator.normal()) * 2 ** generator.integer(-20, 12));
        const [bits] = fromFloat32([value], dtype);
        const distance = Math.abs(numberOf(bits!, dtype) - value);
        const nearest = nearestDistance(finite, value, dtype);
        assert.isAtMost(distance, nearest, `${value} became 0x${bits!.toString(16)}`);
      }
    });

    test(`${dtype}: zeros, infinities and NaN keep what they are`, () => {
      const values = [0, -0, Infinity, -Infinity, Number.NaN, 2 ** 127 * 1.9999998807907104];
      const [zero, minusZero, infinity, minusInfinity, nan, largest] = fromFloat32(values, dtype);
      assert.equal(zero, 0);
      assert.equal(minusZero, 0x8000);
      assert.equal(infinity, infinityBits(dtype));
      assert.equal(minusInfinity, infinityBits(dtype) | 0x8000);
      assert.isNaN(numberOf(nan!, dtype));
      assert.equal(largest, infinityBits(dtype));
    });
  }

  test("another dtype is refused", () => {
    assert.throws(
      () => fromFloat32([1], "float32" as HalfDType),
      'fromFloat32: dtype must be "float16" or "bfloat16", got "float32"',
    );
    assert.throws(
      () => toFloat32([1], "int32" as HalfDType),
      'toFloat32: dtype must be "float16" or "bfloat16", got "int32"',
    );
  });
});

function nearestDistance(patterns: readonly number[], value: number, dtype: HalfDType): number {
  // Values rise with their patterns: search the last one not above `value`.
  let [low, high] = [0, patterns.length - 1];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (numberOf(patterns[middle]!, dtype) <= value) low = middle;
    else high = middle - 1;
  }
  const above = Math.min(low + 1, patterns.length - 1);
  return Math.min(
    Math.abs(numberOf(patterns[low]!, dtype) - value),
    Math.abs(numberOf(patterns[above]!, dtype) - value),
  );
}
