const RECONNECT = { firstMs: 100, longestMs: 5_000 };

/**
 * Wait before the next try, of reaching a controller unless told otherwise: doubles with each failed one, and is spread by
 * half either way, so that thousands of agents do not come back in one instant. Pure.
 * @param chance in [0, 1)
 */
export function backoffMs(attempt: number, chance: number, { firstMs, longestMs } = RECONNECT): number {
  return Math.min(longestMs, firstMs * 2 ** Math.min(attempt, 16)) * (0.5 + chance);
}
