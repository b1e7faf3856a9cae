import { ThreadError } from "../../errors.ts";

// Threads over one shared WebAssembly memory. A job is a function of the module and the address of its
// parameters; with them lie the counts of tasks taken, by which threads share them out (wasm/tasks.ts).
//
// Threads sleep on `generation`. A job is announced by opening `gate`, changing `generation` and waking
// sleepers. A thread joins by adding 1 to the gate while it is open, works until no task is left, and
// takes its 1 off again. The caller works too, closes the gate when it finds no more tasks, and waits for
// those still inside: nobody waits for a thread that has not woken up yet.
//
// A page's main thread may neither wait nor be kept busy. There the gate stays open and the last thread
// to leave posts a message.

/** The addresses of the control words, which begin at `controlAddress`. */
export const controlAddress = 64;
export const controlBytes = 64;

const word = {
  /** Changes with every job; threads sleep on it. */
  generation: 0,
  /** `open`, and the number of threads inside. */
  gate: 1,
  /** Index of the job's function, and the address of its parameters. */
  function: 2,
  job: 3,
  /** Thread i has its scratch memory at scratch + i · scratchStride. */
  scratch: 4,
  scratchStride: 5,
  /** Whether the last thread to leave is to post a message. */
  post: 6,
  /** Whether a thread failed in the job. */
  failed: 7,
} as const;
const open = 1 << 16;

/** Tries to see a thread leave before the caller goes to sleep for it, and how long it sleeps then. */
const spins = 2000;
const sleepMilliseconds = 20;
/** Tries to see the next job before a thread goes to sleep, some 30 µs: waking it takes longer. */
const idleSpins = 20_000;

// What a thread runs. Text, because it must not depend on where the bundler puts things.
const threadSource = `
(() => {
  const threads = globalThis.process?.getBuiltinModule?.("node:worker_threads");
  if (threads?.parentPort) start(threads.workerData, (message) => threads.parentPort.postMessage(message));
  else globalThis.onmessage = ({ data }) => start(data, (message) => postMessage(message));

  function start({ module, memory, functions, index, controlAddress, word, open, idleSpins }, post) {
    const { exports } = new WebAssembly.Instance(module, { env: { memory } });
    const calls = functions.map((name) => exports[name]);
    const control = new Int32Array(memory.buffer, controlAddress, 16);
    post("ready");
    for (let seen = 0; ; ) {
      for (let i = 0; i < idleSpins && Atomics.load(control, word.generation) === seen; i++);
      Atomics.wait(control, word.generation, seen);
      seen = Atomics.load(control, word.generation);
      let gate = Atomics.load(control, word.gate);
      let inside = false;
      while (!inside && gate & open) {
        const found = Atomics.compareExchange(control, word.gate, gate, gate + 1);
        inside = found === gate;
        gate = found;
      }
      if (!inside) continue;
      try {
        const scratch = control[word.scratch] + index * control[word.scratchStride];
        calls[control[word.function]](control[word.job], scratch, index);
      } catch (error) {
        Atomics.store(control, word.failed, 1);
        console.error(error);
      }
      gate = Atomics.sub(control, word.gate, 1) - 1;
      if (gate & (open - 1)) continue;
      Atomics.notify(control, word.gate);
      if (Atomics.load(control, word.post)) post("done");
    }
  }
})();`;

/** A thread, of Node or of a page. */
interface Thread {
  /** Keeps the process alive for it, or no longer. */
  keepAlive(on: boolean): void;
  /** Resolves when it has stopped. */
  terminate(): Promise<void>;
}

interface ThreadEvents {
  onMessage(message: unknown): void;
  /** It has failed or ended, asked to or not. */
  onEnd(reason: string): void;
}

type StartThread = (data: object, events: ThreadEvents) => Thread;

