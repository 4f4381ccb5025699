import { GokuError, toGokuError } from "../job/errors.js";
import { Layout } from "../job/layout.js";
import { type FlatUnit, overlappingShards, shardRange } from "../job/sharding.js";
import { mapLimit } from "./map_limit.js";
import {
  type SnapshotEntry,
  type SnapshotExtent,
  type SnapshotHeader,
  snapshotChunks,
  snapshotLayout,
} from "./snapshot_page.js";
import { type StateKind, type StateMeta, type StateName, stateKey } from "./state.js";

/** Snapshots read at once: one is checked while others are on their way. */
const SNAPSHOTS_AT_ONCE = 3;

/** A snapshot that may be read from: on this node or on another one. */
export interface SnapshotSource {
  /** For people, for example "rank 2 on node-b". */
  name: string;
  open(): Promise<OpenSnapshot>;
  /** A chunk of it is damaged: once it is read, nobody is to take it for whole. */
  damaged?(): void;
}

export interface OpenSnapshot {
  readonly header: SnapshotHeader;
  /** Whole chunks, each checked; one may be overwritten once another is asked for. */
  chunks(indexes: Iterable<number>): AsyncIterable<{ index: number; bytes: Uint8Array }>;
  close(): Promise<void>;
}

/** Elements of one kind of one unit's shard, to be put `offset` elements from its beginning. */
export interface ShardBytes {
  kind: StateKind;
  unit: string;
  offset: number;
  bytes: Uint8Array;
}

export interface MemoryReadOptions {
  units: readonly FlatUnit[];
  state: StateName;
  /** That the snapshots were made with. */
  from: Layout;
  to: Layout;
  /** In `to`. */
  rank: number;
  /** What is read of the state. */
  kinds: readonly StateKind[];
  /** Of one shard of `from`, in the order in which they are tried. */
  sources: (shard: number) => readonly SnapshotSource[];
  write: (bytes: ShardBytes) => void;
}

/** Where bytes came from; `insteadOf`: why an earlier source did not serve, empty for the first. */
export interface RestoredPart {
  source: string;
  bytes: number;
  insteadOf: string;
}

export interface MemoryRead {
  /** Null where no source could be opened. */
  meta: StateMeta | null;
  parts: RestoredPart[];
  /** What no source held undamaged. */
  missing: { kind: StateKind; unit: string }[];
  /** Why, for each source that failed. */
  failures: SourceFailure[];
}

export interface SourceFailure {
  source: string;
  error: GokuError;
}

export function failuresText(failures: readonly SourceFailure[]): string {
  return failures.map(({ source, error }) => `${source}: ${error.message}`).join("; ");
}

/** Bytes of an old rank's snapshot that belong to the new rank. */
interface Piece {
  kind: StateKind;
  unit: string;
  /** First byte in the snapshot. */
  from: number;
  bytes: number;
  /** Element of the new rank's shard. */
  offset: number;
}

/**
 * Reads what one rank of a layout needs from snapshots of another layout, or of its own. Every chunk is checked; one that
 * a source has damaged, or does not give, comes from the next source.
 */
export async function readMemory(options: MemoryReadOptions): Promise<MemoryRead> {
  const { units, from, to, rank, sources } = options;
  const read: MemoryRead = { meta: null, parts: [], missing: [], failures: [] };
  const index = rank % to.shardGroupSize;
  await mapLimit(overlappingShards(units, { from, to, index }), SNAPSHOTS_AT_ONCE, async (shard) => {
    const entries = snapshotLayout(units, from, shard).entries;
    await new ShardRead(options, read, { shard, entries }).run(sources(shard));
  });
  return read;
}

function ownRange(count: number, layout: Layout, rank: number): { start: number; length: number } {
  return shardRange({ count, parts: layout.shardGroupSize, index: rank % layout.shardGroupSize });
}

function piecesOf(
  { units, from, to, rank, kinds }: MemoryReadOptions,
  shard: number,
  entries: readonly SnapshotEntry[],
): Piece[] {
  const counts = new Map(units.map((unit) => [unit.name, unit.count]));
  return entries.flatMap(({ kind, unit, byteOffset }) => {
    if (!kinds.includes(kind)) return [];
    const count = counts.get(unit)!;
    const old = ownRange(count, from, shard);
    const own = ownRange(count, to, rank);
    const start = Math.max(old.start, own.start);
    const end = Math.min(old.start + old.length, own.start + own.length);
    if (start >= end) return [];
    const first = byteOffset + 4 * (start - old.start);
    return [{ kind, unit, from: first, bytes: 4 * (end - start), offset: start - own.start }];
  });
}

/** One old shard: its chunks, from source after source until all are here. */
class ShardRead {
  readonly #options: MemoryReadOptions;
  readonly #read: MemoryRead;
  readonly #shard: number;
  /** Of a snapshot of the shard. */
  readonly #entries: readonly SnapshotEntry[];
  readonly #pieces: readonly Piece[];
  #wanted: Map<number, Piece[]> | null = null;

