import type { Job } from "../../job/job.js";
import type { Layout } from "../../job/layout.js";
import type { ModelConfig } from "../../job/model_config.js";
import type { FlatUnit } from "../../job/sharding.js";
import type { PackBatch, StepPlan } from "../data/pack_batch.js";
import type { Native } from "../engine/native.js";
import type { Tensor } from "../engine/tensor.js";
import type { Progress } from "../progress.js";
import type { Groups } from "./groups.js";
import type { VoteFlags, VoteResult } from "./vote.js";

/** What this rank holds of one FSDP unit: elements [range.start, range.start + range.length) of its flat run, all f32. */
export interface ShardUnit {
  readonly unit: FlatUnit;
  readonly range: { start: number; length: number };
  readonly model: Tensor;
  readonly ema: Tensor;
  readonly adam_m: Tensor;
  readonly adam_v: Tensor;
}

export interface TrainerOptions {
  native: Native;
  job: Job;
  model: ModelConfig;
  layout: Layout;
  rank: number;
  groups: Groups;
  progress: Progress;
  /** W-wide encoding of the empty caption: what text dropout puts in place of a caption. */
  emptyText: { length: number; data: Float32Array };
}

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
  computeSeconds: number;
  commWaitSeconds: number;
  optimizerSeconds: number;
  memoryPeakBytes: number;
}

/**
 * Model, optimizer and parallelism of one rank. A step is computeStep, vote, apply, in this order; all three block the
 * calling thread and throw GokuError (COMM_* from collectives). After any throw the step is forgotten, its memory freed
 * and its groups aborted; go on with setGroups and a restored state.
 *
 * The tensors of `shards` are the training state (with adamStep). Whoever writes into them calls `restored()`.
 */
export declare class Trainer {
  constructor(options: TrainerOptions);
  readonly shards: readonly ShardUnit[];
  /** Steps that Adam has taken; part of the state. */
  adamStep: number;
  /** Initial values of own shards from job.seed: ema = model, moments and adamStep 0. */
  initialise(): void;
  /** To be called after tensors of `shards` were written from outside: renews what is derived from them. */
  restored(): void;
  /** Forward, backward and reduction of all packs of the step; the gradients stay inside, sharded. */
  computeStep(input: StepInput): StepGradients;
  /** The one vote of the step; every rank of the world must call it. */
  vote(step: number, flags: VoteFlags): VoteResult;
  /** Optimizer and EMA on own shards, when the vote found everything finite. */
  apply(step: number, vote: VoteResult): ApplyResult;
  /** Groups of a new generation, same layout and rank. The old ones are not touched. */
  setGroups(groups: Groups): void;
  readonly figures: StepFigures;
  /** Frees everything. Groups belong to the caller. */
  close(): void;
}
