/** Prints a line when its job's turn comes. */
export type Print = (line: string) => void;

/**
 * Runs `jobs`, up to `atOnce` at a time, and prints their lines job by job in the given order: the
 * first job that has not ended prints at once, the lines of those behind it wait.
 *
 * @returns What the jobs returned, in their order.
 */
export async function runInOrder<Result>(
  jobs: readonly ((print: Print) => Promise<Result>)[],
  atOnce: number,
): Promise<Result[]> {
  const lines: string[][] = jobs.map(() => []);
  const results: Result[] = [];
  let printing = 0;
  const flush = () => {
    for (; printing < jobs.length; printing++) {
      for (const line of lines[printing]!.splice(0)) console.log(line);
      if (!(printing in results)) return;
    }
  };
  let next = 0;
  const work = async () => {
    while (next < jobs.length) {
      const index = next++;
      results[index] = await jobs[index]!((line) => {
        lines[index]!.push(line);
        flush();
      });
      flush();
    }
  };
  await Promise.all(Array.from({ length: atOnce }, work));
  return results;
}
