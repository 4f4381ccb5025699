import type { StoreCompare, StoreWrite } from "./store.js";

/** etcd's --max-txn-ops, as it is unless someone changed it. */
export const TRANSACTION_COUNT_MAX = 128;

/** Throws RangeError for a transaction that not every store can take. */
export function checkTransaction(compares: readonly StoreCompare[], writes: readonly StoreWrite[]): void {
  for (const [what, { length }] of [
    ["compares", compares],
    ["writes", writes],
  ] as const) {
    if (length > TRANSACTION_COUNT_MAX)
      throw new RangeError(`Cannot transact: ${length} ${what}, want at most ${TRANSACTION_COUNT_MAX}`);
  }
  const keys = new Set<string>();
  for (const { key } of writes) {
    if (keys.has(key)) throw new RangeError(`Cannot transact: ${key} is written twice, want once`);
    keys.add(key);
  }
}
