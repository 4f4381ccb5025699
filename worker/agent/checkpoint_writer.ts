import path from "node:path";
import type { SaveHook } from "../../checkpoint/hooks.js";
import { prune } from "../../checkpoint/retention.js";
import { commitCheckpoint, saveShard } from "../../checkpoint/save.js";
import { readSnapshotHeader } from "../../checkpoint/snapshot.js";
import { type StateMeta, type StateName, stateKey } from "../../checkpoint/state.js";
import { openStorage, type Storage } from "../../checkpoint/storage/storage.js";
import { GokuError, toGokuError } from "../../job/errors.js";
import { type Job, modelConfig } from "../../job/job.js";
import type { Layout } from "../../job/layout.js";
import { parameterSpecs } from "../../job/parameters.js";
import { flatUnits } from "../../job/sharding.js";
import { failpoint } from "../failpoints.js";
import { CommitWatch } from "./commit_watch.js";
import { pause } from "./pause.js";
import { planRetry } from "./plan_retry.js";
import { compareStates } from "./snapshot_sets.js";

/** How long a commit waits for the other writers; that of a final checkpoint waits again and again. */
const WRITERS_WAIT_MS = 120_000;

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
  /** This agent's part of a save that is not final is done; for rank 0 that is the commit. */
  settled: (save: SaveOrder) => void;
  /** A try has failed and another follows: nothing that people must know. */
  retried: (failure: SaveFailure & { waitMs: number }) => void;
  /** Given up, or for a final save the first try that failed. Training goes on and the older checkpoint stays. */
  failed: (failure: SaveFailure) => void;
  /** After a commit: old checkpoints were removed, or (`error`) stay until the next one. */
  retentionEnded: (end: { generation: string; state: StateName; error: GokuError | null }) => void;
}

export interface SaveFailure {
  generation: string;
  state: StateName;
  error: GokuError;
}

/** What the writer does not do itself; tests put doubles here. */
export interface CheckpointWriterTools {
  openStorage: (uri: string) => Storage;
  /** Resolves after so long, or when the signal is aborted. */
  pause: (ms: number, signal: AbortSignal) => Promise<void>;
  /** In [0, 1). */
  chance: () => number;
}

/**
 * Called once when the slot is free; for a final save that is when the checkpoint is committed, or when it never can be
 * (`error`: another run's checkpoint stands there, the snapshot is damaged).
 */
export type Released = (error: GokuError | null) => void;

interface Saving {
  order: SaveOrder;
  /** Monotonic milliseconds. */
  begun: number;
  /** That the tries took which succeeded. */
  workMs: number;
  /** Empty: the slot is not read any more. */
  released: Released[];
  /** Given up from outside. */
  stop: AbortController;
  /** A newer save of the same rank waits for this one. */
  newer: AbortController;
  /** People were told that it fails. */
  alarmed: boolean;
  /** This rank's part is on storage, or never will be. */
  written: Promise<void>;
  ended: Promise<void>;
}

/**
 * Durable saves of the ranks of this node, in the background; training goes on meanwhile. A rank's saves are written one
 * after another, so that two never share its bandwidth or its files; while one waits to be tried again, a newer one
 * takes its turn. A commit waits for other agents, so it holds nobody up.
 */
export class CheckpointWriter {
  private readonly events: CheckpointWriterEvents;
  private readonly tools: CheckpointWriterTools;
  private readonly saving = new Map<string, Saving>();
  private readonly commits = new CommitWatch();
  /** Final saves begun so far. */
  finalCount = 0;
  /** The newest save begun. */
  private last: SaveOrder | null = null;
  /** The newest state that a rank of this node has saved, and the longest that one of them took. */
  private timed: { key: string; ms: number } | null = null;

  constructor(events: CheckpointWriterEvents, tools: Partial<CheckpointWriterTools> = {}) {
    this.events = events;
    this.tools = { openStorage, pause, chance: Math.random, ...tools };
  }

