import type { Layout } from "../job/layout.js";
import { type FlatUnit, shardIndexes, shardRange } from "../job/sharding.js";
import { CHUNK_BYTES } from "./digest.js";
import { STATE_KINDS, type StateKind } from "./state.js";

/** What a rank reads in one round, about. */
const WINDOW_BYTES = 8 << 20;

/** Chunks of a kind of a unit that a shard shares with others, at most: one at its beginning, one at its end. */
const SHARED_COUNT = 2;

/** What a rank reads in one round at most; and what ends on it, from one reader in each group of shards. */
export const LOAD_ROUND_BYTES_MAX = WINDOW_BYTES + CHUNK_BYTES;

/** Rounds whose chunks a rank holds at once: one is handed on, the next are being read. */
export const LOAD_BUFFERS = 3;

/**
 * What a rank of any layout holds at most while it loads, beside the state: chunks; of a round that is exchanged between
 * shards what goes and what comes; and what goes to replicas, of itself and of two of them.
 */
export const LOAD_MEMORY_BYTES = (LOAD_BUFFERS + 2 + 3) * LOAD_ROUND_BYTES_MAX;

/** Elements [start, end) of one kind of a unit's run, which one digest covers. */
export interface UnitChunk {
  kind: StateKind;
  unit: string;
  start: number;
  end: number;
}

/** Elements [start, end) of a unit's run that one shard holds. */
export interface ChunkPart {
  /** Of the shard. */
  index: number;
  start: number;
  end: number;
}

export interface ChunkPlace {
  /** Shard whose ranks read the chunk; one of those in `parts`. */
  reader: number;
  /** The replica of it that does. */
  replica: number;
  round: number;
  /** Who needs what of it, ascending. */
  parts: ChunkPart[];
}

/** Shards that need the elements of a kind of a unit; null: all that hold any. */
export type Wanting = ((kind: StateKind, unit: string) => ReadonlySet<number>) | null;

/** One kind of one unit. */
interface Slot {
  unit: FlatUnit;
  wanting: ReadonlySet<number> | null;
  /** Among the slots. */
  index: number;
  /** First byte in the run of a shard's kinds and units, one after another; the same for all shards. */
  at: number;
  /** Of kind and unit, so that readers take turns. */
  turn: number;
}

/**
 * Who reads which chunk of a checkpoint for all ranks of a layout, and when: every chunk once. Each rank derives what
 * concerns it, from the chunks that its shard touches, in time that does not grow with the world. Pure.
 *
 * A chunk is read for one of the shards that need it, in turns, by one replica of that shard. Rounds bound what a rank holds.
 * Some are of chunks that one shard alone needs, by windows of the run of its kinds and units: nothing is exchanged
 * between shards. The others are of those that shards share, by kinds of units: a shard has at most two of each. They lie
 * evenly among the first, so that a rank has much to do while others come to an exchange. Windows go to the replicas in
 * turn; a round is one window for each.
 */
export class LoadPlan {
  /** The same on all ranks. */
  readonly rounds: readonly { isShared: boolean }[];
  readonly #layout: Layout;
  readonly #slots = new Map<string, Slot>();
  readonly #windowBytes: number;
  readonly #windowSlots: number;
  /** Places in `rounds`. */
  readonly #private: number[] = [];
  readonly #shared: number[] = [];

  constructor(units: readonly FlatUnit[], layout: Layout, wanting: Wanting = null) {
    this.#layout = layout;
    const { shardGroupSize: parts, dpReplicate } = layout;
    let at = 0;
    for (const [k, kind] of STATE_KINDS.entries()) {
      for (const [u, unit] of units.entries()) {
        const wanted = wanting?.(kind, unit.name) ?? null;
        if (unit.count === 0 || wanted?.size === 0) continue;
        const slot = { unit, wanting: wanted, index: this.#slots.size, at, turn: k + u };
        this.#slots.set(`${kind}/${unit.name}`, slot);
        at += 4 * shardRange({ count: unit.count, parts, index: 0 }).length;
      }
    }
    const privateCount = Math.ceil(at / (WINDOW_BYTES * dpReplicate));
    this.#windowBytes = Math.ceil(at / Math.max(1, privateCount * dpReplicate));
    const slots = this.#slots.size;
    const slotsMost = WINDOW_BYTES / (SHARED_COUNT * CHUNK_BYTES);
    this.#windowSlots = Math.min(slotsMost, Math.max(1, Math.ceil(slots / dpReplicate)));
    const sharedCount = parts === 1 ? 0 : Math.ceil(slots / (this.#windowSlots * dpReplicate));
    const count = privateCount + sharedCount;
    this.rounds = Array.from({ length: count }, (_, i) => {
      const isShared = Math.floor(((i + 1) * sharedCount) / count) > Math.floor((i * sharedCount) / count);
      (isShared ? this.#shared : this.#private).push(i);
      return { isShared };
    });
  }

  /** Null: nobody needs it. */
  place(chunk: UnitChunk): ChunkPlace | null {
    const slot = this.#slots.get(`${chunk.kind}/${chunk.unit}`);
    if (slot === undefined) return null;
    const parts = this.#parts(slot, chunk);
    if (parts.length === 0) return null;
    const turn = slot.turn + Math.floor((4 * chunk.start) / CHUNK_BYTES);
    const reader = parts[turn % parts.length]!.index;
    const { dpReplicate } = this.#layout;
    const at = (rounds: readonly number[], window: number) => ({
      ...{ reader, parts, replica: window % dpReplicate, round: rounds[Math.floor(window / dpReplicate)]! },
    });
    // Also one of which a part lies in a shard that does not need it: it is at an end of the reader's.
    const own = this.#range(slot, reader);
    if (chunk.start < own.start || chunk.end > own.start + own.length)
      return at(this.#shared, Math.floor(slot.index / this.#windowSlots));
    return at(this.#private, Math.floor((slot.at + 4 * (chunk.start - own.start)) / this.#windowBytes));
  }

  #parts(slot: Slot, { start, end }: UnitChunk): ChunkPart[] {
    const { unit, wanting } = slot;
    return shardIndexes({ count: unit.count, parts: this.#layout.shardGroupSize, start, end }).flatMap(
      (index) => {
        if (wanting !== null && !wanting.has(index)) return [];
        const held = this.#range(slot, index);
        return [{ index, start: Math.max(start, held.start), end: Math.min(end, held.start + held.length) }];
      },
    );
  }

  #range({ unit }: Slot, index: number): { start: number; length: number } {
    return shardRange({ count: unit.count, parts: this.#layout.shardGroupSize, index });
  }
}
