import type { Layout } from "./layout.js";

/**
 * Index in its step of the pack that a rank computes in a round: pack i belongs to data rank i % dataRankCount, or `moved` data
 * ranks further. It may be beyond the last. Pure.
 */
export function dealtPack(
  layout: Layout,
  rank: number,
  { round, moved }: { round: number; moved: number },
): number {
  const { dataRankCount } = layout;
  const home = (layout.dataRank(rank) - (moved % dataRankCount) + dataRankCount) % dataRankCount;
  return round * dataRankCount + home;
}