  /**
   * Makes a pinned snapshot durable and, for rank 0, commits the checkpoint.
   *
   * A save of the same state by the same generation is joined. One by an older generation is given up: its other writers
   * may be gone, and files of two generations do not make one checkpoint.
   */
  save(order: SaveOrder, released: Released): void {
    if (order.final) this.finalCount++;
    this.last = order;
    const key = savingKey(order);
    const current = this.saving.get(key);
    if (current && current.order.generation === order.generation && (current.order.final || !order.final)) {
      current.released.push(released);
      return;
    }
    current?.stop.abort();
    const before = [...this.saving.values()].filter((other) => isSameWriter(other.order, order));
    for (const other of before) if (isNewer(order, other.order)) other.newer.abort();
    const saving: Saving = {
      order,
      begun: performance.now(),
      workMs: 0,
      released: [released],
      stop: new AbortController(),
      newer: new AbortController(),
      alarmed: false,
      written: Promise.resolve(),
      ended: Promise.resolve(),
    };
    this.saving.set(key, saving);
    const turn = Promise.all([current?.ended, ...before.map((other) => other.written)]);
    const meta = turn.then(() => this.persistently(saving, () => this.write(saving)));
    saving.written = meta.then(() => {});
    saving.ended = meta
      .then((written) =>
        written.done ? this.persistently(saving, () => this.conclude(saving, written.value)) : written,
      )
      .then((end) => this.end(key, saving, end));
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

  /** Milliseconds that the newest save of this node took, without tries that failed; null: none has succeeded. */
  get saveMs(): number | null {
    return this.timed?.ms ?? null;
  }

  get idle(): boolean {
    return this.saving.size === 0;
  }

  /** Whether the newest save begun here is committed, by whichever agent, within `timeoutMs`. */
  async untilLastCommitted(timeoutMs: number): Promise<boolean> {
    if (this.last === null || timeoutMs <= 0) return false;
    const signal = AbortSignal.timeout(Math.ceil(timeoutMs));
    try {
      const storage = this.tools.openStorage(this.last.job.checkpoint.uri);
      return (await this.commits.until(storage, this.last.state, signal)) !== null;
    } catch {
      return false; // unreadable counts as not committed: memory is kept
    }
  }

  /** Gives up everything under way: the job is over here, or the agent ends. Resolves when no file is touched any more. */
  async abandon(): Promise<void> {
    const all = [...this.saving.values()];
    this.timed = null;
    for (const saving of all) saving.stop.abort();
    await Promise.all(all.map((saving) => saving.ended));
  }

  private end(key: string, saving: Saving, end: Attempted<void>): void {
    if (this.saving.get(key) === saving) this.saving.delete(key);
    const { final } = saving.order;
    if (end.done) this.noteTime(saving);
    if (end.done && !final) this.events.settled(saving.order);
    for (const release of saving.released.splice(0)) release(end.done || !final ? null : end.error);
  }

  private noteTime({ order, workMs, stop }: Saving): void {
    if (stop.signal.aborted) return;
    const key = `${order.jobId} ${stateKey(order.state)}`;
    const before = this.timed?.key === key ? this.timed.ms : 0;
    this.timed = { key, ms: Math.max(before, workMs) };
  }

  /** Tries until it is done, given up, or of no use any more. */
  private async persistently<T>(saving: Saving, work: () => Promise<T>): Promise<Attempted<T>> {
    const { generation, state, final } = saving.order;
    const { stop, newer } = saving;
    for (let tries = 1; !stop.signal.aborted; tries++) {
      const begun = performance.now();
      try {
        const value = await work();
        saving.workMs += performance.now() - begun;
        return { done: true, value };
      } catch (thrown) {
        if (stop.signal.aborted || (final && newer.signal.aborted)) break;
        const error = toGokuError(thrown, "STORAGE_FAILED");
        const superseded = () => newer.signal.aborted;
        const failure = { code: error.code, tries, final };
        const plan = planRetry({ ...failure, superseded: superseded(), chance: this.tools.chance() });
        if (plan.kind === "giveUp" || (final && !saving.alarmed)) this.alarm(saving, error);
        if (plan.kind === "giveUp") return { done: false, error };
        this.events.retried({ generation, state, error, waitMs: plan.waitMs });
        await this.tools.pause(plan.waitMs, AbortSignal.any([stop.signal, newer.signal]));
        if (stop.signal.aborted || !superseded()) continue;
        if (!final) this.alarm(saving, error);
        return { done: false, error: null };
      }
    }
    return { done: false, error: null };
  }

  private alarm(saving: Saving, error: GokuError): void {
    const { generation, state } = saving.order;
    saving.alarmed = true;
    this.events.failed({ generation, state, error });
  }

  /** This rank's part. Returns the meta of the state, which the commit needs when the slot may be another's already. */
  private async write({ order, released }: Saving): Promise<StateMeta> {
    const { job, layout, rank, generation, state, slotPath, final } = order;
    const meta = readSnapshotHeader(slotPath)?.meta;
    if (!meta || stateKey(meta.state) !== stateKey(state)) {
      const found = meta ? `step ${meta.state.step}` : "nothing whole";
      throw new GokuError("SNAPSHOT_MISSING", `Cannot save step ${state.step}: ${slotPath} holds ${found}`);
    }
    const units = flatUnits(parameterSpecs(modelConfig(job)));
    const uri = this.tools.openStorage(job.checkpoint.uri);
    await saveShard({ uri, slotPath, rank, layout, units, generation, hook: hookOf(rank) });
    if (!final) for (const release of released.splice(0)) release(null);
    return meta;
  }

  private async conclude(saving: Saving, meta: StateMeta): Promise<void> {
    const { order, stop, newer, begun } = saving;
    // A final save of a generation that is over would wait for its other writers for ever.
    const signal = order.final ? AbortSignal.any([stop.signal, newer.signal]) : stop.signal;
    if (order.rank === 0) await this.commit(order, { meta, begun, signal });
    else if (order.final) await this.awaitCommit(order, { begun, signal });
  }

  /** The end of a run is told by every agent: that of rank 0 may die between the commit and its report. */
  private async awaitCommit(
    { job, generation, state }: SaveOrder,
    { begun, signal }: { begun: number; signal: AbortSignal },
  ): Promise<void> {
    const storage = this.tools.openStorage(job.checkpoint.uri);
    const checkpoint = await this.commits.until(storage, state, signal);
    if (checkpoint === null) return;
    const { uri, bytes } = checkpoint;
    this.events.committed({ generation, state, uri, bytes, seconds: (performance.now() - begun) / 1000 });
  }

  private async commit(
    order: SaveOrder,
    { meta, begun, signal }: { meta: StateMeta; begun: number; signal: AbortSignal },
  ): Promise<void> {
    const { job, layout, rank, generation, state } = order;
    const { keep_last: keepLast, keep_every: keepEvery } = job.checkpoint;
    const uri = this.tools.openStorage(job.checkpoint.uri);
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
    const error = await prune({ uri, keepLast, keepEvery, generation }).then(
      () => null,
      (thrown: unknown) => toGokuError(thrown, "STORAGE_FAILED"),
    );
    this.events.retentionEnded({ generation, state, error });
  }
}

/** How far a piece of a save came; `error` null: it was given up from outside. */
type Attempted<T> = { done: true; value: T } | { done: false; error: GokuError | null };

/** Failpoints of the save: checkpoint/ knows no failpoints, so they are put into its hook. */
function hookOf(rank: number): SaveHook {
  return (point, { step }) => {
    failpoint(point, { step, rank });
  };
}

/** A rank of a job, whatever it saves: one after another. */
function isSameWriter(a: SaveOrder, b: SaveOrder): boolean {
  return a.jobId === b.jobId && a.rank === b.rank;
}

function isNewer(order: SaveOrder, other: SaveOrder): boolean {
  const ahead = BigInt(order.generation) - BigInt(other.generation);
  return ahead > 0n || (ahead === 0n && compareStates(order.state, other.state) > 0);
}

function savingKey(order: { jobId: string; rank: number; state: StateName }): string {
  return `${order.jobId} ${order.rank} ${stateKey(order.state)}`;
}
