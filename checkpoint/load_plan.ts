import type { Layout } from "../job/layout.js";
import { type FlatUnit, shardIndexes, shardRange } from "../job/sharding.js";
import { CHUNK_BYTES } from "./digest.js";
import { STATE_KINDS, type StateKind } from "./state.js";

/** What a rank reads before it hands on what others need of it, about; see `LoadPlan` for what may be above. */
const WINDOW_BYTES = 8 << 20;

/** A chunk begins before the shard of its reader, and ends behind it, by less than one chunk each. */
const OVERHANG_BYTES = 2 * CHUNK_BYTES;

/** A rank's buffer of chunks that are read in one round. */
export const LOAD_READ_BYTES_MAX = WINDOW_BYTES + OVERHANG_BYTES;

/** What of one round ends on a rank: from one reader in each group of shards. */
export const LOAD_LANDED_BYTES_MAX = WINDOW_BYTES + 2 * OVERHANG_BYTES;

/** Rounds whose chunks a rank holds at once: one is handed on, the next are being read. */
export const LOAD_BUFFERS = 3;

/**
 * What a rank of any layout holds at most while it loads, beside the state: chunks; and what it hands to replicas, of two of
 * them and of its own, or, where there are none, what it hands on in its shard group and what comes from there.
 */
export const LOAD_MEMORY_BYTES = LOAD_BUFFERS * LOAD_READ_BYTES_MAX + 3 * LOAD_LANDED_BYTES_MAX;

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

/** One kind of one unit in the run that rounds are cut from. */
interface Slot {
  unit: FlatUnit;
  wanting: ReadonlySet<number> | null;
  /** First byte in the run. */
  at: number;
  /** Of kind and unit, so that readers take turns. */
  turn: number;
}

/**
 * Who reads which chunk of a checkpoint for all ranks of a layout, and when: every chunk once. Each rank derives what
 * concerns it, from the chunks that its shard touches, in time that does not grow with the world. Pure.
 *
 * A chunk is read for one of the shards that need it, in turns, by one replica of that shard, and belongs to the window of
 * a run: the shard's kinds and units one after another, each with room for what overhangs. The run is the same for all
 * shards. Windows go to the replicas in turn; a round is one window for each. So in one round a rank reads at most
 * LOAD_READ_BYTES_MAX. What others read for it is at most two chunks of a kind of a unit, or less than one where shards
 * are smaller than chunks: with its own, at most LOAD_LANDED_BYTES_MAX.
 */
export class LoadPlan {
  /** The same on all ranks. */
  readonly roundCount: number;
  readonly #layout: Layout;
  readonly #slots = new Map<string, Slot>();
  readonly #windowBytes: number;

  constructor(units: readonly FlatUnit[], layout: Layout, wanting: Wanting = null) {
    this.#layout = layout;
    const parts = layout.shardGroupSize;
    let at = 0;
    for (const [k, kind] of STATE_KINDS.entries()) {
      for (const [u, unit] of units.entries()) {
        const wanted = wanting?.(kind, unit.name) ?? null;
        if (unit.count === 0 || wanted?.size === 0) continue;
        this.#slots.set(`${kind}/${unit.name}`, { unit, wanting: wanted, at, turn: k + u });
        at += 4 * shardRange({ count: unit.count, parts, index: 0 }).length + OVERHANG_BYTES;
      }
    }
    const rounds = Math.ceil(at / (WINDOW_BYTES * layout.dpReplicate));
    this.roundCount = rounds;
    this.#windowBytes = Math.ceil(at / Math.max(1, rounds * layout.dpReplicate));
  }

  /** Null: nobody needs it. */
  place(chunk: UnitChunk): ChunkPlace | null {
    const slot = this.#slots.get(`${chunk.kind}/${chunk.unit}`);
    if (slot === undefined) return null;
    const parts = this.#parts(slot, chunk);
    if (parts.length === 0) return null;
    const turn = slot.turn + Math.floor((4 * chunk.start) / CHUNK_BYTES);
    const reader = parts[turn % parts.length]!.index;
    const own = this.#range(slot, reader);
    const window = Math.floor((slot.at + 4 * Math.max(0, chunk.start - own.start)) / this.#windowBytes);
    const { dpReplicate } = this.#layout;
    return { reader, replica: window % dpReplicate, round: Math.floor(window / dpReplicate), parts };
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
