import type { Recompute } from "../../job/block_memory.js";
import { GokuError, toGokuError } from "../../job/errors.js";
import type { Job } from "../../job/job.js";
import type { Layout } from "../../job/layout.js";
import type { ModelConfig } from "../../job/model_config.js";
import { parameterSpecs } from "../../job/parameters.js";
import { flatUnits, shardPieces } from "../../job/sharding.js";
import type { Native } from "../engine/native.js";
import { Arena } from "../engine/tensor.js";
import { failpoint } from "../failpoints.js";
import { writeInitialValues } from "../model/initial_values.js";
import { drawnNumbers, type NumberSource } from "../model/local_pack.js";
import type { ComputeDType } from "../model/transformer.js";
import { noWaits, type Progress } from "../progress.js";
import { Collectives } from "./collectives.js";
import type { Groups } from "./groups.js";
import { emaDecay, learningRate } from "./learning_rate.js";
import { ShardedUnit, type ShardUnit, type StateTensors } from "./sharded_unit.js";
import { StepRun } from "./step_run.js";
import type { ApplyResult, StepFigures, StepGradients, StepInput } from "./step_types.js";
import { CHECKSUM_ORDER, sumState } from "./sum_state.js";
import { Ulysses } from "./ulysses.js";
import { castVote, type OwnNumbers, type VoteFlags, type VoteResult } from "./vote.js";

export type { ShardUnit, StateTensors } from "./sharded_unit.js";
export type { ApplyResult, StepFigures, StepGradients, StepInput } from "./step_types.js";

const NO_CHECKSUMS = new Uint32Array(0);

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
  /** Memory of the training state, unit by unit in canonical order; left out: the trainer's own. */
  state?: readonly StateTensors[];
  /** Where noise, time and text come from; left out: drawn by counters from job.seed, as training does. */
  numbers?: NumberSource;
  /** Sees the velocity [tokens of this rank, P] of every pack this rank computes. */
  onVelocity?: (slot: number, velocity: Float32Array) => void;
}

/** Where a step's new state goes, unit by unit in canonical order. */
export interface StateTarget {
  /** The tensors in use (in place), or others; the old state then stays as it was. */
  tensors: readonly StateTensors[];
  /** CRC-32 of each MiB of what is written of a unit, in the order model, ema, adam_m, adam_v; empty: not wanted. */
  checksums: readonly Uint32Array[];
}

/**
 * Model, optimizer and parallelism of one rank. A step is computeStep, vote, apply, in this order; all three block the
 * calling thread and throw GokuError (COMM_* from collectives). After any throw the step is forgotten, its memory freed
 * and its groups aborted where something was in flight; go on with setGroups and a restored state.
 *
 * The tensors of `shards` are the training state (with adamStep). Whoever writes into them calls `restored()`.
 */
export class Trainer {
  readonly shards: readonly ShardUnit[];
  /** Steps that Adam has taken; part of the state. */
  adamStep = 0;
  /** What this rank brought into the last vote. */
  numbers: OwnNumbers = { packLosses: new Float64Array(0), squaredNorm: 0 };
  readonly figures: StepFigures = {
    computeSeconds: 0,
    forwardSeconds: 0,
    backwardSeconds: 0,
    work: 0,
    optimizerSeconds: 0,
    commWaitSeconds: 0,
    waits: noWaits(),
    memoryPeakBytes: 0,
  };

  private readonly options: TrainerOptions;
  private readonly units: readonly ShardedUnit[];
  /** Lives as long as the trainer. */
  private readonly lasting: Arena;
  /** Everything of one step; empty between steps. */
  private readonly stepArena: Arena;
  private readonly collectives: Collectives;
  private readonly run: StepRun;
  private current: { input: StepInput; gradients: StepGradients } | null = null;

  constructor(options: TrainerOptions) {
    const { native, job, model, layout, rank } = options;
    this.options = options;
    this.lasting = new Arena(native);
    this.stepArena = new Arena(native);
    this.collectives = new Collectives(native, options.groups);
    const dtype: ComputeDType = job.precision === "bf16" ? "bf16" : "f32";
    this.units = flatUnits(parameterSpecs(model)).map(
      (unit, i) =>
        new ShardedUnit(this.lasting, unit, { layout, rank, dtype, state: options.state?.[i] ?? null }),
    );
    this.shards = this.units;
    const { sequence } = layout.coordinates(rank);
    const spread = {
      parts: layout.sp,
      index: sequence,
      heads: model.heads,
      headWidth: model.width / model.heads,
    };
    this.run = new StepRun(
      {
        arena: this.stepArena,
        units: this.units,
        collectives: this.collectives,
        layout,
        rank,
        context: {
          config: model,
          dtype,
          exchange: layout.sp > 1 ? new Ulysses(this.collectives, spread) : null,
        },
        numbers: options.numbers ?? drawnNumbers(this.stepArena, options),
        onVelocity: options.onVelocity ?? null,
        progress: options.progress,
      },
      job.recompute === "auto" ? "selective" : job.recompute,
    );
  }

