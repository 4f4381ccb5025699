import type { PackBatch, StepPlan } from "../data/pack_batch.js";
import type { CollectiveWaits } from "../progress.js";

export interface StepInput {
  /** Counts from 1. */
  step: number;
  plan: StepPlan;
  /**
   * This rank's packs, one per round, in order: pack `i` of a step belongs to data rank i % dataRankCount (job/deal.ts), in
   * round floor(i / dataRankCount). null, or missing at the end: this rank has none in that round (it joins all the same).
   */
  packs: readonly (PackBatch | null)[];
  /** By how many data ranks every pack is moved on from the one it belongs to; nearly always 0. */
  moved: number;
}

export interface StepGradients {
  step: number;
  /** This rank's part of the loss of each pack of the step. */
  packLosses: Float64Array;
}

export interface ApplyResult {
  /** false: voted down, nothing was changed. */
  applied: boolean;
  lr: number;
  gradNorm: number;
  loss: number;
}

/** Figures of the last step: times and work of all tries at it together. */
export interface StepFigures {
  /** From the first forward to the last reduction, without waiting for others. */
  computeSeconds: number;
  /** Of that, over this rank's packs: forward, making them ready included. */
  forwardSeconds: number;
  backwardSeconds: number;
  /** Multiply-adds of the forward passes of this rank's packs. */
  work: number;
  optimizerSeconds: number;
  /** Up to the end of the vote, after which nobody waits. */
  commWaitSeconds: number;
  /** Of that, by collective. */
  waits: CollectiveWaits;
  /** High-water mark of tensor memory of this process, without a training state that lies in pages. */
  memoryPeakBytes: number;
}
