import { GokuError } from "../job/errors.js";
import type { Layout } from "../job/layout.js";
import type { FlatUnit } from "../job/sharding.js";
import type { SaveHook } from "./hooks.js";
import type { PlannedInterval } from "./plan.js";
import { type ShardSource, ShardWriter, type WriterResult } from "./shard_writer.js";
import { snapshotLayout } from "./snapshot_page.js";
import { SnapshotReader } from "./snapshot_reader.js";
import type { StateMeta } from "./state.js";
import { openStorage, type Storage } from "./storage/storage.js";

export { type CommitOptions, type CommitResult, commitCheckpoint } from "./commit.js";

export interface SaveShardOptions {
  /** Root of the run (job.checkpoint.uri), or a storage opened on it. */
  uri: string | Storage;
  /** The pinned snapshot of `rank`. */
  slotPath: string;
  rank: number;
  layout: Layout;
  units: readonly FlatUnit[];
  /** The generation that saves (decimal u64); names the files. The state's own generation may be an older one. */
  generation: string;
  hook?: SaveHook | null;
}

/**
 * Writes one rank's part of a checkpoint: `checkpoint-<step>/g<generation>-w<rank>.safetensors` and its manifest `.json`,
 * durable when it resolves. Repeating it is harmless. Nothing becomes visible before commitCheckpoint.
 * Throws SNAPSHOT_MISSING, CHECKPOINT_CORRUPT (the snapshot's checksums), STORAGE_FULL, STORAGE_FAILED.
 */
export async function saveShard(options: SaveShardOptions): Promise<WriterResult> {
  const storage = typeof options.uri === "string" ? openStorage(options.uri) : options.uri;
  const reader = await SnapshotReader.open(options.slotPath);
  try {
    requireSlot(reader, options);
    const writer = new ShardWriter(storage, new SnapshotSource(reader, options), options);
    return (await writer.findEarlier()) ?? (await writer.write());
  } finally {
    await reader.close();
  }
}

function requireSlot(reader: SnapshotReader, { rank, layout, units }: SaveShardOptions): void {
  const { header } = reader;
  const size = header.meta.layout;
  const found = `rank ${header.rank} of ${size.dp_replicate}x${size.dp_shard}x${size.sp}, ${header.bytes} bytes`;
  const want = `rank ${rank} of ${layout}, ${snapshotLayout(units, layout, rank).bytes} bytes`;
  if (found !== want)
    throw new GokuError(
      "SNAPSHOT_MISSING",
      `Cannot save snapshot ${header.path}: it holds ${found}, want ${want}`,
    );
}

/** Elements of a pinned snapshot, checked against its checksums as they are read. */
class SnapshotSource implements ShardSource {
  readonly meta: StateMeta;
  readonly #reader: SnapshotReader;
  /** Byte of the file where each kind of each unit begins. */
  readonly #places: Map<string, number>;

  constructor(reader: SnapshotReader, { layout, units, rank }: SaveShardOptions) {
    this.meta = reader.header.meta;
    this.#reader = reader;
    this.#places = new Map(
      snapshotLayout(units, layout, rank).entries.map((entry) => [
        `${entry.kind}/${entry.unit}`,
        entry.byteOffset,
      ]),
    );
  }

  read({ kind, unit, shardOffset, length }: PlannedInterval): AsyncIterable<Uint8Array> {
    return this.#reader.read(this.#places.get(`${kind}/${unit}`)! + 4 * shardOffset, 4 * length);
  }

  requireUnchanged(): void {
    this.#reader.requireUnchanged();
  }
}
