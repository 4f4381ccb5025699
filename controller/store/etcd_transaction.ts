import type { IKeyValue, IRangeRequest, ITxnRequest } from "etcd3";
import type { StoreCompare, StoreEntry, StoreWrite } from "./store.js";

/** Our transactions in etcd's words: what a refusal found is read in the same transaction. `prefix` stands before all keys. */
export function etcdTransaction(
  prefix: string,
  compares: readonly StoreCompare[],
  writes: readonly StoreWrite[],
): ITxnRequest {
  const keyOf = ({ key }: { key: string }) => Buffer.from(prefix + key);
  return {
    compare: compares.map((compare) => ({
      key: keyOf(compare),
      result: "Equal",
      ...("modRevision" in compare
        ? { target: "Mod", mod_revision: String(compare.modRevision) }
        : { target: "Create", create_revision: String(compare.createRevision) }),
    })),
    success: writes.map((write) =>
      write.kind === "put"
        ? { request_put: { key: keyOf(write), value: Buffer.from(write.value), lease: write.lease ?? "0" } }
        : { request_delete_range: { key: keyOf(write) } },
    ),
    failure: compares.map((compare) => ({ request_range: { key: keyOf(compare) } })),
  };
}

/** All keys that start with `prefix`. */
export function etcdRange(prefix: string): Required<Pick<IRangeRequest, "key" | "range_end">> {
  const end = Buffer.from(prefix);
  // The last byte of a UTF-8 text is never 0xff, so that adding one always gives the next prefix.
  if (end.length === 0) return { key: Buffer.from([0]), range_end: Buffer.from([0]) };
  end[end.length - 1]! += 1;
  return { key: Buffer.from(prefix), range_end: end };
}

export function storeEntry(prefix: string, found: IKeyValue): StoreEntry {
  return {
    key: found.key.toString().slice(prefix.length),
    value: Uint8Array.from(found.value),
    createRevision: BigInt(found.create_revision),
    modRevision: BigInt(found.mod_revision),
    lease: found.lease === "0" ? null : found.lease,
  };
}
