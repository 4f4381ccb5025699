import { CheckpointContent } from "../../checkpoint/content.js";
import { CHUNK_BYTES, chunkCount } from "../../checkpoint/digest.js";
import type { CommitRecord, WriterManifest } from "../../checkpoint/manifest.js";
import { checkpointFolder } from "../../checkpoint/names.js";
import { pollPauseMs } from "../../checkpoint/poll_pause.js";
import { findCommitRecord, readCommittedWriter } from "../../checkpoint/records.js";
import { type StateName, stateKey } from "../../checkpoint/state.js";
import { openUncached, type Storage } from "../../checkpoint/storage/storage.js";
import { GokuError, toGokuError } from "../../job/errors.js";
import { unlessOver } from "../unless_over.js";
import { pause } from "./pause.js";
import { RateLimiter } from "./rate_limiter.js";
import { compareStates } from "./snapshot_sets.js";

/** Other ranks' parts and the commit come first, and what a save has cost the steps after it is over by then. */
const BEGIN_MS = 5_000;
/** A commit that has not come by then does not come: it waits for 2 minutes, and is tried again for some. */
const COMMIT_MS = 300_000;
const COMMIT_POLL_MS = 1_000;
/**
 * Of an agent: a read and its digest take about a millisecond a MiB (docs/decisions/004), so this is some three hundredths of a core,
 * and a fraction of what any disk gives. A node's part of an 8B model over 8 nodes, 16 GB, takes 8 minutes.
 */
const BYTES_PER_SECOND = 32 * 2 ** 20;
/** Between two looks whether a save is still under way. */
const BUSY_MS = 1_000;

/** A rank's part of a checkpoint, on storage. */
export interface WrittenPart {
  /** checkpoint.uri */
  uri: string;
  /** The generation that saved. */
  generation: string;
  state: StateName;
  /** Its number as a writer. */
  rank: number;
}

export interface ReadParts {
  generation: string;
  state: StateName;
  /** Of the checkpoint's folder. */
  uri: string;
  /** Parts that were read and are whole. */
  writers: number[];
  /** 0 where the commit record itself is damaged. */
  writerCount: number;
  /** The first that is not, in one line; reading ended there. Null: none. */
  damage: string | null;
}

export interface ReadBackEvents {
  /** Whether this node saves: then nothing is read. */
  busy: () => boolean;
  /** Once for each checkpoint that was read to its end, or to its first damage. */
  read: (parts: ReadParts) => void;
  /** It could not be read, which says nothing of what it holds. */
  failed: (state: StateName, error: GokuError) => void;
}

/** What it does not do itself; tests put doubles here. */
export interface ReadBackTools {
  openStorage: (uri: string) => Storage;
  pause: (ms: number, signal: AbortSignal) => Promise<void>;
  /** Monotonic milliseconds. */
  nowMs: () => number;
}

interface Reading {
  generation: string;
  state: StateName;
  uri: string;
  /** To be read; others may come while these are. */
  ranks: Set<number>;
  /** Found whole, those of earlier readings of this checkpoint as well. */
  whole: number[];
  /** Reading has ended, so that a rank that comes now begins another. */
  ended: boolean;
  damaged: boolean;
  stop: AbortController;
}

/**
 * Reads back what this node's ranks wrote of the newest checkpoint, once it is committed: slowly, past the page cache, and compares
 * each MiB with its digest, so that damage is known while the state is still in memory and older checkpoints are there. Nothing
 * waits for it. A newer part ends it, as does the end of the generation.
 */
export class ReadBack {
  readonly #events: ReadBackEvents;
  readonly #tools: ReadBackTools;
  readonly #limiter = new RateLimiter();
  #reading: Reading | null = null;
  #ended: Promise<void> = Promise.resolve();

  constructor(events: ReadBackEvents, tools: Partial<ReadBackTools> = {}) {
    this.#events = events;
    this.#tools = { openStorage: openUncached, pause, nowMs: () => performance.now(), ...tools };
  }

  /** Parts of one checkpoint come one by one: that of rank 0 only after the commit and its retention, which others may be ahead of. */
  begin({ uri, generation, state, rank }: WrittenPart): void {
    const current = this.#reading;
    const whole: number[] = [];
    if (current !== null && current.uri === uri && compareStates(current.state, state) >= 0) {
      const isSame = stateKey(current.state) === stateKey(state) && current.generation === generation;
      if (!isSame || current.damaged) return; // an older one, late, or all is said
      if (!current.ended) {
        current.ranks.add(rank);
        return;
      }
      whole.push(...current.whole);
    } else current?.stop.abort();
    const stop = new AbortController();
    const reading = {
      generation,
      state,
      uri,
      ranks: new Set([rank]),
      whole,
      ended: false,
      damaged: false,
      stop,
    };
    this.#reading = reading;
    this.#ended = this.#ended.then(() => this.#run(reading));
  }

  /** Gives up what is being read. Resolves when no file is touched any more. */
  async drop(): Promise<void> {
    this.#reading?.stop.abort();
    this.#reading = null;
    await this.#ended;
  }

