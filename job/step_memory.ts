import {
  type BlockShape,
  blockBackwardBytes,
  blockKeptBytes,
  blockTensors,
  type Recompute,
  tensorBytes,
} from "./block_memory.js";
import { evenSplit, type Layout } from "./layout.js";
import type { ModelConfig } from "./model_config.js";
import type { PackSize } from "./pack_size.js";
import { parameterSpecs, patchSize } from "./parameters.js";
import { type FlatUnit, flatUnits, shardRange } from "./sharding.js";

/** Bytes of one rank's tensors when its step needs the most memory, by kind. */
export interface StepMemory {
  /** Weights gathered for the blocks at work, and the shard in the compute dtype that they are gathered from. */
  weights: number;
  /** f32 sums on the shards, and whole gradients of blocks that are being made or are on their way. */
  gradients: number;
  /** What blocks, embedding and head keep from forward to backward. */
  activations: number;
  /** What the part at work needs beside that, gone when it is done. */
  workspace: number;
  /** Tokens, text, targets and rotary tables of the pack. */
  pack: number;
  total: number;
}

export interface StepMemoryOptions {
  model: ModelConfig;
  layout: Layout;
  rank: number;
  precision: "fp32" | "bf16";
  recompute: Recompute;
  packsPerStep: number;
  pack: PackSize;
  /** Bytes that a matrix product takes while it runs. */
  productBytes: (product: ProductSize) => number;
  /** See blockKeptBytes. */
  afterSelf: boolean;
}

/** y[rows, columns] from a sum over depth. */
export interface ProductSize {
  rows: number;
  depth: number;
  columns: number;
}

/** Reductions that may be in flight at once (worker/parallel/step_run.ts). */
const REDUCTIONS_FLYING_MAX = 2;

/**
 * The high-water mark of a training step, from the schedule of worker/parallel/step_run.ts: the most over the moments at which
 * it can be. The training state itself is not counted: it lies in snapshot slots, or for good on a device.
 */
export function stepMemory(options: StepMemoryOptions): StepMemory {
  const moments = new StepMoments(options).all();
  return moments.reduce((most, moment) => (moment.total > most.total ? moment : most));
}

/** The rank's part of a pack. */
function blockShape({
  model,
  layout,
  rank,
  precision,
  pack,
}: Pick<StepMemoryOptions, "model" | "layout" | "rank" | "precision" | "pack">): BlockShape {
  const place = { parts: layout.sp, index: layout.coordinates(rank).sequence };
  const heads = evenSplit({ count: model.heads, ...place }).length;
  return {
    model,
    elementBytes: precision === "bf16" ? 2 : 4,
    tokens: evenSplit({ count: pack.tokens, ...place }).length,
    samples: pack.samples,
    textTokens: pack.textTokens,
    spread: layout.sp > 1 ? { tokens: pack.tokens, heads } : null,
  };
}

class StepMoments {
  private readonly options: StepMemoryOptions;
  private readonly units: readonly FlatUnit[];
  private readonly shape: BlockShape;
  /** Of each unit: the whole in the compute dtype, the whole gradient, the f32 shard. */
  private readonly whole: readonly number[];
  private readonly wholeGradient: readonly number[];
  private readonly shardGradient: readonly number[];
  private readonly computeShards: number;
  private readonly sharded: boolean;

  constructor(options: StepMemoryOptions) {
    const { model, layout, rank } = options;
    this.options = options;
    this.units = flatUnits(parameterSpecs(model));
    this.shape = blockShape(options);
    const { elementBytes } = this.shape;
    const parts = layout.shardGroupSize;
    this.sharded = parts > 1;
    const shards = this.units.map(({ count }) => shardRange({ count, parts, index: rank % parts }).length);
    // A shard group of one computes with the master or its compute shard, and gathers nothing.
    this.whole = this.units.map(({ count }) => (this.sharded ? tensorBytes(count, elementBytes) : 0));
    this.wholeGradient = this.units.map(({ count }) => tensorBytes(count, 4));
    this.shardGradient = shards.map((count) => tensorBytes(count, 4));
    this.computeShards =
      elementBytes === 4 ? 0 : sum(shards.map((count) => tensorBytes(count, elementBytes)));
  }

  all(): StepMemory[] {
    const { layout, rank, packsPerStep } = this.options;
    const own = Math.ceil((packsPerStep - layout.dataRank(rank)) / layout.dataRankCount);
    if (own < 1) return this.withoutPack();
    // From the second round on the sums of all units exist, and the last reductions of the round before are still in flight.
    const rounds = own > 1 ? [false, true] : [false];
    return rounds.flatMap((later) => [
      this.head(later),
      ...Array.from({ length: this.depth }, (_, i) => this.blockBackward(i, later)),
    ]);
  }

  private get depth(): number {
    return this.units.length - 1;
  }

