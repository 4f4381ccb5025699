import path from "node:path";
import type { SaveHook } from "../../checkpoint/hooks.js";
import { type Checkpoint, openCheckpoint } from "../../checkpoint/load.js";
import { prune } from "../../checkpoint/retention.js";
import { commitCheckpoint, saveShard } from "../../checkpoint/save.js";
import { readSnapshotHeader } from "../../checkpoint/snapshot.js";
import { type StateMeta, type StateName, stateKey } from "../../checkpoint/state.js";
import { type ErrorCode, GokuError, toGokuError } from "../../job/errors.js";
import { type Job, modelConfig } from "../../job/job.js";
import type { Layout } from "../../job/layout.js";
import { parameterSpecs } from "../../job/parameters.js";
import { flatUnits } from "../../job/sharding.js";
import { failpoint } from "../failpoints.js";

/** How long a commit waits for the other writers; that of a final checkpoint waits again and again. */
const WRITERS_WAIT_MS = 120_000;
/** Wait before a failed final save is tried again: doubles from the first to the second. */
const RETRY_MS = 1_000;
const RETRY_MS_MAX = 30_000;
/** Faults of the job or of the snapshot, not of the storage: the same save fails for ever. */
const HOPELESS: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  "SNAPSHOT_MISSING",
  "CHECKPOINT_CORRUPT",
  "CHECKPOINT_MISMATCH",
  "CONFLICT",
  "GENERATION_STALE",
  "ARGUMENT_INVALID",
]);
/** Between looks whether another agent has committed a final save. */
const COMMIT_POLL_MS = 100;

export interface SaveOrder {
  jobId: string;
  job: Job;
  layout: Layout;
  rank: number;
  /** The generation that saves. */
  generation: string;
  state: StateName;
  slotPath: string;
  /** The run ends with this state: it is tried until it is committed, or given up from outside. */
  final: boolean;
}

export interface CommittedCheckpoint {
  generation: string;
  state: StateName;
  uri: string;
  bytes: number;
  seconds: number;
}

export interface CheckpointWriterEvents {
  committed: (checkpoint: CommittedCheckpoint) => void;
  /** Training goes on and the older checkpoint stays. */
  failed: (failure: { generation: string; state: StateName; error: GokuError }) => void;
}

/**
 * Called once when the slot is free; for a final save that is when the checkpoint is committed, or when it never can be
 * (`error`: another run's checkpoint stands there, the snapshot is damaged).
 */
export type Released = (error: GokuError | null) => void;

interface Saving {
  order: SaveOrder;
  /** Empty: the slot is not read any more. */
  released: Released[];
  stop: AbortController;
  ended: Promise<void>;
}

/** Durable saves of the ranks of this node, in the background; training goes on meanwhile. */
export class CheckpointWriter {
  private readonly events: CheckpointWriterEvents;
  private readonly saving = new Map<string, Saving>();
  /** Saves begun so far, and the newest of them. */
  begunCount = 0;
  private last: SaveOrder | null = null;

  constructor(events: CheckpointWriterEvents) {
    this.events = events;
  }

  /**
   * Makes a pinned snapshot durable and, for rank 0, commits the checkpoint.
   *
   * A save of the same state by the same generation is joined. One by an older generation is given up: its other writers
   * may be gone, and files of two generations do not make one checkpoint.
   */
  save(order: SaveOrder, released: Released): void {
    this.begunCount++;
    this.last = order;
    const key = savingKey(order);
    const current = this.saving.get(key);
    if (current && current.order.generation === order.generation && (current.order.final || !order.final)) {
      current.released.push(released);
      return;
    }
    current?.stop.abort();
    const saving: Saving = {
      order,
      released: [released],
      stop: new AbortController(),
      ended: Promise.resolve(),
    };
    this.saving.set(key, saving);
    saving.ended = this.carryOut(saving, current?.ended ?? Promise.resolve()).then((error) => {
      if (this.saving.get(key) === saving) this.saving.delete(key);
      for (const release of saving.released.splice(0)) release(error);
    });
  }

  /**
   * States whose slots in this set are still read. From now on `released` is called for each when it is free, and nobody
   * else: those who asked for the saves did so in a generation that is over.
   */
  pinned(set: string, released: (state: StateName) => void): StateName[] {
    const found = [...this.saving.values()].filter(
      ({ order, released: waiting }) => path.dirname(order.slotPath) === set && waiting.length > 0,
    );
    for (const { order, released: waiting } of found)
      waiting.splice(0, waiting.length, () => released(order.state));
    return found.map(({ order }) => order.state);
  }

  get idle(): boolean {
    return this.saving.size === 0;
  }

  /** Whether the newest save begun here is committed, by whichever agent, within `timeoutMs`. */
  async untilLastCommitted(timeoutMs: number): Promise<boolean> {
    if (this.last === null || timeoutMs <= 0) return false;
    const signal = AbortSignal.timeout(Math.ceil(timeoutMs));
    try {
      return (await untilCommitted(this.last.job.checkpoint.uri, this.last.state, signal)) !== null;
    } catch {
      return false; // unreadable counts as not committed: memory is kept
    }
  }