  async #run(reading: Reading): Promise<void> {
    try {
      const found = await unlessOver(reading.stop.signal, this.#read(reading));
      reading.damaged = found !== null && found.damage !== null;
      if (found !== null && !reading.stop.signal.aborted) this.#events.read(found);
    } catch (error) {
      if (!reading.stop.signal.aborted)
        this.#events.failed(reading.state, toGokuError(error, "STORAGE_FAILED"));
    } finally {
      reading.ended = true;
    }
  }

  /** Null: it was given up, or is no committed checkpoint, or not any more. */
  async #read(reading: Reading): Promise<ReadParts | null> {
    const { generation, state, uri, ranks, whole, stop } = reading;
    const storage = this.#tools.openStorage(uri);
    let record = null as CommitRecord | null;
    const told = (damage: string | null): ReadParts => ({
      generation,
      state,
      uri: `${storage.uri}/${checkpointFolder(state.step)}`,
      writers: [...whole],
      writerCount: record?.writers.length ?? 0,
      damage,
    });
    const broken = await damageOf(async () => {
      record = await this.#untilCommitted(storage, reading);
    });
    if (broken !== null) return told(broken);
    if (record === null) return null;
    for (const rank of ranks) {
      const damage = await this.#readPart(storage, { record, rank, signal: stop.signal });
      if (stop.signal.aborted) return null;
      // What retention is removing misses files, and is not damaged.
      if (damage !== null) return (await findCommit(storage, reading)) === null ? null : told(damage);
      whole.push(rank);
    }
    reading.ended = true; // in the same turn as the last look at the ranks
    return told(null);
  }

  async #untilCommitted(storage: Storage, reading: Reading): Promise<CommitRecord | null> {
    const { signal } = reading.stop;
    const begunMs = this.#tools.nowMs();
    for (let waitMs = BEGIN_MS; ; waitMs = pollPauseMs(this.#tools.nowMs() - begunMs, COMMIT_POLL_MS)) {
      await this.#tools.pause(waitMs, signal);
      if (signal.aborted) return null;
      const record = await findCommit(storage, reading);
      if (record !== null || this.#tools.nowMs() - begunMs >= COMMIT_MS) return record;
    }
  }

  async #readPart(
    storage: Storage,
    { record, rank, signal }: { record: CommitRecord; rank: number; signal: AbortSignal },
  ): Promise<string | null> {
    let manifest = null as WriterManifest | null;
    const damage = await damageOf(async () => {
      manifest = await readCommittedWriter(storage, record, rank);
    });
    const { file, intervals } = manifest ?? { file: null, intervals: [] };
    if (damage !== null || file === null) return damage;
    const content = (from: Storage) => new CheckpointContent(from, checkpointFolder(record.meta.state.step));
    const header = await damageOf(() => content(storage).requireFile(file));
    if (header !== null) return header;
    const chunks = content(storage);
    const buffer = new Uint8Array(CHUNK_BYTES);
    for (const interval of intervals) {
      const extent = { ...interval, file };
      for (let chunk = 0; chunk < chunkCount(interval.bytes); chunk++) {
        const into = buffer.subarray(0, chunks.chunkLength(extent, chunk));
        await this.#turn(into.byteLength, signal);
        if (signal.aborted) return null;
        // Looked at again in other memory, through another handle: what is broken may be this machine's.
        const again = () =>
          content(this.#tools.openStorage(storage.uri)).readChunk(
            extent,
            chunk,
            new Uint8Array(into.byteLength),
          );
        const found = await damageOf(() => chunks.readChunk(extent, chunk, into), again);
        if (found !== null) return found;
      }
    }
    return null;
  }

  /** Not while a save needs the disk, and no faster than may be. */
  async #turn(bytes: number, signal: AbortSignal): Promise<void> {
    while (this.#events.busy() && !signal.aborted) await this.#tools.pause(BUSY_MS, signal);
    const waitMs = this.#limiter.delayMs(bytes, BYTES_PER_SECOND, this.#tools.nowMs());
    if (waitMs > 0) await this.#tools.pause(waitMs, signal);
  }
}

/** That of the generation which wrote the parts. */
async function findCommit(
  storage: Storage,
  { state, generation }: Pick<Reading, "state" | "generation">,
): Promise<CommitRecord | null> {
  const record = await findCommitRecord(storage, state);
  return record?.generation === generation ? record : null;
}

/** What is wrong, seen twice: a bit that turns on its way here is no damage. Null: nothing. */
async function damageOf(
  read: () => Promise<void>,
  again: () => Promise<void> = read,
): Promise<string | null> {
  const first = await damageSeen(read);
  return first === null ? null : damageSeen(again);
}

async function damageSeen(read: () => Promise<void>): Promise<string | null> {
  try {
    await read();
    return null;
  } catch (error) {
    if (error instanceof GokuError && error.code === "CHECKPOINT_CORRUPT") return error.message;
    throw error;
  }
}
