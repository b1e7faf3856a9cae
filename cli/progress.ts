/** How often the line on a terminal changes, in milliseconds. */
const interval = 100;

/**
 * Says on stderr what long work is at: on a terminal one line, with the time elapsed, changed in place;
 * elsewhere one line for each stage.
 */
export class Progress {
  readonly #start = performance.now();
  readonly #name: string;
  readonly #enabled: boolean;
  #stage = "";
  #detail = "";
  #drawn = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(name: string, enabled: boolean) {
    this.#name = name;
    this.#enabled = enabled;
  }

  /** The work enters a stage. */
  stage(text: string): void {
    this.#stage = text;
    this.#detail = "";
    if (!this.#enabled) return;
    if (!process.stderr.isTTY) {
      process.stderr.write(`${this.#name}: ${text}\n`);
      return;
    }
    this.#draw();
    this.#timer ??= setInterval(() => this.#draw(), interval).unref();
  }

  /** How far the stage is, from 0 to 1. */
  update(fraction: number): void {
    this.#detail = `, ${Math.floor(100 * fraction)}%`;
    // Work that leaves the timer no turn is shown here.
    if (this.#timer && performance.now() - this.#drawn >= interval) this.#draw();
  }

  #draw(): void {
    const now = performance.now();
    this.#drawn = now;
    const elapsed = ((now - this.#start) / 1000).toFixed(1);
    const line = `${this.#name}: ${this.#stage}${this.#detail}, ${elapsed} s`;
    // One column stays free, so that no terminal wraps the line.
    process.stderr.write(`\r${line.slice(0, (process.stderr.columns || 80) - 1)}\x1b[K`);
  }

  /** The work is over, well or not: clears the line. */
  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    if (this.#timer) process.stderr.write("\r\x1b[K");
    this.#timer = undefined;
  }
}
