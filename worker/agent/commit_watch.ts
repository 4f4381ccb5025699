import { type Checkpoint, openCheckpoint } from "../../checkpoint/load.js";
import { pollPauseMs } from "../../checkpoint/poll_pause.js";
import { type StateName, stateKey } from "../../checkpoint/state.js";
import type { Storage } from "../../checkpoint/storage/storage.js";
import { toGokuError } from "../../job/errors.js";
import { pause } from "./pause.js";

/** Between the first looks. */
const POLL_MS = 100;

interface Watch {
  found: Promise<Checkpoint | null>;
  waiting: number;
  /** Nobody waits any more. */
  stop: AbortController;
}

/** Waits for commits by other agents; those that wait here for one checkpoint look for it together. */
export class CommitWatch {
  private readonly watches = new Map<string, Watch>();

  /** Resolves when some agent has committed the state; null: `signal` gave up. Rejects as openCheckpoint does. */
  async until(storage: Storage, state: StateName, signal: AbortSignal): Promise<Checkpoint | null> {
    if (signal.aborted) return null;
    const key = `${stateKey(state)} ${storage.uri}`;
    const watch = this.watches.get(key) ?? this.begin(key, storage, state);
    watch.waiting++;
    const ended = new AbortController();
    const givenUp = new Promise<null>((resolve) => {
      signal.addEventListener("abort", () => resolve(null), { once: true, signal: ended.signal });
    });
    try {
      return await Promise.race([watch.found, givenUp]);
    } finally {
      ended.abort();
      if (--watch.waiting === 0) {
        watch.stop.abort();
        this.end(key, watch);
      }
    }
  }

  private begin(key: string, storage: Storage, state: StateName): Watch {
    const stop = new AbortController();
    const watch: Watch = { found: look(storage, state, stop.signal), waiting: 0, stop };
    this.watches.set(key, watch);
    // Whoever asks after its end, for example again after an error, looks anew.
    const ended = () => this.end(key, watch);
    watch.found.then(ended, ended);
    return watch;
  }

  private end(key: string, watch: Watch): void {
    if (this.watches.get(key) === watch) this.watches.delete(key);
  }
}

async function look(storage: Storage, state: StateName, signal: AbortSignal): Promise<Checkpoint | null> {
  const begun = performance.now();
  while (!signal.aborted) {
    try {
      return await openCheckpoint(storage, state);
    } catch (error) {
      if (toGokuError(error, "STORAGE_FAILED").code !== "NOT_FOUND") throw error;
    }
    await pause(pollPauseMs(performance.now() - begun, POLL_MS), signal);
  }
  return null;
}
