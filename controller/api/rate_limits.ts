/** Callers remembered at most; those who have their whole burst again are forgotten first. */
const CALLERS_MAX = 10_000;

/** Token buckets, one a caller: so many requests a second, and after a pause so many at once. Pure: the clock is the caller's. */
export class RateLimits {
  readonly #perSecond: number;
  readonly #burst: number;
  /** Requests left, and when that was so; a bucket fills up again with time. */
  readonly #buckets = new Map<string, { left: number; atMs: number }>();

  constructor({ perSecond, burst }: { perSecond: number; burst: number }) {
    this.#perSecond = perSecond;
    this.#burst = burst;
  }

  /** Takes one request from a caller's bucket. 0: it was there; else nothing was taken, and after so many ms it will be. */
  take(caller: string, nowMs: number): number {
    const left = this.#left(caller, nowMs);
    const waitMs = left >= 1 ? 0 : Math.ceil((1000 * (1 - left)) / this.#perSecond);
    this.#buckets.delete(caller); // the longest unused stand first
    this.#buckets.set(caller, { left: waitMs === 0 ? left - 1 : left, atMs: nowMs });
    if (this.#buckets.size > CALLERS_MAX) this.#forget(nowMs);
    return waitMs;
  }

  #left(caller: string, nowMs: number): number {
    const bucket = this.#buckets.get(caller);
    if (bucket === undefined) return this.#burst;
    const gained = (Math.max(0, nowMs - bucket.atMs) * this.#perSecond) / 1000;
    return Math.min(this.#burst, bucket.left + gained);
  }

  #forget(nowMs: number): void {
    for (const caller of this.#buckets.keys()) {
      if (this.#left(caller, nowMs) >= this.#burst) this.#buckets.delete(caller);
      else if (this.#buckets.size > CALLERS_MAX) this.#buckets.delete(caller);
      else return;
    }
  }
}
