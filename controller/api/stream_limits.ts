import { RateLimitedError } from "./rate_limited_error.js";

/** Another stream has to go first, whose time nobody knows. */
const WAIT_MS = 5_000;

/** Counts streams of one kind, which each hold memory as long as they are open: so many a caller, so many in all. */
export class StreamLimits {
  readonly #most: { perCaller: number; total: number };
  readonly #texts: { action: string; advice: string };
  readonly #open = new Map<string, number>();
  #total = 0;

  /** @param texts what cannot be done when there are too many, and what helps */
  constructor(most: { perCaller: number; total: number }, texts: { action: string; advice: string }) {
    this.#most = most;
    this.#texts = texts;
  }

  /**
   * Returns what to call when the stream has ended. Throws RATE_LIMITED.
   * @param caller null: cannot be told from others, so that only the sum counts
   */
  open(caller: string | null): () => void {
    const { perCaller, total } = this.#most;
    if (this.#total >= total) throw this.#tooMany(`${total} are open in all`);
    const own = caller === null ? 0 : (this.#open.get(caller) ?? 0);
    if (own >= perCaller) throw this.#tooMany(`${caller} has ${perCaller} open`);
    if (caller !== null) this.#open.set(caller, own + 1);
    this.#total++;
    let isOpen = true;
    return () => {
      if (!isOpen) return;
      isOpen = false;
      this.#total--;
      if (caller === null) return;
      const left = this.#open.get(caller)! - 1;
      if (left === 0) this.#open.delete(caller);
      else this.#open.set(caller, left);
    };
  }

  #tooMany(found: string): RateLimitedError {
    const { action, advice } = this.#texts;
    return new RateLimitedError(`Cannot ${action}: ${found}, which is the most; ${advice}`, WAIT_MS);
  }
}
