import type { Layout } from "../../job/layout.js";

/**
 * Packs of a step that a rank computes, by round: pack i belongs to data rank i % dataRankCount. null: this rank has no
 * pack in that (last) round. Pure.
 */
export function ownPacks(layout: Layout, rank: number, packsPerStep: number): (number | null)[] {
  const rounds = Math.ceil(packsPerStep / layout.dataRankCount);
  return Array.from({ length: rounds }, (_, round) => {
    const pack = round * layout.dataRankCount + layout.dataRank(rank);
    return pack < packsPerStep ? pack : null;
  });
}
