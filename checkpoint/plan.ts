import type { Layout } from "../job/layout.js";
import { evenSplit, partOf } from "../job/layout.js";
import type { ParameterSpec } from "../job/parameters.js";
import { type FlatUnit, SHARD_GRAIN, type ShardPiece, shardIndexes, shardPieces } from "../job/sharding.js";
import { digestOf } from "./digest.js";
import { type Interval, STATE_KINDS, type StateKind } from "./state.js";

/** An interval that one rank writes, and where the rank finds it. */
export interface PlannedInterval extends Interval {
  kind: StateKind;
  spec: ParameterSpec;
  unit: string;
  /** Element offset in the rank's shard of that unit. */
  shardOffset: number;
}

/** Counts the ways of planning; a change of anything below changes it, so that old and new code never share a save. */
const PLAN_VERSION = 1;

/**
 * Who writes what: every element of every tensor exactly once. Every rank derives it alone, and derives only its own part:
 * O(parameters), whatever the world size.
 */
export interface WritePlan {
  writerCount: number;
  /** In the order in which they lie in the rank's snapshot: kind by kind, unit by unit; may be empty. */
  intervals(writer: number): PlannedInterval[];
  /** Equal on all ranks that derived the same plan. */
  digest: string;
}

/**
 * A rank writes what it holds. Replicas hold the same, so each takes an even part of the run that the shard's elements
 * form, kind after kind: at most one of a rank's intervals is cut at either end.
 */
export function writePlan(units: readonly FlatUnit[], layout: Layout): WritePlan {
  const specs = new Map(
    units.flatMap((unit) => unit.parameters.map(({ spec }) => [spec.name, spec] as const)),
  );
  return {
    writerCount: layout.worldSize,
    digest: planDigest(units, layout),
    intervals: (writer) => {
      const held = shardPieces(units, layout, writer);
      const perKind = held.reduce((sum, piece) => sum + piece.length, 0);
      const replica = layout.coordinates(writer).replica;
      const own = evenSplit({
        count: perKind * STATE_KINDS.length,
        parts: layout.dpReplicate,
        index: replica,
      });
      const planned: PlannedInterval[] = [];
      let at = 0; // place of the piece in the run
      for (const kind of STATE_KINDS) {
        for (const piece of held) {
          const skip = Math.max(0, own.start - at);
          const length = Math.min(piece.length, own.start + own.length - at) - skip;
          at += piece.length;
          if (length <= 0) continue;
          const { parameter, unit } = piece;
          planned.push({
            kind,
            tensor: `${kind}/${parameter}`,
            spec: specs.get(parameter)!,
            start: piece.start + skip,
            length,
            unit,
            shardOffset: piece.shardOffset + skip,
          });
        }
      }
      return planned;
    },
  };
}

/** What a shard holds of each parameter, and where that begins in the run of its elements of a kind. */
interface ShardRun {
  perKind: number;
  pieces: Map<string, ShardPiece & { at: number }>;
}

/**
 * Who writes given elements, found from the plan alone: by arithmetic over the shards that hold them, each looked at once, so
 * that neither the ranks of the layout nor the replicas of a shard count.
 */
export class WriterIndex {
  readonly #units: readonly FlatUnit[];
  readonly #layout: Layout;
  /** Unit of a parameter, and its place there. */
  readonly #places = new Map<string, { unit: FlatUnit; offset: number }>();
  readonly #runs = new Map<number, ShardRun>();

  constructor(units: readonly FlatUnit[], layout: Layout) {
    this.#units = units;
    this.#layout = layout;
    for (const unit of units)
      for (const { spec, offset } of unit.parameters) this.#places.set(spec.name, { unit, offset });
  }

