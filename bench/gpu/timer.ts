/** Microseconds. */
export interface Timing {
  readonly median: number;
  readonly least: number;
  readonly samples: number;
}

export function summarize(samples: readonly number[]): Timing {
  const sorted = [...samples].sort((a, b) => a - b);
  return { median: sorted[sorted.length >> 1]!, least: sorted[0]!, samples: sorted.length };
}

const usage = { mapRead: 0x1, copySource: 0x4, copyDestination: 0x8, queryResolve: 0x200 };
const mapModeRead = 0x1;
const passesAtOnce = 32;

/** A GPU that has idled for seconds, as while data are made, is slow at first: an H100 for 0.15 to 0.5 s. */
const warmUpMilliseconds = 1000;

/** Times compute passes by the GPU's own timestamps, or by the clock where it has none. */
export class GPUTimer {
  readonly #device: GPUDevice;
  readonly #queries: GPUQuerySet | undefined;
  readonly #resolved: GPUBuffer | undefined;
  readonly #staging: GPUBuffer | undefined;

  constructor(device: GPUDevice) {
    this.#device = device;
    if (!device.features.has("timestamp-query")) return;
    const size = 16 * passesAtOnce;
    this.#queries = device.createQuerySet({ type: "timestamp", count: 2 * passesAtOnce });
    this.#resolved = device.createBuffer({ size, usage: usage.queryResolve | usage.copySource });
    this.#staging = device.createBuffer({ size, usage: usage.mapRead | usage.copyDestination });
  }

  get hasTimestamps(): boolean {
    return this.#queries !== undefined;
  }

  /**
   * Times calls by passes of as many as take a millisecond, so that what a pass takes to start and to end
   * does not count.
   *
   * @param record Records one call; `turn` counts them, to rotate inputs by.
   * @param milliseconds How long to measure for, after a warm-up.
   */
  async time(
    record: (pass: GPUComputePassEncoder, turn: number) => void,
    milliseconds: number,
  ): Promise<Timing> {
    let turn = 0;
    const batch = async (passes: number, calls: number, timed = true): Promise<number[]> => {
      const encoder = this.#device.createCommandEncoder();
      for (let i = 0; i < passes; i++) {
        const pass = encoder.beginComputePass(
          this.#queries && timed
            ? {
                timestampWrites: {
                  querySet: this.#queries,
                  beginningOfPassWriteIndex: 2 * i,
                  endOfPassWriteIndex: 2 * i + 1,
                },
              }
            : undefined,
        );
        for (let call = 0; call < calls; call++) record(pass, turn++);
        pass.end();
      }
      return (await this.#submit(encoder, passes, timed)).map((time) => time / calls);
    };

    let [least = 0] = await batch(1, 1);
    const within = (microseconds: number, most: number) =>
      Math.max(1, Math.min(most, Math.floor(microseconds / least)));
    // Long batches, between which the GPU does not idle, until they get no faster.
    const start = performance.now();
    for (let steady = 0; steady < 3 || performance.now() < start + warmUpMilliseconds; ) {
      const [took = 0] = await batch(1, within(20_000, 1000), false);
      steady = took < 0.99 * least ? 0 : steady + 1;
      least = Math.min(least, took);
    }
    const calls = within(1000, 64);
    const passes = within(20_000 / calls, passesAtOnce);
    const samples: number[] = [];
    const end = performance.now() + milliseconds;
    do samples.push(...(await batch(passes, calls)));
    while (performance.now() < end);
    return summarize(samples);
  }

  async #submit(encoder: GPUCommandEncoder, passes: number, timed: boolean): Promise<number[]> {
    const { queue } = this.#device;
    if (!timed || !this.#queries || !this.#resolved || !this.#staging) {
      const start = performance.now();
      queue.submit([encoder.finish()]);
      await queue.onSubmittedWorkDone();
      return [((performance.now() - start) * 1000) / passes];
    }
    const size = 16 * passes;
    encoder.resolveQuerySet(this.#queries, 0, 2 * passes, this.#resolved, 0);
    encoder.copyBufferToBuffer(this.#resolved, 0, this.#staging, 0, size);
    queue.submit([encoder.finish()]);
    await this.#staging.mapAsync(mapModeRead, 0, size);
    const stamps = new BigUint64Array(this.#staging.getMappedRange(0, size).slice(0));
    this.#staging.unmap();
    return Array.from(
      { length: passes },
      (_, i) => Number(stamps[2 * i + 1]! - stamps[2 * i]!) / 1000,
    );
  }
}

const rounds = 8;

/**
 * Times calls by the clock, from JavaScript's side. They take turns, several times, since how fast a
 * process runs changes from one tenth of a second to the next.
 */
export async function timeInTurn<Name extends string>(
  calls: Readonly<Record<Name, () => Promise<unknown>>>,
  milliseconds: number,
): Promise<Record<Name, Timing>> {
  const names = Object.keys(calls) as Name[];
  const samples = Object.fromEntries(names.map((name) => [name, [] as number[]]));
  for (let round = 0; round < rounds; round++)
    for (const name of names) {
      const call = calls[name];
      const start = performance.now();
      const warm = start + warmUpMilliseconds / rounds;
      const end = warm + milliseconds / rounds;
      const few = () => round === rounds - 1 && samples[name]!.length < 3;
      for (let before = start; before < end || few(); ) {
        await call();
        const after = performance.now();
        if (before >= warm) samples[name]!.push((after - before) * 1000);
        before = after;
      }
    }
  const timings = names.map((name) => [name, summarize(samples[name]!)]);
  return Object.fromEntries(timings) as Record<Name, Timing>;
}

/** {@link timeInTurn} of one call. */
export async function timeCalls(
  call: () => Promise<unknown>,
  milliseconds: number,
): Promise<Timing> {
  return (await timeInTurn({ call }, milliseconds)).call;
}
