import { createHmac, randomBytes } from "node:crypto";
import { GokuError } from "../../job/errors.js";
import type { Store } from "../store/store.js";

const KEY = "goku/peer-key";
const KEY_BYTES = 32;

/**
 * The secrets that agents of a job show each other, and of the collectives that examine nodes. They follow from one key in the store, so that every leader gives out
 * the same, and nothing has to be kept for each job.
 */
export class PeerSecrets {
  #key: Uint8Array | null = null;

  /** Reads the key; the first leader of a store makes it. Throws STORE_UNAVAILABLE. */
  async load(store: Store): Promise<void> {
    if ((await store.get(KEY)) === null) {
      // Another controller may be as early: the first write counts, and the answer tells nothing that reading does not.
      await store.transact(
        [{ key: KEY, modRevision: 0n }],
        [{ kind: "put", key: KEY, value: randomBytes(KEY_BYTES) }],
      );
    }
    const entry = await store.get(KEY);
    if (entry?.value.length !== KEY_BYTES)
      throw new GokuError("STORE_UNAVAILABLE", `Cannot read ${KEY} of the store: want ${KEY_BYTES} bytes`);
    this.#key = entry.value;
  }

  of(jobId: string): string {
    return this.#derive(jobId);
  }

  /** Of a collective that examines nodes. No job's id has a space. */
  ofCheck(group: bigint): string {
    return this.#derive(`self-check ${group}`);
  }

  #derive(what: string): string {
    if (this.#key === null) throw new TypeError("a leader loads its key first");
    return createHmac("sha256", this.#key).update(what).digest("hex");
  }
}
