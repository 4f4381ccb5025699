import { GokuError } from "../job/errors.js";
import type { LayoutSize } from "../job/layout.js";
import { Checkpoint } from "./checkpoint.js";
import { Extents } from "./extents.js";
import { currentLine, onLine } from "./lineage.js";
import type { CommitRecord } from "./manifest.js";
import { mapLimit, READS_AT_ONCE } from "./map_limit.js";
import { checkpointFolder, folderStep } from "./names.js";
import { type FoundRecord, readCommitRecords } from "./records.js";
import type { StateName } from "./state.js";
import { sameState } from "./state_json.js";
import { openStorage, type Storage } from "./storage/storage.js";

export { Checkpoint } from "./checkpoint.js";

export interface CheckpointEntry {
  step: number;
  state: StateName;
  parent: StateName | null;
  /** The checkpoint's folder. */
  uri: string;
  /** Of tensor data. */
  bytes: number;
  layout: LayoutSize;
  /** ISO time of the commit, by the clock of the agent that made it. */
  committedAt: string;
  /** True: the newest state of the run descends from it (or is it). False: a line that was given up. */
  current: boolean;
}

/**
 * Committed checkpoints under a run's root, the current line first, newest first. Empty when there is none.
 * A folder whose commit record cannot be read goes to `onUnreadable` and is left out.
 */
export async function listCheckpoints(
  uri: string | Storage,
  onUnreadable: (found: { step: number; uri: string; error: GokuError }) => void = () => {},
): Promise<CheckpointEntry[]> {
  const storage = typeof uri === "string" ? openStorage(uri) : uri;
  const steps = (await storage.folders("")).map(folderStep).filter((step) => step !== null);
  const found = await mapLimit(steps, READS_AT_ONCE, async (step) => {
    try {
      return await readCommitRecords(storage, step);
    } catch (error) {
      if (!(error instanceof GokuError) || error.code !== "CHECKPOINT_CORRUPT") throw error;
      onUnreadable({ step, uri: `${storage.uri}/${checkpointFolder(step)}`, error });
      return [];
    }
  });
  const records = found
    .flat()
    .map(({ record }) => ({ state: record.meta.state, parent: record.meta.parent, record }));
  const line = currentLine(records);
  const abandoned = records
    .filter(({ state }) => !onLine(line, state))
    .sort((a, b) => b.state.step - a.state.step);
  return [...line, ...abandoned].map(({ state, parent, record }) => ({
    step: state.step,
    state,
    parent,
    uri: `${storage.uri}/${checkpointFolder(state.step)}`,
    bytes: record.bytes,
    layout: record.layout,
    committedAt: record.committedAt,
    current: onLine(line, state),
  }));
}

/**
 * Opens a committed checkpoint. `uri` is the root of a run (then the newest of its current line, or that of step `which`,
 * or exactly the state `which`) or one `checkpoint-<step>` folder (then the highest generation's state in it).
 * Only its commit record is read here; writers' manifests and data are read, and checked, when they are asked for.
 * Throws NOT_FOUND (no such folder, or never committed), CHECKPOINT_CORRUPT, ARGUMENT_INVALID.
 */
export async function openCheckpoint(
  uri: string | Storage,
  which: number | StateName | null = null,
): Promise<Checkpoint> {
  const { storage, record } = await findCheckpoint(uri, which);
  return new Checkpoint(storage, record, await Extents.open(storage, record));
}

/** The commit record that openCheckpoint would open. */
export async function findCheckpoint(
  uri: string | Storage,
  which: number | StateName | null,
): Promise<{ storage: Storage; name: string; record: CommitRecord }> {
  const { storage, step: folder } = openRoot(uri);
  const state = typeof which === "object" ? which : null;
  const step = folder ?? (typeof which === "number" ? which : (which?.step ?? null));
  if (step === null) {
    const newest = await newestStep(storage);
    if (newest.damaged !== null) throw newest.damaged;
    return { storage, ...(await findRecord(storage, newest.step, null)) };
  }
  const found = await findRecord(storage, step, state);
  if (folder === null && state === null) await requireCurrent(storage, found);
  return { storage, ...found };
}

