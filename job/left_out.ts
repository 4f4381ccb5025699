import { GokuError } from "./errors.js";
import { SPIKE_WINDOW } from "./spikes.js";

/**
 * Steps that have changed no weight, and whose packs the run goes without: part of the training state, so that every rank, and
 * whoever computes these steps again, leaves out the same ones.
 */
export interface LeftOut {
  first: number;
  last: number;
  /**
   * `not_finite`, `spike`: voted down for its numbers. `unread`: the ranks that share a sequence could not read the same
   * samples. `roll_back`: the run went back to the weights of the step before `first`, since the last one was bad.
   */
  why: LeftOutReason;
}

export const LEFT_OUT_REASONS = ["not_finite", "spike", "unread", "roll_back"] as const;
export type LeftOutReason = (typeof LEFT_OUT_REASONS)[number];
/** Why a step was not computed at all. */
export const ROLL_BACK = "roll_back" satisfies LeftOutReason;

/** So many fit the header of a snapshot beside the exclusions. A run that would need more is ill. */
export const LEFT_OUT_MAX = 1_000;

/** The roll-back that leaves this step out before it is computed. Pure. */
export function rollBackOf(record: readonly LeftOut[], step: number): LeftOut | null {
  return record.find((each) => each.why === ROLL_BACK && has(each, step)) ?? null;
}

export function isLeftOut(record: readonly LeftOut[], step: number): boolean {
  return record.some((each) => has(each, step));
}

function has({ first, last }: LeftOut, step: number): boolean {
  return first <= step && step <= last;
}

/**
 * The record with one entry more, in the order of the last steps. What is there is not added again, and a step that was voted down
 * right after others for the same reason lengthens their entry. Pure.
 * @throws GokuError NOT_FINITE when there is no room
 */
export function withLeftOut(record: readonly LeftOut[], entry: LeftOut): LeftOut[] {
  if (record.some((each) => same(each, entry))) return [...record];
  if (entry.why !== ROLL_BACK) {
    if (record.some((each) => each.why === entry.why && has(each, entry.first))) return [...record];
    const before = record.find((each) => each.why === entry.why && each.last + 1 === entry.first);
    if (before) return record.map((each) => (each === before ? { ...each, last: entry.last } : each));
  }
  if (record.length === LEFT_OUT_MAX) {
    throw new GokuError(
      "NOT_FINITE",
      `Cannot leave out step ${entry.last}: bad steps were left out in ${LEFT_OUT_MAX} places of this run already, resume from an earlier checkpoint with other settings, for example a lower optimizer.lr`,
    );
  }
  return [...record, entry].sort((a, b) => a.last - b.last || a.first - b.first);
}

function same(a: LeftOut, b: LeftOut): boolean {
  return a.first === b.first && a.last === b.last && a.why === b.why;
}

/**
 * Where a roll-back from a bad step leads: the last step that stays, so that `count` steps after it, the bad one among them, are
 * undone. Steps that changed no weight do not count: after trouble that comes again at once this goes further back. Pure.
 */
export function stepBack(
  record: readonly LeftOut[],
  { step, count }: { step: number; count: number },
): number {
  let undone = 0;
  let back = step;
  while (back > 0 && undone < count) {
    if (back === step || !isLeftOut(record, back)) undone += 1;
    back -= 1;
  }
  return back;
}

/** Roll-backs that led to this one: each within as many steps of the one before as the limits for spikes look back. Pure. */
export function rollBacksInARow(record: readonly LeftOut[], step: number): number {
  const ends = record.filter(({ why, last }) => why === ROLL_BACK && last < step).map(({ last }) => last);
  let count = 0;
  let next = step;
  for (const last of [...new Set(ends)].sort((a, b) => b - a)) {
    if (next - last > SPIKE_WINDOW) break;
    count += 1;
    next = last;
  }
  return count;
}