  /** Initial values of own shards from job.seed: ema = model, moments and adamStep 0. */
  initialise(): void {
    const { native, job, layout, rank } = this.options;
    const seed = BigInt(job.seed);
    const shapes = new Map(
      this.units.flatMap(({ unit }) => unit.parameters.map(({ spec }) => [spec.name, spec.shape] as const)),
    );
    const shards = new Map(this.units.map((shard) => [shard.unit.name, shard]));
    const pieces = shardPieces(
      this.units.map(({ unit }) => unit),
      layout,
      rank,
    );
    for (const piece of pieces) {
      const { model } = shards.get(piece.unit)!;
      const parameter = { name: piece.parameter, shape: shapes.get(piece.parameter)! };
      const range = { start: piece.start, count: piece.length };
      writeInitialValues(this.lasting, model, piece.shardOffset, parameter, range, seed);
    }
    for (const shard of this.units) {
      if (shard.range.length === 0) continue;
      native.tensorCast(shard.ema.id, shard.model.id);
      native.tensorFill(shard.adam_m.id, 0);
      native.tensorFill(shard.adam_v.id, 0);
    }
    this.adamStep = 0;
    this.restored();
  }

  /** Goes on with the state in these tensors, unit by unit; then write or adopt it and call `restored()`. */
  use(state: readonly StateTensors[]): void {
    for (const [i, unit] of this.units.entries()) unit.use(state[i]!);
  }

  /** To be called after tensors of `shards` were written from outside: renews what is derived from them. */
  restored(): void {
    for (const unit of this.units) unit.renewCompute();
  }

  /**
   * Forward, backward and reduction of all packs of the step; the gradients stay inside, sharded. Of a step that is computed
   * again before it was applied, the figures are of all tries together.
   */
  computeStep(input: StepInput): StepGradients {
    return this.guarded(() => {
      const anotherTry = this.current?.input.step === input.step;
      this.forgetStep();
      if (!anotherTry) this.beginFigures();
      const { figures, collectives, run } = this;
      const waited = collectives.waitSeconds;
      const begun = performance.now();
      const packLosses = run.computeStep(input);
      const seconds = (performance.now() - begun) / 1000;
      figures.computeSeconds += seconds - (collectives.waitSeconds - waited);
      figures.forwardSeconds += run.figures.forwardSeconds;
      figures.backwardSeconds += run.figures.backwardSeconds;
      figures.work += run.figures.work;
      const gradients = { step: input.step, packLosses };
      this.current = { input, gradients };
      return gradients;
    });
  }

  /**
   * The one vote of the step; every rank of the world must call it. `earlier`: the step was computed before, with these
   * numbers of this rank, and that vote does not count.
   */
  vote(step: number, flags: VoteFlags, earlier: OwnNumbers | null = null): VoteResult {
    return this.guarded(() => {
      const { input, gradients } = this.computed(step);
      const { layout, rank, progress } = this.options;
      progress.set({ phase: "vote", layer: -1 });
      const numbers = { packLosses: gradients.packLosses.slice(), squaredNorm: this.squaredNorm() };
      const { work } = this.run.figures;
      this.numbers = numbers;
      const result = castVote({
        arena: this.stepArena,
        collectives: this.collectives,
        layout,
        rank,
        input,
        numbers,
        work,
        earlier,
        flags,
      });
      this.figures.commWaitSeconds = this.collectives.waitSeconds;
      this.figures.waits = this.collectives.waits;
      return result;
    });
  }