/** How threads start here; undefined where there are none, or no memory to share with them. */
export function threadStarter(): StartThread | undefined {
  if (typeof SharedArrayBuffer === "undefined") return undefined;
  const { process } = globalThis as { process?: NodeJS.Process };
  const workerThreads = process?.getBuiltinModule?.("node:worker_threads");
  if (workerThreads) {
    const { Worker } = workerThreads;
    return (data, { onMessage, onEnd }) => {
      const worker = new Worker(threadSource, { eval: true, workerData: data });
      worker.on("message", onMessage);
      worker.on("error", (error) => onEnd(String(error)));
      worker.on("exit", (code) => onEnd(`it exited with code ${code}`));
      worker.unref(); // after the listeners: one for messages keeps the process alive again
      return {
        keepAlive: (on) => (on ? worker.ref() : worker.unref()),
        terminate: async () => void (await worker.terminate()),
      };
    };
  }
  if (typeof Worker === "undefined" || !globalThis.crossOriginIsolated) return undefined;
  return (data, { onMessage, onEnd }) => {
    const url = URL.createObjectURL(new Blob([threadSource], { type: "text/javascript" }));
    const worker = new Worker(url);
    worker.onmessage = ({ data: message }) => {
      URL.revokeObjectURL(url);
      onMessage(message);
    };
    worker.onerror = (event) => onEnd(event.message || "it did not start");
    worker.postMessage(data);
    return {
      keepAlive() {},
      async terminate() {
        worker.terminate();
        onEnd("it was terminated");
      },
    };
  };
}

/** Whether this thread may sleep: all but a page's main thread. */
export function mayWait(): boolean {
  try {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 0);
    return true;
  } catch {
    return false;
  }
}

/** A job for {@link ThreadPool.run}. */
export interface Job {
  /** Index into the pool's functions. */
  readonly function: number;
  /** Address of the parameters. */
  readonly address: number;
  /** Address of the first thread's scratch memory, and bytes from each to the next. */
  readonly scratch: number;
  readonly scratchStride: number;
  /** Whether tasks are left to take. */
  hasTasks(): boolean;
}

export interface ThreadPoolOptions {
  readonly module: WebAssembly.Module;
  readonly memory: WebAssembly.Memory;
  readonly functions: readonly string[];
  /** The functions, of this thread's own instance. */
  readonly calls: readonly ((job: number, scratch: number, thread: number) => void)[];
  /** Threads that compute, the calling one among them if it participates. */
  readonly threads: number;
  /** Whether the calling thread works too, and sleeps for the others. */
  readonly participates: boolean;
  readonly start: StartThread;
}

/** Threads that wait for jobs. They start with the first, and do not keep a process alive. */
export class ThreadPool {
  readonly #options: ThreadPoolOptions;
  readonly #control: Int32Array;
  readonly #threads = new Map<number, Thread>();
  /** The job under way, where its end will be reported by a message. */
  #pending: { readonly job: Job; resolve(): void; reject(error: Error): void } | undefined;
  #anyStarted = false;
  #unavailable = false;

  constructor(options: ThreadPoolOptions) {
    this.#options = options;
    this.#control = new Int32Array(options.memory.buffer, controlAddress, controlBytes / 4);
  }

