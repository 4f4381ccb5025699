import type { Recompute } from "../../job/block_memory.js";
import { dealtPack } from "../../job/deal.js";
import { GokuError } from "../../job/errors.js";
import type { Layout } from "../../job/layout.js";
import type { Ticket } from "../engine/native.js";
import type { Arena, Tensor } from "../engine/tensor.js";
import { failpoint } from "../failpoints.js";
import { localPack, type NumberSource } from "../model/local_pack.js";
import { PackPass } from "../model/pack_pass.js";
import type { ModelContext } from "../model/transformer.js";
import type { Progress } from "../progress.js";
import type { Collectives } from "./collectives.js";
import type { ShardedUnit } from "./sharded_unit.js";
import type { StepFigures, StepInput } from "./step_types.js";

export interface StepRunOptions {
  /** Of the step; everything in it is freed by its end, except the gradients of the units. */
  arena: Arena;
  /** Root first, then the blocks. */
  units: readonly ShardedUnit[];
  collectives: Collectives;
  layout: Layout;
  rank: number;
  context: ModelContext;
  numbers: NumberSource;
  onVelocity: ((slot: number, velocity: Float32Array) => void) | null;
  progress: Progress;
}

/** Reductions that may be in flight at once; each holds the whole gradient of a block. */
const REDUCTIONS_FLYING_MAX = 2;

/**
 * The schedule of a step's packs on one rank. Rounds follow one another; in each, every data rank has one pack or none,
 * and a rank without one walks the same schedule, because others wait for its shards.
 *
 * While block i computes, the weights of the next block travel; when its backward is done, its gradient starts to
 * travel and the backward of the block before begins. The last block's weights stay from forward to backward, the first
 * block's from backward to the next round's forward, the root's through the whole step.
 */
export class StepRun {
  /** May be changed between steps, on all ranks alike. */
  recompute: Recompute;
  private readonly options: StepRunOptions;
  private readonly root: ShardedUnit;
  private readonly blocks: readonly ShardedUnit[];
  /** Of the last step. Rounds in which this rank had no pack do not count: what is told is time over work done. */
  readonly figures: Pick<StepFigures, "forwardSeconds" | "backwardSeconds" | "work"> = {
    forwardSeconds: 0,
    backwardSeconds: 0,
    work: 0,
  };
  private reductions: { ticket: Ticket; sent: Tensor | null }[] = [];

  constructor(options: StepRunOptions, recompute: Recompute) {
    this.options = options;
    this.recompute = recompute;
    this.root = options.units[0]!;
    this.blocks = options.units.slice(1);
  }

  /** Returns this rank's part of the loss of every pack of the step. */
  computeStep(input: StepInput): Float64Array {
    const { layout, progress } = this.options;
    const losses = new Float64Array(input.plan.packs.length);
    const rounds = Math.ceil(losses.length / layout.dataRankCount);
    const { figures } = this;
    Object.assign(figures, { forwardSeconds: 0, backwardSeconds: 0, work: 0 });
    for (let round = 0; round < rounds; round++) {
      const contributes = this.contributors(input, round);
      if (!contributes.includes(1)) continue;
      progress.set({
        phase: "forward",
        microStep: this.slot(input, round),
        layer: -1,
      });
      const begun = this.ownSeconds();
      const pass = this.open(input, round);
      this.forward(pass);
      const turned = this.ownSeconds();
      this.backward(pass, contributes);
      if (pass === null) continue;
      losses[this.slot(input, round)] = pass.loss;
      figures.forwardSeconds += turned - begun;
      figures.backwardSeconds += this.ownSeconds() - turned;
      figures.work += pass.work;
    }
    progress.set({ phase: "reduce", layer: -1 });
    this.settle(0);
    for (const unit of this.options.units) unit.release();
    if (rounds > 0) this.reduceReplicas();
    return losses;
  }

  /** After an error: forgets what was in flight (the caller has waited for it). */
  forget(): void {
    this.reductions = [];
  }

  /** A clock that stands still while this rank waits for others. */
  private ownSeconds(): number {
    return performance.now() / 1000 - this.options.collectives.waitSeconds;
  }

  private slot({ moved }: StepInput, round: number): number {
    const { layout, rank } = this.options;
    return dealtPack(layout, rank, { round, moved });
  }

