const RECONNECT = { firstMs: 100, longestMs: 5_000 };
/** While another controller is taking over: it leads some 3 s after the last one, and is to be found then. */
const TAKE_OVER = { firstMs: 100, longestMs: 1_000 };
const TAKE_OVER_MS = 10_000;

/**
 * Wait before the next try, of reaching a controller unless told otherwise: doubles with each failed one, and is spread by
 * half either way, so that thousands of agents do not come back in one instant. Pure.
 * @param chance in [0, 1)
 */
export function backoffMs(attempt: number, chance: number, { firstMs, longestMs } = RECONNECT): number {
  return Math.min(longestMs, firstMs * 2 ** Math.min(attempt, 16)) * (0.5 + chance);
}

/**
 * Wait before the next controller is tried. Within a round of all of them next to none: one that is dead says so at once. Pure.
 * @param tries that have failed since the last leader was lost
 * @param lostMs how long ago that was
 */
export function nextTryMs(options: {
  tries: number;
  controllers: number;
  lostMs: number;
  chance: number;
}): number {
  const { tries, controllers, lostMs, chance } = options;
  const isRoundOver = tries % controllers === 0;
  const round = isRoundOver ? tries / controllers - 1 : 0;
  return backoffMs(round, chance, isRoundOver && lostMs < TAKE_OVER_MS ? TAKE_OVER : RECONNECT);
}
