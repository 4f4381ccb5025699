import type { StoreEntry, StoreEvent } from "./store.js";

/**
 * What a watcher that knew `known` (modRevision by key) has to be told when the changes since are gone from the store's
 * history, and only what is there now can be read. Pure.
 * @param revision of the read; deletes are dated with it, since their own revisions are not known any more
 */
export function watchDifference(
  known: ReadonlyMap<string, bigint>,
  entries: readonly StoreEntry[],
  revision: bigint,
): StoreEvent[] {
  const puts = entries
    .filter(({ key, modRevision }) => known.get(key) !== modRevision)
    .sort((a, b) => (a.modRevision < b.modRevision ? -1 : 1))
    .map(({ key, value, modRevision }) => ({ kind: "put" as const, key, value, modRevision }));
  const present = new Set(entries.map(({ key }) => key));
  const deletes = [...known.keys()]
    .filter((key) => !present.has(key))
    .map((key) => ({ kind: "delete" as const, key, value: null, modRevision: revision }));
  return [...puts, ...deletes];
}
