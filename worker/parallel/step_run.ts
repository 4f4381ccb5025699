import { GokuError } from "../../job/errors.js";
import type { Layout } from "../../job/layout.js";
import type { Ticket } from "../engine/native.js";
import type { Arena, Tensor } from "../engine/tensor.js";
import { failpoint } from "../failpoints.js";
import { localPack, type NumberSource } from "../model/local_pack.js";
import { PackPass, type Recompute } from "../model/pack_pass.js";
import type { ModelContext } from "../model/transformer.js";
import type { Progress } from "../progress.js";
import type { Collectives } from "./collectives.js";
import type { ShardedUnit } from "./sharded_unit.js";
import type { StepInput } from "./step_types.js";

export interface StepRunOptions {
  /** Of the step; everything in it is freed by its end, except the gradients of the units. */
  arena: Arena;
  /** Root first, then the blocks. */
  units: readonly ShardedUnit[];
  collectives: Collectives;
  layout: Layout;
  rank: number;
  context: ModelContext;
  recompute: Recompute;
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
  private readonly options: StepRunOptions;
  private readonly root: ShardedUnit;
  private readonly blocks: readonly ShardedUnit[];
  private reductions: { ticket: Ticket; sent: Tensor | null }[] = [];

  constructor(options: StepRunOptions) {
    this.options = options;
    this.root = options.units[0]!;
    this.blocks = options.units.slice(1);
  }

  /** Returns this rank's part of the loss of every pack of the step. */
  computeStep(input: StepInput): Float64Array {
    const { layout, rank, progress } = this.options;
    const losses = new Float64Array(input.plan.packs.length);
    const rounds = Math.ceil(losses.length / layout.dataRankCount);
    for (let round = 0; round < rounds; round++) {
      const contributes = this.contributors(round, losses.length);
      if (!contributes.includes(1)) continue;
      progress.set({
        phase: "forward",
        microStep: round * layout.dataRankCount + layout.dataRank(rank),
        layer: -1,
      });
      const pass = this.open(input, round);
      this.forward(pass);
      this.backward(pass, contributes);
      if (pass) losses[this.slot(round)] = pass.loss;
    }
    progress.set({ phase: "reduce", layer: -1 });
    this.settle(0);
    for (const unit of this.options.units) unit.release();
    this.reduceReplicas();
    return losses;
  }

  /** After an error: forgets what was in flight (the caller has waited for it). */
  forget(): void {
    this.reductions = [];
  }

  private slot(round: number): number {
    const { layout, rank } = this.options;
    return round * layout.dataRankCount + layout.dataRank(rank);
  }

  /** For every member of the shard group: 1 where it has a pack in this round. */
  private contributors(round: number, packs: number): Uint8Array {
    const { layout, rank } = this.options;
    return Uint8Array.from(layout.shardGroup(rank), (member) =>
      round * layout.dataRankCount + layout.dataRank(member) < packs ? 1 : 0,
    );
  }

  private open(input: StepInput, round: number): PackPass | null {
    const { arena, layout, rank, context, recompute, numbers } = this.options;
    const slot = this.slot(round);
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
    return new PackPass(arena, this.root, pack, context, recompute);
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
      if (failpoint("forward.block")) pass?.spoil();
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
      if (failpoint("backward.block")) pass?.spoil();
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
      return collectives.started(collectives.native.allReduceStart(comm, unit.gradient.id, 0));
    });
    for (const ticket of tickets) collectives.wait(ticket);
  }
}
