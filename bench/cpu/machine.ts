// What this machine can do at most, measured with WebAssembly: multiply-adds a second out of registers,
// and bytes a second read from memory. Each thread runs the same, at the same time.

import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import asc from "assemblyscript/asc";
import { median } from "./timing.ts";

const accumulators = [...Array(12).keys()];
const source = (relaxed: boolean) => `
export function multiplyAdd(turns: i32): f32 {
  const x = f32x4.splat(<f32>turns * 1e-7), y = f32x4.splat(<f32>turns * 1e-8);
  ${accumulators.map((i) => `let a${i} = f32x4.splat(${i});`).join(" ")}
  for (let turn = 0; turn < turns; turn++) {
    ${accumulators
      .map((i) =>
        relaxed
          ? `a${i} = f32x4.relaxed_madd(x, y, a${i});`
          : `a${i} = f32x4.add(f32x4.mul(x, a${i}), y);`,
      )
      .join("\n    ")}
  }
  return f32x4.extract_lane(${accumulators.map((i) => `a${i}`).reduce((a, b) => `f32x4.add(${a}, ${b})`)}, 0);
}

export function read(from: usize, bytes: usize): f32 {
  let a = f32x4.splat(0), b = a, c = a, d = a;
  for (const end = from + bytes; from < end; from += 64) {
    a = f32x4.add(a, v128.load(from));
    b = f32x4.add(b, v128.load(from, 16));
    c = f32x4.add(c, v128.load(from, 32));
    d = f32x4.add(d, v128.load(from, 48));
  }
  return f32x4.extract_lane(f32x4.add(f32x4.add(a, b), f32x4.add(c, d)), 0);
}`;

export interface MachineFigures {
  readonly gigaflops: number;
  readonly fused: boolean;
  /** GB/s over as many bytes as decode reads, which caches may hold. */
  readonly readNear: number;
  /** GB/s over more than caches hold. */
  readonly readFar: number;
}

const nearBytes = 2 ** 25;
const farBytes = 2 ** 29;
const turns = 100_000;

async function compile(): Promise<{ bytes: Uint8Array<ArrayBuffer>; fused: boolean }> {
  for (const fused of [true, false]) {
    let binary: Uint8Array<ArrayBuffer> | undefined;
    const options = ["index.ts", "--outFile", "out.wasm", "-O3", "--runtime", "stub"];
    const pages = farBytes / 65_536 + 1;
    await asc.main(
      [
        ...options,
        ...["--use", "abort=", "--enable", "simd", "--initialMemory", String(pages)],
        ...(fused ? ["--enable", "relaxed-simd"] : []),
      ],
      {
        readFile: (name) => (name === "index.ts" ? source(fused) : null),
        writeFile: (name, contents) => {
          if (name === "out.wasm") binary = Uint8Array.from(contents as Uint8Array);
        },
        listFiles: () => [],
      },
    );
    if (binary && WebAssembly.validate(binary)) return { bytes: binary, fused };
  }
  throw new Error("this engine has no SIMD");
}

/** Rates of one thread of `threads`: units a second of each of the measurements. */
function measure(bytes: Uint8Array<ArrayBuffer>, threads: number, barrier: Int32Array): number[] {
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes));
  const { multiplyAdd, read, memory } = exports as unknown as {
    multiplyAdd(turns: number): number;
    read(from: number, bytes: number): number;
    memory: WebAssembly.Memory;
  };
  new Uint8Array(memory.buffer).fill(1); // pages that were never written are all one page of zeros
  const rates: number[] = [];
  const time = (units: number, work: () => void) => {
    for (const end = performance.now() + 300; performance.now() < end; ) work();
    const phase = rates.length + 1;
    Atomics.add(barrier, 0, 1);
    Atomics.notify(barrier, 0);
    for (let seen = 0; seen < phase * threads; seen = Atomics.load(barrier, 0))
      Atomics.wait(barrier, 0, seen, 100);
    const samples: number[] = [];
    for (const end = performance.now() + 700; performance.now() < end; ) {
      const start = performance.now();
      work();
      samples.push(performance.now() - start);
    }
    rates.push(units / median(samples) / 1e6);
  };
  time(turns * accumulators.length * 8, () => multiplyAdd(turns));
  const near = Math.floor(nearBytes / threads / 64) * 64;
  time(near, () => read(65_536, near));
  const far = Math.floor(farBytes / threads / 64) * 64;
  time(far, () => read(65_536, far));
  return rates;
}

/** What the machine can do with so many threads. */
export async function measureMachine(threads: number): Promise<MachineFigures> {
  const { bytes, fused } = await compile();
  const barrier = new Int32Array(new SharedArrayBuffer(4));
  const results = await Promise.all(
    Array.from(
      { length: threads },
      () =>
        new Promise<number[]>((resolve, reject) => {
          const worker = new Worker(new URL(import.meta.url), {
            workerData: { bytes, threads, barrier, measure: true },
          });
          worker.on("message", resolve);
          worker.on("error", reject);
        }),
    ),
  );
  const sum = (i: number) => results.reduce((total, rates) => total + rates[i]!, 0);
  return { gigaflops: sum(0), fused, readNear: sum(1), readFar: sum(2) };
}

if (!isMainThread && workerData?.measure) {
  const { bytes, threads, barrier } = workerData;
  parentPort!.postMessage(measure(bytes, threads, barrier));
}
