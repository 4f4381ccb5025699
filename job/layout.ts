import { GokuError } from "./errors.js";

/** Plain form of a layout, as in a job file. `sp` varies fastest in the rank number. */
export interface LayoutSize {
  dp_replicate: number;
  dp_shard: number;
  sp: number;
}

/** Place of a rank: replica r, shard s, sequence position u. */
export interface Coordinates {
  replica: number;
  shard: number;
  sequence: number;
}

/** `dp_replicate x dp_shard x sp`, checked when built. Pure arithmetic over rank numbers. */
export class Layout {
  readonly dpReplicate: number;
  readonly dpShard: number;
  readonly sp: number;
  readonly worldSize: number;
  /** Ranks over which parameters are sharded: dp_shard * sp. */
  readonly shardGroupSize: number;
  /** Sequence groups that each take whole packs: dp_replicate * dp_shard. */
  readonly dataRankCount: number;

  /** @param ranks when given, the number of ranks that must match exactly. */
  constructor(size: LayoutSize, ranks: number | null = null) {
    for (const [key, value] of Object.entries(size)) {
      if (!Number.isInteger(value) || value < 1) {
        throw new GokuError(
          "LAYOUT_INVALID",
          `Cannot lay out ranks: layout.${key} is ${value}, need a whole number of at least 1`,
        );
      }
    }
    this.dpReplicate = size.dp_replicate;
    this.dpShard = size.dp_shard;
    this.sp = size.sp;
    this.worldSize = size.dp_replicate * size.dp_shard * size.sp;
    this.shardGroupSize = size.dp_shard * size.sp;
    this.dataRankCount = size.dp_replicate * size.dp_shard;
    if (ranks !== null && ranks !== this.worldSize) {
      throw new GokuError(
        "LAYOUT_INVALID",
        `Cannot lay out ${ranks} ranks: dp_replicate ${this.dpReplicate} * dp_shard ${this.dpShard} * sp ${this.sp} = ${this.worldSize}`,
      );
    }
  }

  /** How many ranks never have a pack, of steps of so many: all of each sequence group that is one too many. */
  idleRanks(packsPerStep: number): number {
    return Math.max(0, this.dataRankCount - packsPerStep) * this.sp;
  }

  get size(): LayoutSize {
    return { dp_replicate: this.dpReplicate, dp_shard: this.dpShard, sp: this.sp };
  }

  coordinates(rank: number): Coordinates {
    const sequence = rank % this.sp;
    const shard = Math.floor(rank / this.sp) % this.dpShard;
    return { replica: Math.floor(rank / this.shardGroupSize), shard, sequence };
  }

  /** Number of the sequence group a rank belongs to. */
  dataRank(rank: number): number {
    return Math.floor(rank / this.sp);
  }

  /** World ranks of the shard group, in reduction order. */
  shardGroup(rank: number): number[] {
    const first = Math.floor(rank / this.shardGroupSize) * this.shardGroupSize;
    return Array.from({ length: this.shardGroupSize }, (_, i) => first + i);
  }

  /** World ranks that hold the same shard, one per replica. */
  replicaGroup(rank: number): number[] {
    const within = rank % this.shardGroupSize;
    return Array.from({ length: this.dpReplicate }, (_, i) => i * this.shardGroupSize + within);
  }

  /** World ranks that share one sequence. */
  sequenceGroup(rank: number): number[] {
    const first = rank - (rank % this.sp);
    return Array.from({ length: this.sp }, (_, i) => first + i);
  }

  toString(): string {
    return `${this.dpReplicate}x${this.dpShard}x${this.sp}`;
  }

  /** Reads "2x1x2". */
  static parse(text: string): Layout {
    const match = /^(\d+)x(\d+)x(\d+)$/.exec(text);
    if (!match)
      throw new GokuError(
        "LAYOUT_INVALID",
        `Cannot read layout "${text}": want dp_replicate x dp_shard x sp, for example 1x2x2`,
      );
    return new Layout({ dp_replicate: Number(match[1]), dp_shard: Number(match[2]), sp: Number(match[3]) });
  }
}

/** The even split used everywhere: part `index` of `count` elements over `parts`, first parts one larger. */
export function evenSplit(options: { count: number; parts: number; index: number }): {
  start: number;
  length: number;
} {
  const base = Math.floor(options.count / options.parts);
  const extra = options.count % options.parts;
  return {
    start: options.index * base + Math.min(options.index, extra),
    length: base + (options.index < extra ? 1 : 0),
  };
}

/** The part of an even split that holds an item, 0 <= item < count. */
export function partOf(options: { count: number; parts: number; item: number }): number {
  const base = Math.floor(options.count / options.parts);
  const extra = options.count % options.parts;
  const longer = extra * (base + 1); // items of the parts that have one more
  if (options.item < longer) return Math.floor(options.item / (base + 1));
  return extra + Math.floor((options.item - longer) / base);
}
