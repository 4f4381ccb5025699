import type { CheckpointEntry } from "./load.js";
import type { StateName } from "./state.js";
import type { Storage } from "./storage/storage.js";

/** Which steps to delete so that `keepLast` committed checkpoints of the current line stay. Pure; each choice has its reason. */
export declare function planRetention(options: {
  entries: readonly CheckpointEntry[];
  keepLast: number;
  /** States in use, for example the one being restored; never deleted. */
  pinned?: readonly StateName[];
}): { keep: { step: number; reason: string }[]; remove: { step: number; reason: string }[] };

/**
 * Deletes what planRetention chose (commit record first), folders of crashed saves below the newest step, and files that
 * older attempts left beside a committed one. `generation` is the one that runs: nothing of it or above is touched uncommitted.
 */
export declare function prune(options: {
  uri: string | Storage;
  keepLast: number;
  generation: string;
  pinned?: readonly StateName[];
}): Promise<{ removedSteps: number[]; removedBytes: number }>;
