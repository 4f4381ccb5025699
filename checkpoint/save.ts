import type { Layout } from "../job/layout.js";
import type { FlatUnit } from "../job/sharding.js";
import type { SaveHook } from "./hooks.js";
import type { StateMeta, StateName } from "./state.js";
import type { Storage } from "./storage/storage.js";

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

export interface WriterResult {
  state: StateName;
  writer: number;
  /** Keys under the root; `file` is null where this rank has nothing to write. */
  file: string | null;
  manifest: string;
  bytes: number;
  /** sha256 of the manifest. */
  digest: string;
  /** True: an earlier attempt had written it all. */
  reused: boolean;
}

/**
 * Writes one rank's part of a checkpoint: `checkpoint-<step>/g<generation>-w<rank>.safetensors` and its manifest `.json`,
 * durable when it resolves. Repeating it is harmless. Nothing becomes visible before commitCheckpoint.
 * Throws SNAPSHOT_MISSING, CHECKPOINT_CORRUPT (the snapshot's checksums), STORAGE_FULL, STORAGE_FAILED.
 */
export declare function saveShard(options: SaveShardOptions): Promise<WriterResult>;

export interface CommitOptions {
  uri: string | Storage;
  /** Meta of the state being saved, as in the header of any rank's snapshot of it (readSnapshotHeader(slotPath).meta). */
  meta: StateMeta;
  units: readonly FlatUnit[];
  /** The layout that saves: its world size is the number of writers. */
  layout: Layout;
  generation: string;
  /** How long to wait for the other writers. */
  waitMs: number;
  /** Gives up early, for example because the generation was aborted. */
  signal?: AbortSignal | null;
  hook?: SaveHook | null;
}

export interface CommitResult {
  state: StateName;
  /** The checkpoint's folder, for example file:///runs/a/checkpoint-40. */
  uri: string;
  /** Of tensor data, over all writers. */
  bytes: number;
  /** False: this very state had been committed before. */
  created: boolean;
}

/**
 * Waits for every writer's manifest, checks that they cover every element exactly once, and creates the commit record:
 * one agent calls it, without the controller. Failing leaves nothing visible. Repeating it is harmless.
 * Throws STORAGE_FAILED (writers missing after waitMs), CHECKPOINT_CORRUPT, CHECKPOINT_MISMATCH, GENERATION_STALE
 * (a higher generation has committed another state of that step), STORAGE_FULL.
 */
export declare function commitCheckpoint(options: CommitOptions): Promise<CommitResult>;