  /** A rank that has no pack walks the schedule for the others: it gathers, and its sums grow. */
  private withoutPack(): StepMemory[] {
    const none = { activations: 0, workspace: 0, pack: 0 };
    const blocks = Array.from({ length: this.depth }, (_, i) =>
      counted({ ...none, weights: this.weights(i), gradients: this.sums(i, false) }),
    );
    return [...blocks, counted({ ...none, weights: this.weights(0), gradients: sum(this.shardGradient) })];
  }

  /** The loss is known and goes back through the last product. */
  private head(later: boolean): StepMemory {
    const { stream, rowPair } = blockTensors(this.shape);
    const { tokens, samples, model } = this.shape;
    const P = patchSize(model);
    const numbers = tensorBytes(tokens * P, 4); // f32 [N, P]
    const modulation = tensorBytes(samples * 2 * model.width, 4);
    const kept = stream + rowPair + modulation; // the stream, sums of its norm
    const normed = stream; // kept, or made again
    const last = this.depth - 1;
    // Backward: the gradient of the velocity and that of the norm's output; before: velocity, gradient, target.
    const backward =
      numbers + normed + stream + this.options.productBytes({ rows: tokens, depth: P, columns: model.width });
    const loss = 3 * numbers + (this.options.recompute === "selective" ? 0 : normed);
    const root = this.wholeGradient[0]!;
    const gradients = this.sums(last, later) + this.flying(last, later);
    return counted({
      weights: this.weights(last),
      gradients: gradients + (backward + root >= loss ? root : 0),
      activations: this.kept(last) + kept,
      workspace: backward + root >= loss ? backward : loss,
      pack: this.packBytes(),
    });
  }

  private blockBackward(i: number, later: boolean): StepMemory {
    const { recompute, productBytes } = this.options;
    const { model, samples, tokens: rows } = this.shape;
    // With `full` the block has just run again: beside the streams it keeps what `none` does.
    const again =
      recompute === "full" ? blockKeptBytes(this.shape, "none") - blockTensors(this.shape).stream : 0;
    const timeGradient = tensorBytes(samples * model.width, 4);
    const product = productBytes({ rows, depth: model.width, columns: model.width * model.mlp_ratio });
    return counted({
      weights: this.weights(i),
      gradients:
        this.sums(i, later) + // f32, on the shard
        this.flying(i, later) +
        this.wholeGradient[0]! + // the root's is open from head to embedding
        this.wholeGradient[i + 1]!, // the block's own
      activations: this.kept(i),
      workspace: again + blockBackwardBytes(this.shape, recompute) + timeGradient + product,
      pack: this.packBytes(),
    });
  }

  /** The root's weights and those of block i and the one before, which is on its way; in forward it is the one after. */
  private weights(i: number): number {
    const before = i > 0 ? this.whole[i]! : 0;
    return this.computeShards + this.whole[0]! + this.whole[i + 1]! + before;
  }

  /** Sums of the step's gradients while block i goes backward: of the blocks after it in the first round, of all units later. */
  private sums(i: number, later: boolean): number {
    return sum(later ? this.shardGradient : this.shardGradient.slice(i + 2));
  }

  /** Whole gradients in flight while block i goes backward. */
  private flying(i: number, later: boolean): number {
    if (!this.sharded) return 0;
    const order = [
      ...(later ? [1, 0] : []),
      ...Array.from({ length: this.depth - 1 - i }, (_, k) => this.depth - k),
    ];
    return sum(order.slice(-REDUCTIONS_FLYING_MAX).map((unit) => this.wholeGradient[unit]!));
  }

  /** Of blocks 0 to i, embedding and time vector. */
  private kept(i: number): number {
    const { recompute, afterSelf } = this.options;
    const { model, samples, tokens, elementBytes } = this.shape;
    const vector = tensorBytes(samples * model.width, 4);
    const time = tensorBytes(samples * model.frequency_width, 4) + 4 * vector; // sinusoid, fc1, SiLU, fc2 and SiLU again
    const numbers = tokens * patchSize(model);
    const patches = model.reference_frame
      ? tensorBytes(2 * numbers, elementBytes) + tensorBytes(numbers, elementBytes) // both side by side, and their projection
      : tensorBytes(numbers, elementBytes);
    return (i + 1) * blockKeptBytes(this.shape, recompute, { afterSelf }) + time + patches;
  }

  /** Text and rotary tables; targets are gone when blocks go backward. */
  private packBytes(): number {
    const { model, tokens, textTokens, elementBytes } = this.shape;
    const table = tensorBytes((tokens * model.width) / model.heads / 2, 4); // sines, and as many cosines
    return tensorBytes(textTokens * model.text_width, elementBytes) + 2 * table;
  }
}

function counted(kinds: Omit<StepMemory, "total">): StepMemory {
  return { ...kinds, total: sum(Object.values(kinds)) };
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((a, b) => a + b, 0);
}
