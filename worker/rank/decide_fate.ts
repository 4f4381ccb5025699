import type { Job } from "../../job/job.js";
import { type LeftOut, type LeftOutReason, rollBacksInARow, stepBack } from "../../job/left_out.js";
import type { VoteResult } from "../parallel/vote.js";
import type { BadNumbers } from "./judge_numbers.js";
import type { Replay } from "./judge_replay.js";

/** What becomes of a step, equal on all ranks because it follows from the vote and the training state. */
export type StepFate =
  | { kind: "apply" }
  /** No weight changes, its packs are left out. */
  | { kind: "skip"; why: LeftOutReason }
  /** As `skip`, and the run ends. */
  | { kind: "giveUp"; why: LeftOutReason }
  /** The run goes on from the weights of that step, behind this one. */
  | { kind: "rollBack"; to: number };

export interface FateInput {
  step: number;
  /** The vote that counts. */
  vote: Pick<VoteResult, "finite">;
  /** What is wrong with its numbers. */
  bad: BadNumbers | null;
  /** What computing it again has shown; null: it was not. */
  replay: Replay | null;
  recovery: Job["recovery"];
  leftOut: readonly LeftOut[];
  /** Bad steps of this generation right before this one. */
  badSteps: number;
}

/**
 * Hardware is no fault of data or weights: what it has spoilt is never rolled back. Pure.
 */
export function decideFate(input: FateInput): StepFate {
  const { step, vote, bad, replay, recovery, leftOut, badSteps } = input;
  if (bad === null || bad.isTaken) return vote.finite ? { kind: "apply" } : { kind: "skip", why: "unread" };
  const { why } = bad;
  const policy = why === "spike" ? recovery.spike : recovery.bad_step;
  if (policy === "roll_back" && !isHardware(replay)) {
    if (rollBacksInARow(leftOut, step) >= recovery.max_roll_backs) return { kind: "giveUp", why };
    return { kind: "rollBack", to: stepBack(leftOut, { step, count: recovery.roll_back_steps }) };
  }
  const badStepsMax = policy === "stop" ? 1 : recovery.max_bad_steps;
  return { kind: badSteps + 1 >= badStepsMax ? "giveUp" : "skip", why };
}

function isHardware(replay: Replay | null): boolean {
  if (replay === null) return false;
  const { lossRanks, normRanks, homeRanks } = replay;
  return lossRanks.length + normRanks.length + homeRanks.length > 0;
}
