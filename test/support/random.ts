import type { Parameters } from "fast-check";

// One seed for every randomised test, so that a failure can be run again:
//   QKV_SEED=123 npm test         the seed, an integer or "random" (default: 42)
//   QKV_CASES=2000 npm test       cases of each sweep (default: each sweep's own number)
// In a browser, set globals of these names before the tests load.

function setting(name: string): string | undefined {
  const { process, [name]: own } = globalThis as unknown as Record<string, unknown> & {
    process?: { env?: Record<string, string | undefined> };
  };
  const value = own ?? process?.env?.[name];
  return value === undefined ? undefined : String(value);
}

/** The seed of this run. */
export const seed: number = (() => {
  const given = setting("QKV_SEED") ?? "42";
  const number = given === "random" ? Math.floor(Math.random() * 2 ** 31) : Number(given);
  if (!Number.isInteger(number))
    throw new Error(`QKV_SEED must be an integer or "random", got ${given}`);
  return number;
})();

/** The number of cases of a sweep: `QKV_CASES`, or the sweep's own. */
export function sweepCases(ownNumber: number): number {
  return Number(setting("QKV_CASES") ?? ownNumber);
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
