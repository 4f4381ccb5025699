import type { Layout } from "../../job/layout.js";
import type { SpikeNews } from "../../job/spikes.js";
import type { VoteResult } from "../parallel/vote.js";

type SpikeBegins = Omit<Extract<SpikeNews, { kind: "begins" }>, "kind">;

/** A step whose numbers were bad, and what computing it again has shown. World ranks, ascending. */
export interface Replay {
  /** Packs of the step, from 0, whose loss was not finite at first. */
  packs: number[];
  /** Ranks whose part of some pack's loss was another one the second time. */
  lossRanks: number[];
  /** Ranks whose shard's gradient norm was another one: all that a wrong gradient of one rank has reached. */
  normRanks: number[];
  /** Ranks on which packs have a loss that is not finite, or a far larger one than on others. */
  homeRanks: number[];
  /** What was a spike at first; both null: the numbers were not finite. */
  loss: SpikeBegins | null;
  gradient: SpikeBegins | null;
}

/** What the replay says of ranks and packs. */
export type ReplayRanks = Omit<Replay, "loss" | "gradient">;

/**
 * The same rank computes the same step to the same bits: where it does not, its device was wrong once. Where all numbers are
 * the same again, they follow from data and weights, or from a device that is always wrong. Pure.
 */
export function judgeReplay(first: VoteResult, second: VoteResult): ReplayRanks {
  const differing = (what: "losses" | "norm") =>
    second.differences!.flatMap((difference, rank) => (difference[what] ? [rank] : []));
  const packs = [...first.packLosses.keys()].filter((slot) => !Number.isFinite(first.packLosses[slot]));
  return { packs, lossRanks: differing("losses"), normRanks: differing("norm"), homeRanks: [] };
}

/** All numbers were the same again, and packs can be computed by ranks that have not computed them: that tells the last two apart. */
export function mayBeMoved(replay: ReplayRanks, layout: Layout): boolean {
  return layout.dataRankCount > 1 && replay.lossRanks.length === 0 && replay.normRanks.length === 0;
}

/** Far more than machines of different kinds may differ. */
const WRONG_FACTOR = 2;

function isWorse(a: number, b: number): boolean {
  return Number.isFinite(b) && (!Number.isFinite(a) || a > WRONG_FACTOR * b);
}

/**
 * Ranks that are always wrong, from a step computed at home and moved on by one data rank: any rank computes the same pack to the
 * same bits, so where one loss of a pack is finite and one is not, whoever had the one that is not is wrong, and of two finite
 * ones that are far apart whoever had the larger: it is spikes that are looked into. Pure.
 */
export function judgeMoved(atHome: VoteResult, moved: VoteResult, layout: Layout): number[] {
  const { dataRankCount, worldSize } = layout;
  const wrong = new Set<number>();
  for (const [slot, loss] of atHome.packLosses.entries()) {
    const movedLoss = moved.packLosses[slot]!;
    if (isWorse(loss, movedLoss)) wrong.add(slot % dataRankCount);
    if (isWorse(movedLoss, loss)) wrong.add((slot + 1) % dataRankCount);
  }
  return Array.from({ length: worldSize }, (_, rank) => rank).filter((rank) =>
    wrong.has(layout.dataRank(rank)),
  );
}
