/** Spreads bytes over time: what was let through is paid for before more is. Pure but for what it remembers. */
export class RateLimiter {
  private freeAtMs = 0;

  /** Milliseconds to wait before these bytes may go. `nowMs`: monotonic. */
  delayMs(bytes: number, bytesPerSecond: number, nowMs: number): number {
    const startMs = Math.max(nowMs, this.freeAtMs);
    this.freeAtMs = startMs + (1000 * bytes) / bytesPerSecond;
    return startMs - nowMs;
  }
}
