/** Work that is done in order. Most of it is done when `add` returns; what threads go on with is not. */
export class Queue {
  readonly #waiting: (() => void | Promise<void>)[] = [];
  #busy = false;

  /** Whether work is under way: what is added now has to wait. */
  get busy(): boolean {
    return this.#busy;
  }

  /**
   * Does `work`, or has it wait its turn. It must not throw or reject unless it is sure to be done at
   * once: nobody would hear of it.
   */
  add(work: () => void | Promise<void>): void {
    if (this.#busy) {
      this.#waiting.push(work);
      return;
    }
    const going = work();
    if (going) this.#follow(going);
  }

  #follow(going: Promise<void>): void {
    this.#busy = true;
    void going.then(() => {
      this.#busy = false;
      while (!this.#busy && this.#waiting.length > 0) this.add(this.#waiting.shift()!);
    });
  }
}
