import type { RunReply, RunRequest } from "./messages.ts";

/** How long code may run before it counts as stuck. */
const limitSeconds = 60;

/** Runs exercises in a worker, which lives until it is stopped. */
export class Runner {
  #worker: Worker | undefined;
  #reject: ((reason: Error) => void) | undefined;

  /** Resolves with the last reply; rejects if it is stopped. */
  run(request: RunRequest, onProgress: (text: string) => void): Promise<RunReply> {
    this.#worker ??= new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
    const worker = this.#worker;
    return new Promise((resolve, reject) => {
      const late = setTimeout(
        () => this.stop(`it was stopped after ${limitSeconds} seconds`),
        limitSeconds * 1000,
      );
      this.#reject = (reason) => {
        clearTimeout(late);
        reject(reason);
      };
      worker.onmessage = ({ data }: MessageEvent<RunReply>) => {
        if (data.kind === "progress") onProgress(data.text);
        else {
          clearTimeout(late);
          resolve(data);
        }
      };
      worker.onerror = (event) => this.stop(event.message || "the worker failed");
      worker.postMessage(request);
    });
  }

  stop(reason = "it was stopped"): void {
    this.#worker?.terminate();
    this.#worker = undefined;
    this.#reject?.(new Error(reason));
    this.#reject = undefined;
  }
}