  /** Ascending; RangeError for a tensor that no writer has. */
  writersOf({ tensor, start, length }: Interval): number[] {
    const slash = tensor.indexOf("/");
    const kind = STATE_KINDS.indexOf(tensor.slice(0, slash) as StateKind);
    const parameter = tensor.slice(slash + 1);
    const place = this.#places.get(parameter);
    if (place === undefined || kind < 0) throw new RangeError(`writersOf: no tensor ${tensor}`);
    if (length === 0) return [];
    const { unit, offset } = place;
    const { shardGroupSize: parts, dpReplicate } = this.#layout;
    const from = offset + start;
    const shards = shardIndexes({ count: unit.count, parts, start: from, end: from + length });
    if (dpReplicate === 1) return shards; // who holds them writes them
    return shards
      .flatMap((shard) => this.#writersOfShard(shard, { kind, parameter, start, length }))
      .sort((a, b) => a - b);
  }

  #writersOfShard(
    shard: number,
    { kind, parameter, start, length }: { kind: number; parameter: string; start: number; length: number },
  ): number[] {
    const { perKind, pieces } = this.#runOf(shard);
    const piece = pieces.get(parameter)!;
    const first = kind * perKind + piece.at - piece.start; // element of the run where the parameter would begin
    const { dpReplicate, shardGroupSize } = this.#layout;
    const split = { count: perKind * STATE_KINDS.length, parts: dpReplicate };
    const one = partOf({ ...split, item: first + Math.max(start, piece.start) });
    const last = partOf({ ...split, item: first + Math.min(start + length, piece.start + piece.length) - 1 });
    return Array.from({ length: last - one + 1 }, (_, i) => (one + i) * shardGroupSize + shard);
  }

  #runOf(shard: number): ShardRun {
    let run = this.#runs.get(shard);
    if (run === undefined) {
      let at = 0;
      const pieces: ShardRun["pieces"] = new Map();
      for (const piece of shardPieces(this.#units, this.#layout, shard)) {
        pieces.set(piece.parameter, { ...piece, at });
        at += piece.length;
      }
      run = { perKind: at, pieces };
      this.#runs.set(shard, run);
    }
    return run;
  }
}

/** sha256 over everything the plan depends on. */
export function planDigest(units: readonly FlatUnit[], layout: Layout): string {
  const parameters = units.map((unit) => [
    unit.name,
    unit.parameters.map(({ spec, offset }) => [spec.name, spec.shape, offset]),
  ]);
  return digestOf(JSON.stringify([PLAN_VERSION, SHARD_GRAIN, STATE_KINDS, layout.size, parameters]));
}

/** A run of one tensor's elements that lies in one place. */
export interface Extent {
  start: number;
  length: number;
}

/** Elements to copy: `length` from `extent`, from its element `extentOffset` on, to element `targetOffset` of what is wanted. */
export interface ReadStep<E extends Extent> {
  extent: E;
  extentOffset: number;
  length: number;
  targetOffset: number;
}

/**
 * Which parts of which extents make up a wanted interval. `extents` are of that tensor, sorted by start, and cover each
 * element at most once. Null: they do not cover all that is wanted. Re-partitioning is nothing but this.
 */
export function readPlan<E extends Extent>(wanted: Extent, extents: readonly E[]): ReadStep<E>[] | null {
  const end = wanted.start + wanted.length;
  const steps: ReadStep<E>[] = [];
  let at = wanted.start;
  for (let i = firstBeyond(extents, at); at < end; i++) {
    const extent = extents[i];
    if (extent === undefined || extent.start > at) return null;
    const length = Math.min(end, extent.start + extent.length) - at;
    steps.push({ extent, extentOffset: at - extent.start, length, targetOffset: at - wanted.start });
    at += length;
  }
  return steps;
}

/** Index of the first extent that ends beyond `element`. */
function firstBeyond(extents: readonly Extent[], element: number): number {
  let low = 0;
  let high = extents.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const { start, length } = extents[middle]!;
    if (start + length > element) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** What is wrong with extents that should cover [0, count) exactly once, or null. Sorts a copy. */
export function coverageFault(extents: readonly Extent[], count: number): string | null {
  let at = 0;
  for (const { start, length } of [...extents].sort((a, b) => a.start - b.start || a.length - b.length)) {
    if (start > at) return `elements ${at} to ${start} are missing`;
    if (start < at) return `elements ${start} to ${Math.min(at, start + length)} are held twice`;
    at = start + length;
  }
  return at === count
    ? null
    : at < count
      ? `elements ${at} to ${count} are missing`
      : `it holds ${at} elements, its shape has ${count}`;
}