  /** Gives up everything under way: the job is over here, or the agent ends. Resolves when no file is touched any more. */
  async abandon(): Promise<void> {
    const all = [...this.saving.values()];
    for (const saving of all) saving.stop.abort();
    await Promise.all(all.map((saving) => saving.ended));
  }

  /** Returns what makes a final save impossible; null: it is done, or was given up. */
  private async carryOut(saving: Saving, before: Promise<void>): Promise<GokuError | null> {
    const { generation, state, final } = saving.order;
    const { signal } = saving.stop;
    await before;
    for (let waitMs = RETRY_MS; !signal.aborted; waitMs = Math.min(2 * waitMs, RETRY_MS_MAX)) {
      try {
        await this.attempt(saving);
        return null;
      } catch (thrown) {
        if (signal.aborted) return null;
        const error = toGokuError(thrown, "STORAGE_FAILED");
        this.events.failed({ generation, state, error });
        if (!final) return null;
        if (HOPELESS.has(error.code)) return error;
        await pause(waitMs, signal);
      }
    }
    return null;
  }

  private async attempt({ order, released, stop }: Saving): Promise<void> {
    const begun = performance.now();
    const { job, layout, rank, generation, state, slotPath, final } = order;
    const meta = readSnapshotHeader(slotPath)?.meta;
    if (!meta || stateKey(meta.state) !== stateKey(state)) {
      const found = meta ? `step ${meta.state.step}` : "nothing whole";
      throw new GokuError("SNAPSHOT_MISSING", `Cannot save step ${state.step}: ${slotPath} holds ${found}`);
    }
    const units = flatUnits(parameterSpecs(modelConfig(job)));
    const { uri } = job.checkpoint;
    await saveShard({ uri, slotPath, rank, layout, units, generation, hook: hookOf(rank) });
    if (!final) for (const release of released.splice(0)) release(null);
    if (rank === 0) await this.commit(order, { meta, begun, signal: stop.signal });
    else if (final) await this.awaitCommit(order, { begun, signal: stop.signal });
  }

  /** The end of a run is told by every agent: that of rank 0 may die between the commit and its report. */
  private async awaitCommit(
    { job, generation, state }: SaveOrder,
    { begun, signal }: { begun: number; signal: AbortSignal },
  ): Promise<void> {
    const checkpoint = await untilCommitted(job.checkpoint.uri, state, signal);
    if (checkpoint === null) return;
    const { uri, bytes } = checkpoint;
    this.events.committed({ generation, state, uri, bytes, seconds: (performance.now() - begun) / 1000 });
  }

  private async commit(
    order: SaveOrder,
    { meta, begun, signal }: { meta: StateMeta; begun: number; signal: AbortSignal },
  ): Promise<void> {
    const { job, layout, rank, generation, state } = order;
    const { uri, keep_last: keepLast, keep_every: keepEvery } = job.checkpoint;
    const units = flatUnits(parameterSpecs(modelConfig(job)));
    const done = await commitCheckpoint({
      uri,
      meta,
      units,
      layout,
      generation,
      waitMs: WRITERS_WAIT_MS,
      signal,
      hook: hookOf(rank),
    });
    const seconds = (performance.now() - begun) / 1000;
    this.events.committed({ generation, state, uri: done.uri, bytes: done.bytes, seconds });
    try {
      await prune({ uri, keepLast, keepEvery, generation });
    } catch (error) {
      // The new checkpoint is safe; what is too many will be tried again after the next one.
      const reason = (error as Error).message;
      this.events.failed({
        generation,
        state,
        error: new GokuError("STORAGE_FAILED", `Cannot remove old checkpoints: ${reason}`, { cause: error }),
      });
    }
  }
}

/** Resolves when some agent has committed the state; null: `signal` gave up. */
async function untilCommitted(
  uri: string,
  state: StateName,
  signal: AbortSignal,
): Promise<Checkpoint | null> {
  while (!signal.aborted) {
    try {
      return await openCheckpoint(uri, state);
    } catch (error) {
      if (toGokuError(error, "STORAGE_FAILED").code !== "NOT_FOUND") throw error;
    }
    await pause(COMMIT_POLL_MS, signal);
  }
  return null;
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(done, ms);
    function done(): void {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    }
    signal.addEventListener("abort", done);
  });
}

/** Failpoints of the save: checkpoint/ knows no failpoints, so they are put into its hook. */
function hookOf(rank: number): SaveHook {
  return (point, { step }) => {
    failpoint(point, { step, rank });
  };
}

function savingKey(order: { jobId: string; rank: number; state: StateName }): string {
  return `${order.jobId} ${order.rank} ${stateKey(order.state)}`;
}
