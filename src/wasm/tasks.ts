// Who does which task. Each thread has a share of a job's tasks, neighbors and the same ones in every call,
// so that what they read stays in its core's caches: keys and values, above all, that grow by a row a call.
// A thread that is done with its share helps with those of others.

import * as at from "./layout";

/** What {@link takeTask} returns where none is left. */
export const noTask: u32 = 0xffffffff;

/** Takes the next task for a thread. */
export function takeTask(job: usize, thread: u32): u32 {
  const counts: usize = load<u32>(job + at.counts);
  const tasks = load<u32>(job + at.tasks);
  const threads = load<u32>(job + at.threads);
  for (let share = thread, tried: u32 = 0; tried < threads; tried++) {
    const first = start(share, tasks, threads);
    const length = start(share + 1, tasks, threads) - first;
    const count = counts + share * at.countStride;
    // Looking first keeps a count that is used up from being written, and from overflowing.
    if (atomic.load<u32>(count) < length) {
      const taken = atomic.add<u32>(count, 1);
      if (taken < length) return first + taken;
    }
    share = share + 1 === threads ? 0 : share + 1;
  }
  return noTask;
}

@inline
function start(share: u32, tasks: u32, threads: u32): u32 {
  return <u32>((<u64>share * tasks) / threads);
}
