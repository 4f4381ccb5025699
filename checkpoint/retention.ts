import { type CheckpointEntry, listCheckpoints } from "./load.js";
import { COMMIT_NAME, checkpointFolder, fileGeneration, folderStep, isCommitName } from "./names.js";
import { readCommitRecords } from "./records.js";
import type { StateName } from "./state.js";
import { compareGenerations, sameState } from "./state_json.js";
import { openStorage, type Storage, type StorageEntry } from "./storage/storage.js";

export interface RetentionChoice {
  step: number;
  reason: string;
}

export interface RetentionPlan {
  keep: RetentionChoice[];
  remove: RetentionChoice[];
}

/**
 * Which steps to delete so that the newest `keepLast` of the current line stay, and those of it whose step is a multiple of
 * `keepEvery`. What a line that was given up left behind
 * goes only when the current one has `keepLast` newer ones of its own: until then it may be all there is to go back to.
 * Pure.
 */
export function planRetention(options: {
  entries: readonly CheckpointEntry[];
  keepLast: number;
  /** Null: only the newest stay. */
  keepEvery?: number | null;
}): RetentionPlan {
  const { entries, keepLast, keepEvery = null } = options;
  for (const [name, value] of Object.entries({ keepLast, keepEvery })) {
    if (value !== null && (!Number.isInteger(value) || value < 1))
      throw new RangeError(`planRetention: ${name} is ${value}, need at least 1`);
  }
  const current = entries.filter((entry) => entry.current).sort((a, b) => b.step - a.step);
  const newest = current.slice(0, keepLast);
  const keep = new Map<number, string>();
  const remove = new Map<number, string>();
  for (const entry of entries) {
    const rank = newest.findIndex((each) => each.step === entry.step);
    const newerOwn = newest.filter(
      (each) => compareGenerations(each.state.generation, entry.state.generation) > 0,
    );
    if (rank >= 0) keep.set(entry.step, `it is number ${rank + 1} of the ${keepLast} newest`);
    else if (entry.current && keepEvery !== null && entry.step % keepEvery === 0)
      keep.set(entry.step, `its step is a multiple of ${keepEvery}`);
    else if (entry.current) remove.set(entry.step, `${keepLast} newer ones stay`);
    else if (newerOwn.length < keepLast)
      keep.set(
        entry.step,
        `only ${newerOwn.length} of ${keepLast} checkpoints are newer than its generation`,
      );
    else
      remove.set(
        entry.step,
        `generation ${entry.state.generation} was given up and ${keepLast} newer ones stay`,
      );
  }
  const choices = (map: Map<number, string>) =>
    [...map].map(([step, reason]) => ({ step, reason })).sort((a, b) => a.step - b.step);
  // A step goes as a whole; what must stay of it holds the rest.
  for (const step of keep.keys()) remove.delete(step);
  return { keep: choices(keep), remove: choices(remove) };
}

export interface PruneOptions {
  uri: string | Storage;
  keepLast: number;
  keepEvery?: number | null;
}

/** Everything committed under a run's root, and what prune would do with it. */
export interface PrunePlan extends RetentionPlan {
  entries: CheckpointEntry[];
  /** Steps whose commit record cannot be read; they are left alone. */
  damaged: number[];
}

export async function planPrune({ uri, ...choice }: PruneOptions): Promise<PrunePlan> {
  const damaged: number[] = [];
  const entries = await listCheckpoints(uri, ({ step }) => damaged.push(step));
  return { entries, damaged, ...planRetention({ entries, ...choice }) };
}

export interface PruneResult {
  removed: RetentionChoice[];
  removedBytes: number;
}

/**
 * Deletes what planRetention chose, then what failed saves left: folders never committed, and files beside a committed
 * state that no record names. `generation` is the one that runs; what it or a later one has not committed is left alone,
 * because it may be being written. Nothing is touched whose commit record is damaged: that is evidence, and its data may
 * still serve.
 */
