import { type Device, type DeviceTensor, WebGPUDevice } from "qkv";

export interface Measured {
  /** Of one call: the median of the batches. */
  readonly seconds: number;
  readonly calls: number;
}

export interface MeasureOptions {
  /** How long to measure. */
  readonly seconds?: number;
  /** Called between batches, with the share of the time that is over. */
  readonly onProgress?: (share: number) => void;
}

/** A GPU that has idled runs slowly at first. */
const warmUpSeconds = 0.15;

/** Batches are to take about this long, so that starting and ending one counts for little. */
const batchSeconds = 0.04;

/** Resolves when everything enqueued so far is done. */
export async function finished(device: Device): Promise<void> {
  if (device instanceof WebGPUDevice) await device.gpuDevice.queue.onSubmittedWorkDone();
  else await readNothing(device);
}

/** The CPU's queue runs in order: a read ends after what came before it. */
async function readNothing(device: Device): Promise<void> {
  const mark: DeviceTensor = device.allocate("float32", [1]);
  await mark.read();
  mark.destroy();
}

/** Measures a call that enqueues work on a device. */
export function measure(
  device: Device,
  call: () => void | Promise<void>,
  options: MeasureOptions = {},
): Promise<Measured> {
  return measureCalls(call, () => finished(device), options);
}

/**
 * Measures calls in batches.
 *
 * @param call Enqueues the work.
 * @param wait Resolves when it is done.
 */
export async function measureCalls(
  call: () => void | Promise<void>,
  wait: () => Promise<void>,
  { seconds = 0.5, onProgress }: MeasureOptions,
): Promise<Measured> {
  const batch = async (calls: number): Promise<number> => {
    const start = performance.now();
    for (let i = 0; i < calls; i++) await call();
    await wait();
    return (performance.now() - start) / 1000;
  };
  await batch(1); // compiles, and fills caches
  let one = await batch(1);
  for (let warm = one, calls = 1; warm < warmUpSeconds; calls = Math.min(2 * calls, 64)) {
    const took = await batch(calls);
    warm += took;
    one = took / calls;
  }
  const calls = Math.max(1, Math.min(Math.round(batchSeconds / one), 1000));
  const times: number[] = [];
  for (let total = 0; total < seconds || times.length === 0; ) {
    const took = await batch(calls);
    times.push(took / calls);
    total += took;
    onProgress?.(Math.min(total / seconds, 1));
  }
  times.sort((a, b) => a - b);
  return { seconds: times[times.length >> 1]!, calls: calls * times.length };
}
