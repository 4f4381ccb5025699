import { GokuError } from "../job/errors.js";
import type { Layout } from "../job/layout.js";
import type { FlatUnit } from "../job/sharding.js";
import { type CommitResult, commitCheckpoint } from "./commit.js";
import { listCheckpoints, splitCheckpointUri } from "./load.js";
import { checkpointFolder } from "./names.js";
import { type ShardSource, ShardWriter } from "./shard_writer.js";
import type { Storage } from "./storage/storage.js";

/**
 * Writes a whole checkpoint into an empty run, as the writers of `layout` would: one after another, then the commit record.
 * Interrupted, it leaves no checkpoint, and may be repeated: every file is written anew.
 * Throws CONFLICT when the run is not empty, and what ShardWriter and commitCheckpoint throw.
 */
export async function writeCheckpoint(options: {
  storage: Storage;
  source: ShardSource;
  units: readonly FlatUnit[];
  layout: Layout;
  /** That saves; names the files. */
  generation: string;
}): Promise<CommitResult> {
  const { storage, source, units, layout, generation } = options;
  await requireEmptyRun(storage, source.meta.state.step);
  for (let rank = 0; rank < layout.worldSize; rank++)
    await new ShardWriter(storage, source, { rank, layout, units, generation }).write();
  return commitCheckpoint({ uri: storage, meta: source.meta, units, layout, generation, waitMs: 0 });
}

/** ARGUMENT_INVALID unless it is a run's folder, CONFLICT when that holds anything but what an earlier attempt at `step` may have left. */
export async function requireEmptyRun(storage: Storage, step: number): Promise<void> {
  if (splitCheckpointUri(storage.uri).step !== null) {
    const found = `${storage.uri} names a checkpoint, want the folder of a run`;
    throw new GokuError("ARGUMENT_INVALID", `Cannot write a checkpoint there: ${found}`);
  }
  const own = checkpointFolder(step);
  const damaged: string[] = [];
  const entries = await listCheckpoints(storage, ({ uri }) => damaged.push(uri));
  const others = (await storage.folders("")).filter((name) => /^checkpoint-/.test(name) && name !== own);
  const found = entries[0]?.uri ?? damaged[0] ?? others[0];
  if (found === undefined) return;
  const todo = "name a folder without any (checkpoint.uri, --out)";
  throw new GokuError(
    "CONFLICT",
    `Cannot write a checkpoint to ${storage.uri}: the run holds ${found} already, ${todo}`,
  );
}
