/** The core's named timers on the process's own; a timer armed again moves. */
export class Timers {
  readonly #fire: (timer: string) => void;
  readonly #armed = new Map<string, NodeJS.Timeout>();

  constructor(fire: (timer: string) => void) {
    this.#fire = fire;
  }

  arm(timer: string, afterMs: number): void {
    this.cancel(timer);
    const handle = setTimeout(
      () => {
        this.#armed.delete(timer);
        this.#fire(timer);
      },
      Math.min(Math.max(0, afterMs), 2 ** 31 - 1),
    );
    this.#armed.set(timer, handle);
  }

  cancel(timer: string): void {
    clearTimeout(this.#armed.get(timer));
    this.#armed.delete(timer);
  }

  cancelAll(): void {
    for (const timer of [...this.#armed.keys()]) this.cancel(timer);
  }
}
