const FIRST_MS = 100;
const LONGEST_MS = 5_000;

/**
 * Wait before the next try to reach a controller: doubles with each failed one, and is spread by half either way, so that
 * thousands of agents do not come back in one instant. Pure.
 * @param chance in [0, 1)
 */
export function backoffMs(attempt: number, chance: number): number {
  return Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(attempt, 16)) * (0.5 + chance);
}
