import type { Job } from "../../job/job.js";

export type SaveReason = "periodic" | "request" | "final";

/** What every rank does after a step, equal on all of them because it follows from the vote and the step number. */
export interface StepDecision {
  /** Copy the state into a slot. */
  snapshot: boolean;
  /** Make that snapshot durable, and why; null: not. */
  save: SaveReason | null;
  /** A save is due and no rank could begin it: it stays due. */
  saveOwed: boolean;
  /** The run ends with this step. */
  end: "steps" | "stop" | null;
}

export interface StepOutcome {
  step: number;
  /** From the vote: every rank has a free slot. */
  slotFree: boolean;
  save: boolean;
  stop: boolean;
  /** `saveOwed` of the step before. */
  saveOwed: boolean;
}

/** Pure. */
export function decideStep(job: Pick<Job, "train" | "checkpoint">, outcome: StepOutcome): StepDecision {
  const { step, slotFree } = outcome;
  const end = step >= job.train.steps ? "steps" : outcome.stop ? "stop" : null;
  const periodic = isPeriodicSave(job, step);
  const wanted = end !== null || periodic || outcome.save || outcome.saveOwed;
  const snapshot = slotFree && (wanted || step % job.checkpoint.snapshot_every_steps === 0);
  // The final save does not depend on a free slot now: each rank waits for one, since no vote follows.
  const save = !(wanted && snapshot) ? null : end !== null ? "final" : outcome.save ? "request" : "periodic";
  return { snapshot, save, saveOwed: wanted && !snapshot && end === null, end };
}

/** Whether the state of this step is made durable because of its number. Pure. */
export function isPeriodicSave(job: Pick<Job, "checkpoint">, step: number): boolean {
  return step > 0 && step % job.checkpoint.every_steps === 0;
}