  /** Threads that are alive, the calling one not counted. @internal */
  get alive(): readonly Thread[] {
    return [...this.#threads.values()];
  }

  /**
   * Runs a job on all threads. No other may run meanwhile.
   *
   * @returns Nothing if it is done; a promise if it goes on. That rejects with `ThreadError` if a thread
   *   fails; it does so only when no thread works on the job any more.
   */
  run(job: Job): void | Promise<void> {
    const { calls, threads, participates } = this.#options;
    this.#startThreads();
    const control = this.#control;
    if (this.#unavailable) {
      calls[job.function]!(job.address, job.scratch, 0);
      return;
    }
    control[word.function] = job.function;
    control[word.job] = job.address;
    control[word.scratch] = job.scratch;
    control[word.scratchStride] = job.scratchStride;
    control[word.post] = participates ? 0 : 1;
    control[word.failed] = 0;
    Atomics.store(control, word.gate, open);
    Atomics.add(control, word.generation, 1);
    Atomics.notify(control, word.generation, threads);
    if (!participates) return this.#wait(job);
    try {
      calls[job.function]!(job.address, job.scratch, 0);
    } catch (error) {
      Atomics.store(control, word.failed, 1);
      console.error(error);
    }
    Atomics.and(control, word.gate, ~open);
    for (let i = 0; i < spins; i++)
      if (Atomics.load(control, word.gate) === 0) return this.#checkFailed();
    const deadline = Date.now() + sleepMilliseconds;
    for (let left: number = sleepMilliseconds; left > 0; left = deadline - Date.now()) {
      const inside = Atomics.load(control, word.gate);
      if (inside === 0) return this.#checkFailed();
      Atomics.wait(control, word.gate, inside, left);
    }
    // A long task, or a thread that died. Only the event loop can tell.
    Atomics.store(control, word.post, 1);
    if (Atomics.load(control, word.gate) === 0) return this.#checkFailed();
    return this.#wait(job);
  }

  /** Stops the threads. A job under way fails. */
  async destroy(): Promise<void> {
    this.#unavailable = true;
    await this.#fail("the device was destroyed");
  }

  #checkFailed(): void {
    if (this.#control[word.failed])
      throw new ThreadError("CPU device: a thread failed; its error was logged");
  }

  #startThreads(): void {
    const { module, memory, functions, threads, participates, start } = this.#options;
    for (let index = participates ? 1 : 0; index < threads && !this.#unavailable; index++) {
      if (this.#threads.has(index)) continue;
      const data = { module, memory, functions, index, controlAddress, word, open, idleSpins };
      const events: ThreadEvents = {
        onMessage: (message) => {
          if (message === "ready") this.#anyStarted = true;
          else this.#settle();
        },
        onEnd: (reason) => {
          if (this.#threads.get(index) === thread) this.#ended(index, reason);
        },
      };
      let thread: Thread | undefined;
      try {
        thread = start(data, events);
      } catch {
        this.#unavailable = true;
        return;
      }
      this.#threads.set(index, thread);
    }
  }

  #ended(index: number, reason: string): void {
    this.#threads.delete(index);
    if (!this.#anyStarted) this.#unavailable = true; // they do not start here: go on without
    if (this.#pending) void this.#fail(reason);
  }

  /** Stops all threads, the only way to know that none touches the job any more; new ones start later. */
  async #fail(reason: string): Promise<void> {
    const pending = this.#pending;
    this.#pending = undefined;
    const threads = this.alive;
    this.#threads.clear();
    await Promise.all(threads.map((thread) => thread.terminate()));
    Atomics.store(this.#control, word.gate, 0);
    if (!pending) return;
    const { job, resolve, reject } = pending;
    if (this.#unavailable && !this.#anyStarted) {
      this.#options.calls[job.function]!(job.address, job.scratch, 0);
      resolve();
    } else
      reject(
        new ThreadError(
          `CPU device: a thread died (${reason}) and took this call with it; further calls get new threads`,
        ),
      );
  }

  #wait(job: Job): Promise<void> {
    for (const thread of this.alive) thread.keepAlive(true);
    return new Promise<void>((resolve, reject) => {
      this.#pending = { job, resolve, reject };
    });
  }

  /** Ends the pending job if every task was taken and nobody is inside any more. */
  #settle(): void {
    const pending = this.#pending;
    if (!pending) return;
    if (pending.job.hasTasks() && !this.#control[word.failed]) return;
    Atomics.and(this.#control, word.gate, ~open);
    if (Atomics.load(this.#control, word.gate) !== 0) return; // its last thread posts again
    this.#pending = undefined;
    for (const thread of this.alive) thread.keepAlive(false);
    try {
      this.#checkFailed();
      pending.resolve();
    } catch (error) {
      pending.reject(error as Error);
    }
  }
}
