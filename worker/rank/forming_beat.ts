import type { Progress } from "../progress.js";

/** Far below the time after which a rank that shows nothing counts as hung. */
const BEAT_MS = 1_000;

/**
 * Shows that a rank lives while a generation forms: nothing of the training loop moves then, and reading a state from far
 * away may take minutes. It beats with the thread that does the work, so a process that is stopped, or blocked for ever,
 * stops beating; one that waits in a collective does, too, and its page says so.
 */
export class FormingBeat {
  #timer: NodeJS.Timeout | null = null;
  #count = 0;

  begin(progress: Progress): void {
    this.end();
    this.#timer = setInterval(() => progress.set({ microStep: ++this.#count }), BEAT_MS);
    this.#timer.unref();
  }

  /** From here on something else shows how far the rank is. */
  end(): void {
    if (this.#timer) clearInterval(this.#timer);
    this.#timer = null;
  }
}
