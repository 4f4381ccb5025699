import type { Job } from "../../job/job.js";
import type { EndReason } from "../rank_messages.js";

export type SaveReason = "periodic" | "request" | "final";

/** What every rank does after a step, equal on all of them because it follows from the vote and the step number. */
export interface StepDecision {
  /** Copy the state into a slot. */
  snapshot: boolean;
  /** Make that snapshot durable, and why; null: not. The final save has a way of its own: no vote follows it. */
  save: Exclude<SaveReason, "final"> | null;
  /** A preview of this state is due; `noSlot`: it is left out, since some rank had no slot free for the snapshot. */
  preview: "draw" | "noSlot" | null;
  /** A save is due and no rank could begin it: it stays due. */
  saveOwed: boolean;
  /** A snapshot of this step was due, and is left out, since some rank has no slot free. */
  snapshotSkipped: boolean;
  /** A save that was due at this step, or begun at the one before, is made later; told once for each. */
  savePutOff: boolean;
  /**
   * The run, or (`yield`) this generation alone, ends with this step; `bad`: the run as a failed one, since too many steps
   * in a row were not finite.
   */
  end: EndReason | "bad" | null;
}

export interface StepOutcome {
  step: number;
  /** From the vote: every rank's snapshot of the step before is whole. */
  snapshotWhole: boolean;
  /** From the vote: every rank has a free slot. */
  slotFree: boolean;
  save: boolean;
  stop: boolean;
  yield: boolean;
  /** Steps in a row, this one the last, whose numbers were not finite, are as many as the job allows. */
  giveUp: boolean;
  /** Decision of the step before. */
  before: Pick<StepDecision, "save" | "saveOwed">;
}

/** Pure. */
export function decideStep(
  job: Pick<Job, "train" | "checkpoint" | "sample">,
  outcome: StepOutcome,
): StepDecision {
  const { step, slotFree, before } = outcome;
  const inOrder = step >= job.train.steps ? "steps" : outcome.stop ? "stop" : null;
  const last = outcome.giveUp ? "bad" : inOrder;
  // A save whose snapshot is missing on some rank never becomes a checkpoint: it is still due.
  const isLost = before.save !== null && !outcome.snapshotWhole;
  const owed = before.saveOwed || isLost;
  // A save that was asked for goes before a yield, which is asked for again in the next vote; one that is due because of
  // the step's number is made by the generation that restores this step.
  const end = last ?? (outcome.yield && !outcome.save && !owed ? "yield" : null);
  const wanted = end !== null || isPeriodicSave(job, step) || outcome.save || owed;
  const previewed = end === null && isPreviewStep(job, step);
  const inTurn = step % job.checkpoint.snapshot_every_steps === 0;
  const isDue = wanted || previewed || inTurn;
  const snapshot = slotFree && isDue;
  const save = end !== null || !wanted || !snapshot ? null : outcome.save ? "request" : "periodic";
  const preview = !previewed ? null : snapshot ? "draw" : "noSlot";
  const saveOwed = end === null && wanted && !snapshot;
  const savePutOff = end === null && (isLost || (saveOwed && !before.saveOwed));
  return { snapshot, save, preview, saveOwed, snapshotSkipped: isDue && !slotFree, savePutOff, end };
}

/** Whether the state of this step is made durable because of its number. Pure. */
export function isPeriodicSave(job: Pick<Job, "checkpoint">, step: number): boolean {
  return step > 0 && step % job.checkpoint.every_steps === 0;
}

/** Whether pictures are drawn from the state of this step. Pure. */
function isPreviewStep({ sample }: Pick<Job, "sample">, step: number): boolean {
  return sample.every_steps > 0 && step % sample.every_steps === 0;
}