  constructor(
    options: MemoryReadOptions,
    read: MemoryRead,
    { shard, entries }: { shard: number; entries: readonly SnapshotEntry[] },
  ) {
    this.#options = options;
    this.#read = read;
    this.#shard = shard;
    this.#entries = entries;
    this.#pieces = piecesOf(options, shard, entries);
  }

  async run(sources: readonly SnapshotSource[]): Promise<void> {
    const failures: SourceFailure[] = [];
    for (const source of sources) {
      try {
        await this.#readFrom(source, failuresText(failures));
      } catch (error) {
        failures.push({ source: source.name, error: toGokuError(error) });
      }
      if (this.#wanted?.size === 0) break;
    }
    if (sources.length === 0) {
      const error = new GokuError("SNAPSHOT_MISSING", "nobody holds it");
      failures.push({ source: `shard ${this.#shard}`, error });
    }
    this.#read.failures.push(...failures);
    const missing = this.#wanted === null ? this.#pieces : [...this.#wanted.values()].flat();
    this.#read.missing.push(...missing.map(({ kind, unit }) => ({ kind, unit })));
  }

  async #readFrom(source: SnapshotSource, insteadOf: string): Promise<void> {
    const opened = await source.open();
    const part: RestoredPart = { source: source.name, bytes: 0, insteadOf };
    try {
      this.#requireState(opened.header);
      this.#wanted ??= byChunk(this.#pieces, snapshotChunks(opened.header));
      const damages = await this.#takeAll(opened, part);
      if (damages.length === 0 && this.#wanted.size > 0)
        throw new GokuError(
          "SNAPSHOT_MISSING",
          `gave ${this.#wanted.size} chunks less than it was asked for`,
        );
      this.#read.meta ??= opened.header.meta;
      if (damages.length === 0) return;
      source.damaged?.();
      throw new GokuError("CHECKPOINT_CORRUPT", damages.join("; "));
    } finally {
      if (part.bytes > 0) this.#read.parts.push(part);
      await opened.close();
    }
  }

  /** Takes what is undamaged; says what is not. */
  async #takeAll(opened: OpenSnapshot, part: RestoredPart): Promise<string[]> {
    const wanted = this.#wanted!;
    const extents = snapshotChunks(opened.header);
    const damages: string[] = [];
    for (let rest = [...wanted.keys()]; rest.length > 0; ) {
      let done = 0;
      try {
        for await (const { index, bytes } of opened.chunks(rest)) {
          const pieces = wanted.get(index);
          if (pieces === undefined)
            throw new GokuError("SNAPSHOT_MISSING", `gave chunk ${index}, which was not asked for`);
          part.bytes += this.#take(extents[index]!, bytes, pieces);
          wanted.delete(index);
          done++;
        }
        break;
      } catch (error) {
        if (!(error instanceof GokuError) || error.code !== "CHECKPOINT_CORRUPT") throw error;
        damages.push(error.message);
        rest = rest.slice(done + 1);
      }
    }
    return damages;
  }

  #requireState({ meta, rank, entries }: SnapshotHeader): void {
    const { state, from } = this.#options;
    const layout = new Layout(meta.layout).toString();
    const { length } = this.#entries;
    const fits =
      stateKey(meta.state) === stateKey(state) &&
      layout === from.toString() &&
      rank % from.shardGroupSize === this.#shard &&
      entries.length === length &&
      entries.every(({ bytes }, i) => bytes === 4 * this.#entries[i]!.count);
    if (fits) return;
    throw new GokuError(
      "SNAPSHOT_MISSING",
      `holds step ${meta.state.step} of generation ${meta.state.generation} of rank ${rank} in layout ${layout}`,
    );
  }

  #take(extent: SnapshotExtent, bytes: Uint8Array, pieces: readonly Piece[]): number {
    let taken = 0;
    for (const piece of pieces) {
      const begin = Math.max(piece.from, extent.byteOffset);
      const end = Math.min(piece.from + piece.bytes, extent.byteOffset + extent.bytes);
      this.#options.write({
        kind: piece.kind,
        unit: piece.unit,
        offset: piece.offset + (begin - piece.from) / 4,
        bytes: bytes.subarray(begin - extent.byteOffset, end - extent.byteOffset),
      });
      taken += end - begin;
    }
    return taken;
  }
}

/** The pieces that lie in each chunk, in the order of the chunks. Both lists are in the order of the file. */
function byChunk(pieces: readonly Piece[], extents: readonly SnapshotExtent[]): Map<number, Piece[]> {
  const found = new Map<number, Piece[]>();
  let first = 0;
  for (const piece of pieces) {
    while (first < extents.length && extents[first]!.byteOffset + extents[first]!.bytes <= piece.from)
      first++;
    for (let i = first; i < extents.length && extents[i]!.byteOffset < piece.from + piece.bytes; i++) {
      const list = found.get(i);
      if (list) list.push(piece);
      else found.set(i, [piece]);
    }
  }
  return found;
}
