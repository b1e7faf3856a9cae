/** The middle of the samples. */
export function median(samples: readonly number[]): number {
  const sorted = [...samples].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

const least = (samples: readonly number[]): number => samples.reduce((a, b) => Math.min(a, b));

/** Milliseconds of a call. */
export interface Timing {
  readonly median: number;
  readonly minimum: number;
  readonly samples: number;
}

async function once(work: () => unknown): Promise<number> {
  const start = performance.now();
  await work();
  return performance.now() - start;
}

/** Times a call for `seconds`, after as long a warm-up (engines compile in the background). */
export async function timeCall(seconds: number, work: () => unknown): Promise<Timing> {
  for (const end = performance.now() + 1000 * seconds; performance.now() < end; ) await once(work);
  const samples: number[] = [];
  const end = performance.now() + 1000 * seconds;
  while (performance.now() < end || samples.length < 5) samples.push(await once(work));
  return { median: median(samples), minimum: least(samples), samples: samples.length };
}

/**
 * Times one op out of a chain: (t(n) − t(1)) / (n − 1), so that what happens once a call, copies of
 * inputs above all, does not count. Short and long calls take turns.
 */
export async function timeChain(
  seconds: number,
  ops: number,
  short: () => unknown,
  long: () => unknown,
): Promise<Timing> {
  const samples: [number[], number[]] = [[], []];
  await once(short);
  await once(long);
  const end = performance.now() + 2000 * seconds;
  while (performance.now() < end || samples[0].length < 5) {
    samples[0].push(await once(short));
    samples[1].push(await once(long));
  }
  const per = (pick: (samples: number[]) => number) =>
    (pick(samples[1]) - pick(samples[0])) / (ops - 1);
  return {
    median: per(median),
    minimum: per(least),
    samples: samples[0].length,
  };
}