  /** For every member of the shard group: 1 where it has a pack in this round. */
  private contributors({ plan, moved }: StepInput, round: number): Uint8Array {
    const { layout, rank } = this.options;
    return Uint8Array.from(layout.shardGroup(rank), (member) =>
      dealtPack(layout, member, { round, moved }) < plan.packs.length ? 1 : 0,
    );
  }

  private open(input: StepInput, round: number): PackPass | null {
    const { arena, layout, rank, context, numbers } = this.options;
    const slot = this.slot(input, round);
    const batch = input.packs[round] ?? null;
    const wanted = slot < input.plan.packs.length;
    if (wanted !== (batch !== null)) {
      throw new GokuError(
        "INTERNAL",
        `Cannot compute step ${input.step}: pack ${slot} is ${wanted ? "missing" : "not of this step"}`,
      );
    }
    if (!batch) return null;
    const pack = localPack(arena, batch, numbers(batch, input.step), {
      model: context.config,
      dtype: context.dtype,
      slot,
      sequence: { parts: layout.sp, index: layout.coordinates(rank).sequence },
      sampleCount: input.plan.sampleCount,
    });
    return new PackPass(arena, this.root, pack, context, this.recompute);
  }

  private forward(pass: PackPass | null): void {
    const { arena, collectives, progress, onVelocity } = this.options;
    const { root, blocks } = this;
    root.gatherStart(arena, collectives);
    blocks[0]!.gatherStart(arena, collectives);
    root.gatherWait(arena, collectives);
    pass?.embed();
    for (const [i, unit] of blocks.entries()) {
      unit.gatherWait(arena, collectives);
      blocks[i + 1]?.gatherStart(arena, collectives);
      progress.set({ layer: i });
      this.passFailpoint("forward.block", pass);
      pass?.block(i, unit);
      if (i < blocks.length - 1) unit.release();
    }
    progress.set({ layer: -1 });
    if (pass) pass.head(onVelocity ? (velocity) => onVelocity(pass.slot, velocity) : null);
  }

  private backward(pass: PackPass | null, contributes: Uint8Array): void {
    const { arena, collectives, progress } = this.options;
    const { root, blocks } = this;
    progress.set({ phase: "backward", layer: -1 });
    if (pass) root.openGradient(arena);
    pass?.headBackward();
    for (let i = blocks.length - 1; i >= 0; i--) {
      const unit = blocks[i]!;
      unit.gatherWait(arena, collectives);
      blocks[i - 1]?.gatherStart(arena, collectives);
      progress.set({ layer: i });
      this.passFailpoint("backward.block", pass);
      if (pass) {
        unit.openGradient(arena);
        pass.blockBackward(i, unit);
      }
      if (i > 0) unit.release();
      this.reduce(unit, contributes);
    }
    progress.set({ layer: -1 });
    pass?.embedBackward();
    this.reduce(root, contributes);
  }

  private passFailpoint(name: "forward.block" | "backward.block", pass: PackPass | null): void {
    const asked = failpoint(name);
    if (typeof asked === "number") pass?.spoil(asked);
  }

  private reduce(unit: ShardedUnit, contributes: Uint8Array): void {
    const { arena, collectives } = this.options;
    const flight = unit.reduceStart(arena, collectives, contributes);
    if (!flight) return;
    this.reductions.push(flight);
    this.settle(REDUCTIONS_FLYING_MAX);
  }

  /** Waits for the oldest reductions until at most `flying` are left. */
  private settle(flying: number): void {
    while (this.reductions.length > flying) {
      const { ticket, sent } = this.reductions.shift()!;
      this.options.collectives.wait(ticket);
      sent?.free();
    }
  }

  /** Replicas add their shards' gradients; a replica that had no pack adds zeros. */
  private reduceReplicas(): void {
    const { arena, units, collectives, layout } = this.options;
    if (layout.dpReplicate === 1) return;
    const comm = collectives.require("replica");
    const tickets = units.map((unit) => {
      unit.gradient ??= arena.zeros("f32", unit.range.length);
      return collectives.started("allReduce", collectives.native.allReduceStart(comm, unit.gradient.id, 0));
    });
    for (const ticket of tickets) collectives.wait(ticket);
  }
}
