import { GokuError } from "../../job/errors.js";
import type { DurableEntry, DurableRecord } from "../core/contract.js";
import type { StoreEntry } from "../store/store.js";

/** Where the core's records stand in the store. */
export const KEY_PREFIX = "goku/core/";

const KINDS: ReadonlySet<unknown> = new Set<DurableRecord["kind"]>([
  "term",
  "counter",
  "job",
  "generation",
  "checkpoints",
  "incident",
  "quarantine",
]);

export function encodeRecord(record: DurableRecord): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(record));
}

/** An entry below the prefix as the core knows it. Throws STORE_UNAVAILABLE naming a key that holds no record. */
export function decodeEntry({ key, modRevision, value }: StoreEntry): DurableEntry {
  return { key: key.slice(KEY_PREFIX.length), modRevision, record: decodeRecord(key, value) };
}

function decodeRecord(key: string, bytes: Uint8Array): DurableRecord {
  let found: unknown;
  try {
    found = JSON.parse(new TextDecoder().decode(bytes));
  } catch (error) {
    throw damaged(key, (error as Error).message);
  }
  const kind = (found as { kind?: unknown } | null)?.kind;
  if (!KINDS.has(kind)) throw damaged(key, `its kind is ${JSON.stringify(kind)}`);
  const record = found as DurableRecord;
  // Earlier versions wrote records without some of their fields.
  if (record.kind === "incident") return { ...record, stacks: record.stacks ?? [] };
  if (record.kind !== "job") return record;
  const stop = record.stop && { ...record.stop, endMs: record.stop.endMs ?? null };
  const outcome = record.outcome && { ...record.outcome, stepsGivenUp: record.outcome.stepsGivenUp ?? 0 };
  return { ...record, rollBacks: record.rollBacks ?? [], stop, outcome };
}

function damaged(key: string, found: string): GokuError {
  return new GokuError(
    "STORE_UNAVAILABLE",
    `Cannot read record ${key} of the store: ${found}; restore the store from a copy, or start with another --store`,
  );
}
