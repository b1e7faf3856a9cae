import { type BenchCase, shapes } from "./cases.ts";
import { compareRows, type Elements, randomElements, referenceRows } from "./numbers.ts";
import type { PeerResult } from "./peers.ts";
import { summarize, type Timing, timeCalls } from "./timer.ts";

// What the children of bench/gpu.ts have in common. Their libraries have no timestamps to give, so
// that ops are timed in chains.

/** A peer's attention on one case, with its inputs on the GPU. */
export interface PeerAttention {
  /** Ops one after another, each with the output of the one before as its query, until all are done. */
  run(ops: number): Promise<unknown>;
  /** One op's output, `[batch, heads, queries, depth]`. */
  output(): Promise<Elements>;
  destroy(): void;
}

/** Opens a case; throws where the peer cannot run it. */
export type OpenCase = (
  of: BenchCase,
  query: Elements,
  key: Elements,
  value: Elements,
) => Promise<PeerAttention>;

/** One op, by the clock: (t(n) − t(1)) / (n − 1), so that what a call costs once does not count. */
export async function timeChain(
  time: (ops: number) => Promise<Timing>,
  long?: number,
): Promise<Timing> {
  const one = (await time(1)).median;
  // Short ops need a longer chain to be seen, and long ones would fill the memory.
  const ops = long ?? (one < 2000 ? 20 : 5);
  const many = (await time(ops)).median;
  if (many <= one) throw new Error("too short to be timed by the clock");
  return summarize([(many - one) / (ops - 1)]);
}

/** Runs the cases given as JSON by bench/gpu.ts, and prints a line of JSON for each. */
export async function runCases(peer: string, open: OpenCase): Promise<void> {
  const { cases, milliseconds } = JSON.parse(process.argv[2] ?? "{}") as {
    readonly cases: readonly BenchCase[];
    readonly milliseconds: number;
  };
  for (const of of cases) {
    const result = await runCase(of, open, milliseconds).catch((error) => ({
      error: String(error).split("\n")[0]!,
    }));
    console.log(JSON.stringify({ case: of.name, peer, ...result } satisfies PeerResult));
  }
}

async function runCase(
  of: BenchCase,
  open: OpenCase,
  milliseconds: number,
): Promise<Pick<PeerResult, "timing" | "worst" | "correct">> {
  const { query, key } = shapes(of);
  const [q, k, v] = [query, key, key].map((shape) =>
    randomElements(
      of.dtype,
      shape.reduce((a, b) => a * b),
    ),
  );
  const attention = await open(of, q!, k!, v!);
  try {
    const { worst, correct } = compareRows(
      of,
      referenceRows(of, q!, k!, v!),
      await attention.output(),
    );
    const timing = await timeChain((ops) => timeCalls(() => attention.run(ops), milliseconds));
    return { timing, worst, correct };
  } finally {
    attention.destroy();
  }
}