  /**
   * Optimizer and EMA on own shards, when the vote found everything finite; else the state after the step is that before
   * it. It goes to `target`, which is in use from then on; null: it is changed in place.
   */
  apply(step: number, vote: VoteResult, target: StateTarget | null = null): ApplyResult {
    return this.guarded(() => {
      this.computed(step);
      const { job, native, progress } = this.options;
      progress.set({ phase: "optimizer" });
      const lr = learningRate(step, job.optimizer, job.train.steps);
      const begun = performance.now();
      if (vote.finite) this.optimize(lr, vote.gradNorm, target);
      else if (target) this.keep(target);
      this.figures.optimizerSeconds = (performance.now() - begun) / 1000;
      this.figures.memoryPeakBytes = native.memoryStats().peakBytes;
      this.finishStep();
      progress.set({ step });
      return { applied: vote.finite, lr, gradNorm: vote.gradNorm, loss: vote.loss };
    });
  }

  /** Groups of a new generation, same layout and rank. The old ones are not touched. */
  setGroups(groups: Groups): void {
    this.forgetStep();
    this.collectives.groups = groups;
  }

  /** What is recomputed from the next step on; the same on all ranks. Until then: what the job says, auto being selective. */
  set recompute(recompute: Recompute) {
    this.run.recompute = recompute;
  }

  /** Frees everything. Groups belong to the caller. */
  close(): void {
    this.forgetStep();
    this.lasting.freeAll();
  }

  /** This rank's part of the squared gradient norm: every shard is counted on the first replica only. */
  private squaredNorm(): number {
    const { native, layout, rank } = this.options;
    if (layout.coordinates(rank).replica > 0) return 0;
    let sum = 0;
    for (const { gradient, range } of this.units) {
      if (gradient && range.length > 0) sum += native.sumSquares(gradient.id, 0, range.length);
    }
    return sum;
  }

  private beginFigures(): void {
    this.options.native.memoryPeakReset();
    this.collectives.forgetWaits();
    Object.assign(this.figures, { computeSeconds: 0, forwardSeconds: 0, backwardSeconds: 0, work: 0 });
  }

  private optimize(lr: number, gradNorm: number, target: StateTarget | null): void {
    const { native, job } = this.options;
    const { betas, eps, weight_decay, clip, ema } = job.optimizer;
    this.adamStep++;
    const scale = Math.min(1, clip / (gradNorm + 1e-6));
    const decay = emaDecay(this.adamStep, ema);
    for (const [i, unit] of this.units.entries()) {
      if (i === this.units.length >> 1) failpoint("snapshot.write");
      const to = target?.tensors[i] ?? unit;
      if (unit.range.length > 0) {
        native.adamwStep(
          unit.model.id,
          unit.adam_m.id,
          unit.adam_v.id,
          unit.ema.id,
          to.model.id,
          to.adam_m.id,
          to.adam_v.id,
          to.ema.id,
          unit.gradient!.id,
          unit.computeShard?.id ?? 0,
          unit.segments,
          lr,
          betas[0],
          betas[1],
          eps,
          weight_decay,
          scale,
          decay,
          this.adamStep,
          target?.checksums[i] ?? NO_CHECKSUMS,
        );
      }
      if (target) unit.use(to);
    }
  }

  /** The state as it is, in the target's tensors. */
  private keep({ tensors, checksums }: StateTarget): void {
    const { native } = this.options;
    for (const [i, unit] of this.units.entries()) {
      const to = tensors[i]!;
      for (const kind of CHECKSUM_ORDER) {
        if (unit.range.length > 0 && to[kind] !== unit[kind]) native.tensorCast(to[kind].id, unit[kind].id);
      }
      sumState(native, to, checksums[i]!);
      unit.use(to);
    }
  }

  private computed(step: number): { input: StepInput; gradients: StepGradients } {
    if (this.current?.input.step !== step) {
      throw new GokuError("INTERNAL", `Cannot go on with step ${step}: its gradients are not computed`);
    }
    return this.current;
  }

  private finishStep(): void {
    for (const unit of this.units) unit.dropGradient();
    this.current = null;
    if (this.stepArena.live !== 0) {
      throw new GokuError(
        "INTERNAL",
        `Cannot finish the step: ${this.stepArena.live} tensors of it are still alive`,
      );
    }
  }

  private guarded<T>(body: () => T): T {
    try {
      return body();
    } catch (error) {
      this.forgetStep();
      throw toGokuError(error);
    }
  }

  /** Frees all that a step left, after making sure that no collective touches it any more. */
  private forgetStep(): void {
    this.collectives.abandon();
    this.run.forget();
    for (const unit of this.units) unit.forgetStep();
    this.stepArena.freeAll();
    this.current = null;
  }
}
