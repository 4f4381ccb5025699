/**
 * Milliseconds since 1970 for every decision of a controller: the wall clock as it was when the process began, and what the
 * monotonic clock has counted since. It goes on evenly where somebody sets the time: an hour ahead makes no node silent, an
 * hour back does not stop the timers. Times that people read are off by as much until the controller is started again.
 */
export function steadyNowMs(): number {
  return Math.floor(performance.timeOrigin + performance.now());
}
