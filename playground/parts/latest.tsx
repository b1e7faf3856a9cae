import { useEffect, useState } from "preact/hooks";

export interface Latest<T> {
  /** The newest result there is; that of earlier inputs until the new one's is there. */
  readonly result: T | undefined;
  readonly error: string | undefined;
  /** Whether it is not there yet, and takes long enough to say so. */
  readonly busy: boolean;
}

/** Shorter than this, a computation is not worth a word. */
const patience = 200;

/**
 * Computes whenever `inputs` change, one computation at a time; what changed meanwhile is computed next,
 * and only the newest of it.
 */
export function useLatest<T>(compute: () => Promise<T>, inputs: readonly unknown[]): Latest<T> {
  const [latest, setLatest] = useState<Latest<T>>({
    result: undefined,
    error: undefined,
    busy: true,
  });
  const [queue] = useState(() => new LatestOnly());
  useEffect(() => {
    let isNewest = true;
    const late = setTimeout(() => setLatest((before) => ({ ...before, busy: true })), patience);
    // Results come in the order of their inputs, so that of earlier inputs is worth showing, too.
    const settle = (outcome: Partial<Latest<T>>) => {
      if (isNewest) clearTimeout(late);
      setLatest((before) => ({ ...before, ...outcome, busy: before.busy && !isNewest }));
    };
    queue.run(async () => {
      try {
        settle({ result: await compute(), error: undefined });
      } catch (error) {
        settle({ error: error instanceof Error ? error.message : String(error) });
      }
    });
    return () => {
      clearTimeout(late);
      isNewest = false;
    };
  }, inputs);
  useEffect(() => () => queue.stop(), [queue]);
  return latest;
}

/** Runs tasks one at a time; of those that wait, the last. */
class LatestOnly {
  #running = false;
  #next: (() => Promise<void>) | undefined;

  run(task: () => Promise<void>): void {
    this.#next = task;
    if (!this.#running) void this.#drain();
  }

  /** Forgets what waits. */
  stop(): void {
    this.#next = undefined;
  }

  async #drain(): Promise<void> {
    this.#running = true;
    while (this.#next) {
      const task = this.#next;
      this.#next = undefined;
      await task();
    }
    this.#running = false;
  }
}

/** Says that what is shown is not the newest. */
export function Busy({ busy }: { busy: boolean }) {
  return (
    <span class="busy" role="status">
      {busy && "computing…"}
    </span>
  );
}
