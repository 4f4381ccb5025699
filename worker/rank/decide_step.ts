import type { Job } from "../../job/job.js";

export type SaveReason = "periodic" | "request" | "final";

/** What every rank does after a step, equal on all of them because it follows from the vote and the step number. */
export interface StepDecision {
  /** Copy the state into a slot. */
  snapshot: boolean;
  /** Make that snapshot durable, and why; null: not. The final save has a way of its own: no vote follows it. */
  save: Exclude<SaveReason, "final"> | null;
  /** A save is due and no rank could begin it: it stays due. */
  saveOwed: boolean;
  /** The run ends with this step. */
  end: "steps" | "stop" | null;
}

export interface StepOutcome {
  step: number;
  /** From the vote: every rank's snapshot of the step before is whole. */
  snapshotWhole: boolean;
  /** From the vote: every rank has a free slot. */
  slotFree: boolean;
  save: boolean;
  stop: boolean;
  /** Decision of the step before. */
  before: Pick<StepDecision, "save" | "saveOwed">;
}

/** Pure. */
export function decideStep(job: Pick<Job, "train" | "checkpoint">, outcome: StepOutcome): StepDecision {
  const { step, slotFree, before } = outcome;
  const end = step >= job.train.steps ? "steps" : outcome.stop ? "stop" : null;
  // A save whose snapshot is missing on some rank never becomes a checkpoint: it is still due.
  const owed = before.saveOwed || (before.save !== null && !outcome.snapshotWhole);
  const wanted = end !== null || isPeriodicSave(job, step) || outcome.save || owed;
  const snapshot = slotFree && (wanted || step % job.checkpoint.snapshot_every_steps === 0);
  const save = end !== null || !wanted || !snapshot ? null : outcome.save ? "request" : "periodic";
  return { snapshot, save, saveOwed: end === null && wanted && !snapshot, end };
}

/** Whether the state of this step is made durable because of its number. Pure. */
export function isPeriodicSave(job: Pick<Job, "checkpoint">, step: number): boolean {
  return step > 0 && step % job.checkpoint.every_steps === 0;
}
