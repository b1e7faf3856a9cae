import type { Parameters } from "fast-check";

// One seed for every randomised test, so that a failure can be run again:
//   QKV_SEED=123 npm test         the seed, an integer or "random" (default: 42)
//   QKV_CASES=2000 npm test       cases of each sweep (default: each sweep's own number)
// And what `npm test` tells each runtime, so that all of them together try more:
//   QKV_RUNTIME=deno              what the seed is mixed with: each runtime draws cases of its own
//   QKV_PART=2/4                  of long lists of cases every fourth, from the second on, and of the cases of
//                                 a sweep a fourth (default: all)
// In a browser, set globals of these names before the tests load.

/** A setting from the environment, or a page's globals. */
export function setting(name: string): string | undefined {
  const { process, [name]: own } = globalThis as unknown as Record<string, unknown> & {
    process?: { env?: Record<string, string | undefined> };
  };
  const value = own ?? process?.env?.[name];
  return value === undefined ? undefined : String(value);
}

const runtime = setting("QKV_RUNTIME");

const givenSeed: number = (() => {
  const given = setting("QKV_SEED") ?? "42";
  const number = given === "random" ? Math.floor(Math.random() * 2 ** 31) : Number(given);
  if (!Number.isInteger(number))
    throw new Error(`QKV_SEED must be an integer or "random", got ${given}`);
  return number;
})();

/** The seed of this runtime's cases. */
export const seed: number = Array.from(runtime ?? "").reduce(
  (mixed, letter) => Math.imul(mixed ^ letter.codePointAt(0)!, 0x01000193) & 0x7fffffff,
  givenSeed,
);

/** The settings that draw the same cases again. */
export const seedSettings = `QKV_SEED=${givenSeed}${runtime === undefined ? "" : ` QKV_RUNTIME=${runtime}`}`;

const [firstOfPart, parts] = (() => {
  const given = setting("QKV_PART") ?? "1/1";
  const [first, of] = given.split("/").map(Number) as [number, number];
  if (!(Number.isInteger(of) && Number.isInteger(first) && first >= 1 && first <= of))
    throw new Error(`QKV_PART must be like 2/4, got ${given}`);
  return [first, of];
})();

/** Those of `cases` that are this runtime's: all, or every so many (`QKV_PART`). */
export function part<T>(cases: readonly T[]): T[] {
  return cases.filter((_, i) => i % parts === firstOfPart - 1);
}

/** The number of cases of a sweep: `QKV_CASES`, or this runtime's part of the sweep's own. */
export function sweepCases(ownNumber: number): number {
  return Number(setting("QKV_CASES") ?? Math.ceil(ownNumber / parts));
}

/** fast-check's parameters for a sweep of `ownNumber` cases; a failure prints the seed. */
export function sweep<T>(ownNumber: number): Parameters<T> {
  return { seed, numRuns: sweepCases(ownNumber), endOnFailure: false };
}

/** Random numbers that a seed determines. */
export interface Random {
  /** Uniform in [0, 1). */
  uniform(): number;
  /** Standard normal. */
  normal(): number;
  /** An integer in [minimum, maximum]. */
  integer(minimum: number, maximum: number): number;
}

/** Mulberry32. */
export function random(from: number = seed): Random {
  let state = from | 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  return {
    uniform,
    normal: () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()),
    integer: (minimum, maximum) => minimum + Math.floor(uniform() * (maximum - minimum + 1)),
  };
}
