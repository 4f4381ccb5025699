import type { Layout } from "../job/layout.js";
import { type FlatUnit, shardPieces } from "../job/sharding.js";
import { CHUNK_BYTES } from "./digest.js";
import { type Extent, writePlan } from "./plan.js";
import { STATE_KINDS } from "./state.js";

export interface ReadCost {
  /** Of tensors in the checkpoint. */
  stateBytes: number;
  /** That all ranks together read from storage: at least stateBytes. */
  readBytes: number;
}

/**
 * What a restore of layout `to` reads of a checkpoint that layout `from` has written. Each shard is read once, by one of the
 * ranks that hold it, in whole chunks, since a digest covers a chunk: one that two shards share is read for both. Pure.
 */
export function readCost(units: readonly FlatUnit[], { from, to }: { from: Layout; to: Layout }): ReadCost {
  const extents = storedExtents(units, from);
  const cost: ReadCost = { stateBytes: 0, readBytes: 0 };
  for (let rank = 0; rank < to.shardGroupSize; rank++) {
    for (const { parameter, start, length } of shardPieces(units, to, rank)) {
      for (const kind of STATE_KINDS) {
        cost.stateBytes += 4 * length;
        cost.readBytes += chunkBytes(extents.get(`${kind}/${parameter}`)!, { start, length });
      }
    }
  }
  return cost;
}

/** By tensor, in the order of their elements. */
function storedExtents(units: readonly FlatUnit[], layout: Layout): Map<string, Extent[]> {
  const plan = writePlan(units, layout);
  const extents = new Map<string, Extent[]>();
  for (let writer = 0; writer < plan.writerCount; writer++) {
    for (const { tensor, start, length } of plan.intervals(writer)) {
      const known = extents.get(tensor);
      if (known === undefined) extents.set(tensor, [{ start, length }]);
      else known.push({ start, length });
    }
  }
  for (const list of extents.values()) list.sort((a, b) => a.start - b.start);
  return extents;
}

/** Of the chunks that hold the elements; each extent begins with a chunk of its own, and its last may be shorter. */
function chunkBytes(extents: readonly Extent[], { start, length }: Extent): number {
  const end = start + length;
  let bytes = 0;
  for (let i = firstAfter(extents, start); i < extents.length && extents[i]!.start < end; i++) {
    const held = extents[i]!;
    const from = 4 * (Math.max(start, held.start) - held.start);
    const to = 4 * (Math.min(end, held.start + held.length) - held.start);
    const whole = Math.ceil(to / CHUNK_BYTES) * CHUNK_BYTES;
    bytes += Math.min(4 * held.length, whole) - Math.floor(from / CHUNK_BYTES) * CHUNK_BYTES;
  }
  return bytes;
}

/** The first extent that ends after an element. */
function firstAfter(extents: readonly Extent[], element: number): number {
  let low = 0;
  let high = extents.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    const { start, length } = extents[middle]!;
    if (start + length > element) high = middle;
    else low = middle + 1;
  }
  return low;
}
