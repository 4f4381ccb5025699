import type { Layout } from "../../job/layout.js";
import type { StepInput } from "../parallel/step_types.js";
import type { VoteResult } from "../parallel/vote.js";
import type { BadNumbers } from "./judge_numbers.js";
import { judgeMoved, judgeReplay, mayBeMoved, type ReplayRanks } from "./judge_replay.js";

/** What a step is computed with. */
export interface StepTries {
  layout: Layout;
  /** Computes the step and votes; `again`: with what differed from this rank's numbers of the try before. */
  attempt(input: StepInput, again: boolean): VoteResult;
  /** The same step with every pack moved on by one data rank. */
  movedOn(input: StepInput): Promise<StepInput>;
  /** What is wrong with a vote's numbers, alike on all ranks. */
  judge(vote: VoteResult): BadNumbers | null;
}

export interface TriedStep {
  /** The vote that counts. Its numbers may be of gradients that are not there any more: then it is not finite. */
  vote: VoteResult;
  /** What is wrong with its numbers. */
  bad: BadNumbers | null;
  /** What the tries have shown, and the vote of the first of them; null: there was but one. */
  replay: ReplayRanks | null;
  first: VoteResult;
}

/**
 * Gradients of a step and the vote on them that counts, alike on all ranks. Where its numbers are bad, the very step is computed
 * once more at once, and that vote counts: what a device got wrong is mended. What is the same again, and is not to be applied, is
 * computed by other ranks, to tell data from a device that is always wrong; those gradients are added in another order and must
 * not be applied. Samples are left out as those found them whose packs they are.
 */
export async function retryStep(input: StepInput, tries: StepTries): Promise<TriedStep> {
  const { layout, attempt, movedOn, judge } = tries;
  const first = attempt(input, false);
  if (judge(first) === null) return { vote: first, bad: null, replay: null, first };
  const second = attempt(input, true);
  const replay = judgeReplay(first, second);
  const bad = judge(second);
  if (bad === null || bad.isTaken || !mayBeMoved(replay, layout)) return { vote: second, bad, replay, first };
  const third = attempt(await movedOn(input), false);
  const homeRanks = judgeMoved(second, third, layout);
  const { loss, gradNorm, excluded, packLosses, numbersFinite } = second;
  const vote = { ...third, loss, gradNorm, excluded, packLosses, numbersFinite, finite: false };
  return { vote, bad, replay: { ...replay, homeRanks }, first };
}
