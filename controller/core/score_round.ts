import type { RankTimes } from "./wire.js";

/** Where a rank computes by itself, and what its time there is proportional to: the work of its packs, or the steps. */
const SECTIONS = [
  { name: "forward", time: "forwardUs", amount: "work" },
  { name: "backward", time: "backwardUs", amount: "work" },
  { name: "optimizer", time: "optimizerUs", amount: "steps" },
] as const;
export type SectionName = (typeof SECTIONS)[number]["name"];

/** Scores of one round, in rank order; 1: as fast as the others, NaN: the rank had no work, or is the only one. */
export interface RoundScores {
  slowness: Float64Array;
  sections: Record<SectionName, Float64Array>;
}

/**
 * How slow every rank was over a few steps, for the work that it had:
 *
 *   pace(r, s)   = own time of rank r in section s / its work (forward, backward) or its steps (optimizer)
 *   median(r, s) = the lower median of pace(q, s) over all other ranks q that had work
 *   slowness(r)  = sum over s of own time(r, s) / sum over s of median(r, s) * its work or steps
 *
 * Ranks have unequal work (packs are dealt in turn, heads may be uneven), so times alone say nothing. A rank is compared
 * with the others, not with a median that it is part of: of two ranks each is measured by the other, and where half of all
 * are slow, the slow ones are.
 * @param deltas what each rank's sums have grown by; null: not known
 */
export function scoreRound(deltas: readonly (RankTimes | null)[]): RoundScores {
  const ranks = deltas.length;
  const own = new Float64Array(ranks);
  const expected = new Float64Array(ranks);
  const sections = {} as RoundScores["sections"];
  for (const { name, time, amount } of SECTIONS) {
    const paces = Float64Array.from(deltas, (d) =>
      d === null || d.work === 0 || d.steps === 0 ? Number.NaN : d[time] / d[amount],
    );
    const medians = mediansOfOthers(paces);
    sections[name] = paces.map((pace, rank) => pace / medians[rank]!);
    for (const [rank, delta] of deltas.entries()) {
      own[rank]! += delta?.[time] ?? Number.NaN;
      expected[rank]! += medians[rank]! * (delta?.[amount] ?? Number.NaN);
    }
  }
  return { slowness: own.map((time, rank) => time / expected[rank]!), sections };
}

/** For every value the lower median of all others; NaN where it is NaN, or there is no other. */
function mediansOfOthers(values: Float64Array): Float64Array {
  const sorted = values.filter((value) => !Number.isNaN(value)).sort();
  const middle = Math.floor((sorted.length - 2) / 2);
  if (middle < 0) return new Float64Array(values.length).fill(Number.NaN);
  return values.map((value) =>
    Number.isNaN(value) ? value : value <= sorted[middle]! ? sorted[middle + 1]! : sorted[middle]!,
  );
}