/** A run's root, and the step where `uri` is the folder of a checkpoint. */
export function openRoot(uri: string | Storage): { storage: Storage; step: number | null } {
  if (typeof uri !== "string") return { storage: uri, step: null };
  const { root, step } = splitCheckpointUri(uri);
  return { storage: openStorage(root), step };
}

async function findRecord(storage: Storage, step: number, state: StateName | null): Promise<FoundRecord> {
  const records = await readCommitRecords(storage, step);
  if (records.length === 0) throw await notFound(storage, step);
  const found =
    state === null ? records[0] : records.find(({ record }) => sameState(record.meta.state, state));
  if (found !== undefined) return found;
  const held = records.map(({ record }) => record.meta.state.generation).join(", ");
  throw new GokuError(
    "NOT_FOUND",
    `Cannot open checkpoint ${step} of generation ${state?.generation} under ${storage.uri}: found generation ${held}`,
  );
}

/**
 * The step that a run's root stands for: the newest of its current line. `damaged`: its record, or that of a higher step,
 * cannot be read; whether that was the newest cannot be known, and going back silently would lose steps unnoticed.
 * NOT_FOUND when nothing was ever committed.
 */
export async function newestStep(storage: Storage): Promise<{ step: number; damaged: GokuError | null }> {
  const unreadable: { step: number; error: GokuError }[] = [];
  const entries = await listCheckpoints(storage, (found) => unreadable.push(found));
  const head = entries[0];
  const worst = unreadable.sort((a, b) => b.step - a.step)[0];
  if (worst !== undefined && worst.step > (head?.step ?? -1)) {
    const hint =
      head === undefined ? "there is no other" : `name ${head.uri} to go back to step ${head.step}`;
    return {
      step: worst.step,
      damaged: new GokuError("CHECKPOINT_CORRUPT", `${worst.error.message}; ${hint}`, { cause: worst.error }),
    };
  }
  if (head === undefined) throw await notFound(storage, null);
  return { step: head.step, damaged: null };
}

/** A step of a line that was given up is opened only by those who say that they mean it. */
async function requireCurrent(storage: Storage, { record }: FoundRecord): Promise<void> {
  const { state } = record.meta;
  const entries = await listCheckpoints(storage);
  if (entries.some((entry) => entry.current && sameState(entry.state, state))) return;
  const head = entries[0]!;
  throw new GokuError(
    "NOT_FOUND",
    `Cannot open checkpoint ${state.step} under ${storage.uri}: generation ${state.generation} computed it, and the run that reached step ${head.step} in generation ${head.state.generation} does not descend from it, name the folder ${checkpointFolder(state.step)} to open it anyway`,
  );
}

async function notFound(storage: Storage, step: number | null): Promise<GokuError> {
  const folders = (await storage.folders("")).filter((name) => folderStep(name) !== null);
  const name = step === null ? null : checkpointFolder(step);
  if (name !== null && folders.includes(name)) {
    return new GokuError(
      "NOT_FOUND",
      `Cannot open ${storage.uri}/${name}: it was never committed (a save that failed or still runs), open an older one`,
    );
  }
  if (name !== null)
    return new GokuError(
      "NOT_FOUND",
      `Cannot open ${storage.uri}/${name}: there is no such checkpoint, found ${folders.join(", ") || "none"}`,
    );
  const what = folders.length > 0 ? `none of ${folders.join(", ")} was committed` : "there is no checkpoint";
  const hint =
    folders.length > 0
      ? ""
      : "; those of a job with trainer.command are for its program alone: gokuctl train";
  return new GokuError(
    "NOT_FOUND",
    `Cannot open the newest checkpoint under ${storage.uri}: ${what}, check the path${hint}`,
  );
}

/** Root of the run and, where the last part of `uri` names a checkpoint's folder, its step. */
export function splitCheckpointUri(uri: string): { root: string; step: number | null } {
  const parts = /^(.*?)\/*([^/]+)\/*$/.exec(uri);
  const step = parts === null ? null : folderStep(parts[2]!);
  if (parts === null || step === null) return { root: uri, step: null };
  const root = parts[1]!;
  // A bucket may be called like a folder.
  if (root === "s3:") return { root: uri, step: null };
  if (root === "") return { root: uri.startsWith("/") ? "/" : ".", step };
  return { root: root.endsWith(":") ? `${root}//.` : root, step };
}