export async function prune(options: PruneOptions & { generation: string }): Promise<PruneResult> {
  const storage = typeof options.uri === "string" ? openStorage(options.uri) : options.uri;
  const { keep, remove, ...plan } = await planPrune({ ...options, uri: storage });
  const damaged = new Set(plan.damaged);
  const kept = new Set(keep.map(({ step }) => step));
  const doomed = new Map(remove.map((choice) => [choice.step, choice]));
  const removed: RetentionChoice[] = [];
  let removedBytes = 0;
  for (const step of (await storage.folders("")).map(folderStep)) {
    if (step === null || damaged.has(step)) continue;
    const folder = new StepFolder(storage, step, options.generation);
    const choice = doomed.get(step);
    if (choice !== undefined) {
      const freed = await folder.removeCommitted(plan.entries.map(({ state }) => state));
      if (freed === null) continue;
      removedBytes += freed;
      removed.push(choice);
    } else {
      const freed = await folder.sweep();
      removedBytes += freed;
      if (freed > 0 && !kept.has(step)) removed.push({ step, reason: "it was never committed" });
    }
  }
  return { removed, removedBytes };
}

/** Deletions in the folder of one step. */
class StepFolder {
  readonly #storage: Storage;
  readonly #step: number;
  readonly #prefix: string;
  readonly #generation: string;

  constructor(storage: Storage, step: number, generation: string) {
    this.#storage = storage;
    this.#step = step;
    this.#prefix = `${checkpointFolder(step)}/`;
    this.#generation = generation;
  }

  /**
   * First the records beside `manifest.json`, then that, then the data, each durably gone before the next: a reader sees
   * a checkpoint whole or not at all, and no record stays that could come back to life. Returns the bytes freed; null,
   * nothing is touched: a state was committed here that the plan did not know, by a generation that came to this step again.
   */
  async removeCommitted(planned: readonly StateName[]): Promise<number | null> {
    const records = (await readCommitRecords(this.#storage, this.#step)).map(({ record }) => record);
    if (records.some(({ meta }) => !planned.some((state) => sameState(state, meta.state)))) return null;
    const committed = new Set(records.map(({ generation }) => generation));
    const files = await this.#storage.list(this.#prefix);
    const names = files.map(({ key }) => key).filter((key) => isCommitName(this.#name(key)));
    const first = `${this.#prefix}${COMMIT_NAME}`;
    await this.#storage.delete(names.filter((key) => key !== first));
    await this.#storage.delete([first]);
    return this.#remove(files, (generation) => committed.has(generation) || this.#isOlder(generation));
  }

  /** Removes what older generations began and never committed. Returns the bytes freed. */
  async sweep(): Promise<number> {
    const committed = await this.#committedGenerations();
    const files = await this.#storage.list(this.#prefix);
    return this.#remove(
      files,
      (generation) => !committed.has(generation) && this.#isOlder(generation),
      // Of a committed save only its attempts that failed are unfinished.
      (generation) => this.#isOlder(generation),
    );
  }

  async #remove(
    files: readonly StorageEntry[],
    choose: (generation: string) => boolean,
    chooseUnfinished = choose,
  ): Promise<number> {
    const by = (choice: (generation: string) => boolean) => (key: string) => {
      const generation = fileGeneration(this.#name(key));
      return generation !== null && choice(generation);
    };
    const doomed = files.filter(({ key }) => by(choose)(key));
    await this.#storage.delete(doomed.map(({ key }) => key));
    await this.#storage.removeUnfinished(this.#prefix, by(chooseUnfinished));
    // An unfinished commit record names no generation. Without any data beside it there is nothing that it could commit.
    if ((await this.#storage.list(this.#prefix)).length === 0)
      await this.#storage.removeUnfinished(this.#prefix, (key) => isCommitName(this.#name(key)));
    await this.#storage.removeFolder(this.#prefix);
    return doomed.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  async #committedGenerations(): Promise<Set<string>> {
    return new Set(
      (await readCommitRecords(this.#storage, this.#step)).map(({ record }) => record.generation),
    );
  }

  #name(key: string): string {
    return key.slice(this.#prefix.length);
  }

  #isOlder(generation: string): boolean {
    return compareGenerations(generation, this.#generation) < 0;
  }
}
