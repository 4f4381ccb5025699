/**
 * The store contract: a small ordered map with revisions, leases and watches. `embedded` and etcd implement it;
 * test/conformance/store runs on both. Keys are "/"-separated text, values are bytes, together at most 1 MiB in a transaction.
 * What cannot be done at all, for example because the store does not answer a read, throws STORE_UNAVAILABLE.
 */
export interface StoreEntry {
  key: string;
  value: Uint8Array;
  /** Revision of the put that made this key exist. */
  createRevision: bigint;
  /** Revision of the last put. */
  modRevision: bigint;
  lease: LeaseId | null;
}
export type LeaseId = string;

/** Compared before a transaction's writes; all must hold. revision 0: the key does not exist. */
export type StoreCompare = { key: string; modRevision: bigint } | { key: string; createRevision: bigint };
export type StoreWrite =
  | { kind: "put"; key: string; value: Uint8Array; lease?: LeaseId }
  | { kind: "delete"; key: string };

/** A write ends applied, refused (a compare failed) or *unknown*: re-read before anything is done about it. */
export type StoreOutcome =
  | { kind: "applied"; revision: bigint }
  | { kind: "refused"; found: StoreEntry[] }
  | { kind: "unknown"; reason: string };

export interface StoreEvent {
  kind: "put" | "delete";
  key: string;
  value: Uint8Array | null;
  modRevision: bigint;
}

export interface StoreWatch {
  close(): void;
}

export interface Store {
  get(key: string): Promise<StoreEntry | null>;
  /** All entries whose key starts with prefix, in key order. */
  list(prefix: string): Promise<StoreEntry[]>;
  /**
   * All of the writes or none. At most 128 compares and 128 writes, no key written twice: RangeError. A put under a lease
   * that has ended is refused.
   */
  transact(compares: readonly StoreCompare[], writes: readonly StoreWrite[]): Promise<StoreOutcome>;
  /**
   * First every present entry as a put, then every change, in revision order, without gaps, however often the connection
   * to the store is lost. Where a store has compacted the changes since, what they came to is told instead: a put of each
   * key that changed, a delete of each that is gone. onLost: nothing is told any more, watch again.
   */
  watch(
    prefix: string,
    onEvents: (events: StoreEvent[]) => void,
    onLost: (reason: string) => void,
  ): Promise<StoreWatch>;
  /** Keys bound to the lease vanish when it is not renewed for ttlMs; never earlier, a second or so later. */
  leaseGrant(ttlMs: number): Promise<LeaseId>;
  /**
   * False: the lease has expired. Counts from some moment between this call and its answer. Throws when the store does not
   * answer in time; another try may do.
   */
  leaseRenew(lease: LeaseId): Promise<boolean>;
  leaseRevoke(lease: LeaseId): Promise<void>;
  close(): Promise<void>;
}
