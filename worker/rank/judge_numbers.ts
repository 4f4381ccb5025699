import {
  findSpike,
  GRADIENT_FACTOR,
  LOSS_FACTOR,
  type NumbersSeen,
  type SpikeNews,
  watchSpikes,
} from "../../job/spikes.js";
import type { VoteResult } from "../parallel/vote.js";
import type { StepFate } from "./decide_fate.js";

type Numbers = Pick<VoteResult, "loss" | "gradNorm" | "numbersFinite">;

/** Why a step is computed again. */
export interface BadNumbers {
  why: "not_finite" | "spike";
  /** The job takes them all the same: only whether a device was wrong is of interest. */
  isTaken: boolean;
}

/**
 * What is wrong with the numbers of a vote, which all ranks have alike; null: nothing that calls for another try. Where spikes
 * are taken, only the first of a row does. Pure.
 */
export function judgeNumbers(
  vote: Numbers,
  { seen, spikesTaken }: { seen: NumbersSeen; spikesTaken: boolean },
): BadNumbers | null {
  if (!vote.numbersFinite) return { why: "not_finite", isTaken: false };
  const found = findSpike(seen, vote);
  if (found === null) return null;
  const begins =
    (found.loss !== null && seen.loss.spikes === 0) ||
    (found.gradient !== null && seen.gradient.spikes === 0);
  return spikesTaken && !begins ? null : { why: "spike", isTaken: spikesTaken };
}

export interface NumbersNews {
  loss: SpikeNews | null;
  gradient: SpikeNews | null;
}

/**
 * Remembers the numbers that counted, of a step that was applied, or the spike for which it was not; a step that is rolled back
 * leaves no trace.
 */
export function noteNumbers(seen: NumbersSeen, vote: Numbers, fate: StepFate): NumbersNews {
  const none = { loss: null, gradient: null };
  if (!vote.numbersFinite) return none;
  const into = fate.kind === "rollBack" ? structuredClone(seen) : seen;
  const found = fate.kind === "apply" ? null : findSpike(seen, vote);
  const take = (what: keyof NumbersNews, value: number, factor: number) =>
    fate.kind === "apply" || found?.[what] != null ? watchSpikes(into[what], value, factor) : null;
  return {
    loss: take("loss", vote.loss, LOSS_FACTOR),
    gradient: take("gradient", vote.gradNorm, GRADIENT_FACTOR),
  };
}
