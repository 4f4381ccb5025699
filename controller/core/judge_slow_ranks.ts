import { DEVIATION_OF_MAD, median } from "../../job/median.js";
import type { RoundScores } from "./score_round.js";

/** Rounds that a verdict looks at, and in how many of them a rank must be slow to be called so, or slow no more. */
export const ROUNDS_COUNT = 8;
export const SLOW_ROUNDS_MIN = 6;
const CALM_ROUNDS_MIN = 6;
/** Less than a tenth slower than the others is not worth a person's time. */
const EXCESS_MIN = 0.1;
/** Nor is what chance does: this many standard deviations. */
const SPREADS = 3;
/** A spread that few differences tell may be far too small: it is taken to be larger by this over their number. */
const FEW = 3;

export interface SlowVerdict {
  /** A rank is slow in a round in which its slowness is above this. */
  limit: number;
  /** Median of each rank's slowness over the rounds; NaN: it had no work in any. */
  typical: Float64Array;
  /** Rounds in which each rank was slow. */
  slowRounds: Uint8Array;
  /** Ranks that are slow, ascending. */
  slow: number[];
}

/**
 * Which ranks are slower than the others by more than chance:
 *
 *   limit              = 1 + max(0.1, 3 * spread over rounds, 3 * spread over ranks)
 *   spread over rounds = (1 + 3 / n) * upper median over ranks of 1.4826 / sqrt(2) * median |slowness - that of the round before|,
 *                        n: (ranks - 1) * (rounds - 1)
 *   spread over ranks  = 1.4826 * lower median |typical - lower median of typical|; typical: a rank's median over the rounds
 *
 * So noisy machines are judged less finely, and no rank is named for belonging to a wide field. Differences from round to
 * round tell noise from a rank that has just become slow, or fast again; lower medians allow for half of the ranks being slow.
 * A rank becomes slow when it is above the limit in 6 of the last 8 rounds, and stays so until it is below in 6 of 8. Pure.
 * @param rounds oldest first, at most ROUNDS_COUNT
 * @param before ranks that were slow before the newest round
 */
export function judgeSlowRanks(rounds: readonly RoundScores[], before: ReadonlySet<number>): SlowVerdict {
  const ranks = rounds[0]?.slowness.length ?? 0;
  const typical = new Float64Array(ranks);
  const noises: number[] = [];
  for (let rank = 0; rank < ranks; rank++) {
    const scores = rounds.map((round) => round.slowness[rank]!).filter((score) => !Number.isNaN(score));
    typical[rank] = median(scores);
    const changes = scores.slice(1).map((score, i) => Math.abs(score - scores[i]!));
    if (changes.length > 0) noises.push((DEVIATION_OF_MAD / Math.SQRT2) * median(changes));
  }
  const known = [...typical].filter((score) => !Number.isNaN(score));
  const middle = median(known, "lower");
  const away = known.map((score) => Math.abs(score - middle));
  const differences = (noises.length - 1) * (rounds.length - 1);
  const overRounds = differences <= 0 ? 0 : (1 + FEW / differences) * median(noises, "upper");
  const overRanks = known.length === 0 ? 0 : DEVIATION_OF_MAD * median(away, "lower");
  const limit = 1 + Math.max(EXCESS_MIN, SPREADS * overRounds, SPREADS * overRanks);
  const slowRounds = new Uint8Array(ranks);
  for (const { slowness } of rounds)
    for (const [rank, score] of slowness.entries()) if (score > limit) slowRounds[rank]! += 1;
  const slow = Array.from(slowRounds.keys()).filter((rank) =>
    before.has(rank)
      ? rounds.length - slowRounds[rank]! < CALM_ROUNDS_MIN
      : slowRounds[rank]! >= SLOW_ROUNDS_MIN,
  );
  return { limit, typical, slowRounds, slow };
}
