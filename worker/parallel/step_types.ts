import type { PackBatch, StepPlan } from "../data/pack_batch.js";

export interface StepInput {
  /** Counts from 1. */
  step: number;
  plan: StepPlan;
  /**
   * This rank's packs, one per round, in order: pack `i` of a step belongs to data rank i % dataRankCount, in round
   * floor(i / dataRankCount). null, or missing at the end: this rank has none in that round (it joins all the same).
   */
  packs: readonly (PackBatch | null)[];
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

/** Figures of the last step. */
export interface StepFigures {
  /** Forward and backward, without waiting for others. */
  computeSeconds: number;
  commWaitSeconds: number;
  /** High-water mark of tensor memory of this process, without a training state that lies in pages. */
  memoryPeakBytes: number;
}
