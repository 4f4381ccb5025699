import { CHUNK_BYTES, chunkCount } from "../../checkpoint/digest.js";
import { STATE_KINDS } from "../../checkpoint/state.js";
import type { Layout } from "../../job/layout.js";
import { type FlatUnit, shardRange } from "../../job/sharding.js";
import type { CommId, Native } from "../engine/native.js";
import { REDUCE, reduceNumbers } from "./reduce_numbers.js";

/** Snapshots from one comparison to the next: a small all-reduce, well under a thousandth of so many steps. */
const SNAPSHOTS_BETWEEN = 64;

/** Twins do not hold the same bits. The same on all of them. */
export interface TwinDifference {
  /** Ranks whose chunk is another than that of most; of two twins nobody can tell which: none. */
  odd: number[];
  /** The twins. */
  ranks: number[];
  /** The first chunk that differs: `model/blocks.0.attn.qkv`, for example, and its elements [start, start+length). */
  tensor: string;
  start: number;
  length: number;
  /** Chunks of a MiB that differ. */
  chunks: number;
}

/**
 * Ranks that hold the same shard in different replicas must hold the same bits. The checksums that their snapshots have anyway are compared
 * now and then, which finds what the check before a vote cannot: a bit that turned while the state was computed with is in all
 * later states, under good checksums. Every twin calls it for the same states.
 */
export class TwinCheck {
  private readonly native: Native;
  private readonly comm: CommId;
  private readonly layout: Layout;
  private readonly rank: number;
  private readonly units: readonly FlatUnit[];
  /** A difference was found: until another state is restored it only grows. */
  private found = false;
  /** Step whose state was the same on all twins, in this generation; -1: none was compared. */
  equalStep = -1;

  constructor(options: {
    native: Native;
    comm: CommId;
    layout: Layout;
    rank: number;
    units: readonly FlatUnit[];
  }) {
    this.native = options.native;
    this.comm = options.comm;
    this.layout = options.layout;
    this.rank = options.rank;
    this.units = options.units;
  }

  /** @param checksums of the state's snapshot, unit by unit and in each kind by kind. Null: the same, or told before. */
  compare(step: number, checksums: Uint32Array): TwinDifference | null {
    if (this.found) return null;
    // The greatest and, negated, the least of each: a vector of one length, however many twins there are.
    const own = Float64Array.from({ length: 2 * checksums.length }, (_, i) =>
      i < checksums.length ? checksums[i]! : -checksums[i - checksums.length]!,
    );
    const most = reduceNumbers(this.native, this.comm, own, REDUCE.max);
    const differ = checksums.map((_, i) => (most[i] === -most[i + checksums.length]! ? 0 : 1));
    const first = differ.indexOf(1);
    if (first < 0) {
      this.equalStep = step;
      return null;
    }
    this.found = true;
    const ranks = this.layout.replicaGroup(this.rank);
    const votes = new Float64Array(ranks.length);
    votes[ranks.indexOf(this.rank)] = checksums[first]!;
    const told = reduceNumbers(this.native, this.comm, votes, REDUCE.sum);
    const odd = oddOnes([...told]).map((i) => ranks[i]!);
    const chunks = differ.reduce((sum, one) => sum + one, 0);
    return {
      odd,
      ranks,
      ...placeOf(first, { units: this.units, layout: this.layout, rank: this.rank }),
      chunks,
    };
  }
}

/** Whether this state's snapshot is one to be compared; alike on all ranks. Pure. */
export function isCompared(
  step: number,
  { snapshot_every_steps }: { snapshot_every_steps: number },
): boolean {
  return step > 0 && step % (SNAPSHOTS_BETWEEN * snapshot_every_steps) === 0;
}

/** Places of the values that more than half of the others contradict; none where no value has such a majority. Pure. */
export function oddOnes(values: readonly number[]): number[] {
  const usual = values.find((value) => 2 * values.filter((other) => other === value).length > values.length);
  return usual === undefined ? [] : values.flatMap((value, i) => (value === usual ? [] : [i]));
}

/** The tensor that a chunk of a snapshot's checksums begins in, and its elements that the chunk holds. Pure. */
export function placeOf(
  chunk: number,
  { units, layout, rank }: { units: readonly FlatUnit[]; layout: Layout; rank: number },
): Pick<TwinDifference, "tensor" | "start" | "length"> {
  const elements = CHUNK_BYTES / 4;
  const parts = layout.shardGroupSize;
  let left = chunk;
  for (const unit of units) {
    const range = shardRange({ count: unit.count, parts, index: rank % parts });
    const count = chunkCount(4 * range.length);
    for (const kind of STATE_KINDS) {
      if (left >= count) {
        left -= count;
        continue;
      }
      const begins = range.start + left * elements;
      const ends = Math.min(begins + elements, range.start + range.length);
      const parameter = unit.parameters.findLast(({ offset }) => offset <= begins)!;
      const start = begins - parameter.offset;
      const length = Math.min(ends - parameter.offset, parameter.spec.count) - start;
      return { tensor: `${kind}/${parameter.spec.name}`, start, length };
    }
  }
  throw new RangeError(`placeOf: chunk ${chunk} is beyond the snapshot`);
}
