import { type Checkpoint, openCheckpoint } from "../../checkpoint/load.js";
import type { StateName } from "../../checkpoint/state.js";
import type { Storage } from "../../checkpoint/storage/storage.js";
import { toGokuError } from "../../job/errors.js";
import { pause } from "./pause.js";

/** Between two looks. */
const POLL_MS = 100;

/** Resolves when some agent has committed the state; null: `signal` gave up. */
export async function untilCommitted(
  storage: Storage,
  state: StateName,
  signal: AbortSignal,
): Promise<Checkpoint | null> {
  while (!signal.aborted) {
    try {
      return await openCheckpoint(storage, state);
    } catch (error) {
      if (toGokuError(error, "STORAGE_FAILED").code !== "NOT_FOUND") throw error;
    }
    await pause(POLL_MS, signal);
  }
  return null;
}
