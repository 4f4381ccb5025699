/** Longest pause between two looks for what somebody else is to write. */
const PAUSE_MS_MAX = 2_000;

/** Pause before the next look: a tenth of the wait so far, since thousands may wait for the same, and `leastMs` at least. */
export function pollPauseMs(waitedMs: number, leastMs: number): number {
  return Math.min(PAUSE_MS_MAX, Math.max(leastMs, waitedMs / 10));
}
