import { dealtPack } from "../../job/deal.js";
import type { Layout } from "../../job/layout.js";

/**
 * Packs of a step that a rank computes, by round; null: this rank has no pack in that (last) round. Pure.
 * @param moved by how many data ranks every pack is moved on from the one it belongs to
 */
export function ownPacks(layout: Layout, rank: number, packsPerStep: number, moved = 0): (number | null)[] {
  const rounds = Math.ceil(packsPerStep / layout.dataRankCount);
  return Array.from({ length: rounds }, (_, round) => {
    const pack = dealtPack(layout, rank, { round, moved });
    return pack < packsPerStep ? pack : null;
  });
}

/** Packs announced at most, but for those of the step computed and of the next one. */
const ANNOUNCED_PACKS_MAX = 64;
const ANNOUNCED_STEPS_MAX = 3;

/** Steps whose packs a rank with so many in each has prepared or in preparation at a time, that being computed included. */
export function announcedSteps(ownPackCount: number): number {
  return Math.max(2, Math.min(ANNOUNCED_STEPS_MAX, Math.floor(ANNOUNCED_PACKS_MAX / ownPackCount)));
}
