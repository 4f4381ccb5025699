import type { DurableEntry, DurableWrite, PersistOutcome } from "./contract.js";
import type { Continuation, Transaction } from "./state.js";
import { arm, disarm, observe, STORE_TIMER, type Turn } from "./turn.js";

/**
 * Writes go to the store one at a time, in order, each compared with the revisions last seen. A write ends applied,
 * refused or unknown; the latter two are re-read: our own content there means applied (a retry met its first copy),
 * an untouched revision after *unknown* means write again, anything else means that another controller leads.
 */
export function persist(turn: Turn, writes: DurableWrite[], then: Continuation = { kind: "none" }): void {
  const { durable } = turn.state;
  durable.idLast += 1;
  durable.queue.push({ id: durable.idLast, writes, then });
  pump(turn);
}

/** The transaction's continuation when it is durable now; else null. */
export function onPersisted(turn: Turn, id: number, outcome: PersistOutcome): Continuation | null {
  const { durable } = turn.state;
  const flight = durable.inFlight;
  if (flight === null || flight.transaction.id !== id) return null;
  if (outcome.kind === "applied") return applied(turn, flight.transaction, () => outcome.revision);
  flight.refused = outcome.kind === "refused";
  observe(turn, "goku_persist_retries_total", 1);
  readBack(turn, flight.transaction);
  return null;
}

/** Continues after a re-read: a continuation when the write turns out to be durable, a reason to resign when it is not ours. */
export function onRead(
  turn: Turn,
  id: number,
  entries: readonly DurableEntry[] | null,
): Continuation | { kind: "resign"; reason: string } | null {
  const { durable, config } = turn.state;
  const flight = durable.inFlight;
  if (flight === null || flight.transaction.id !== id) return null;
  const { transaction } = flight;
  if (entries === null) {
    arm(turn, STORE_TIMER, turn.nowMs + config.limits.storeRetryMs);
    return null;
  }
  const found = new Map(entries.map((entry) => [entry.key, entry]));
  const ours = transaction.writes.every((write) => sameContent(write, found.get(write.key)));
  if (ours) return applied(turn, transaction, (key) => found.get(key)?.modRevision ?? 0n);
  const untouched = transaction.writes.every(
    (write) => (found.get(write.key)?.modRevision ?? 0n) === (durable.revisions.get(write.key) ?? 0n),
  );
  if (untouched && !flight.refused) {
    emit(turn, transaction);
    return null;
  }
  const keys = transaction.writes.map((write) => write.key).join(", ");
  return { kind: "resign", reason: `Cannot write ${keys}: another controller leads this store` };
}

/** The store did not answer a re-read: ask again. */
export function onStoreTimer(turn: Turn): void {
  const flight = turn.state.durable.inFlight;
  if (flight !== null) readBack(turn, flight.transaction);
}

function applied(turn: Turn, transaction: Transaction, revisionOf: (key: string) => bigint): Continuation {
  const { durable } = turn.state;
  for (const { key, record } of transaction.writes) {
    if (record === null) durable.revisions.delete(key);
    else durable.revisions.set(key, revisionOf(key));
  }
  durable.inFlight = null;
  disarm(turn, STORE_TIMER);
  pump(turn);
  return transaction.then;
}

function pump(turn: Turn): void {
  const { durable } = turn.state;
  if (durable.inFlight !== null) return;
  const transaction = durable.queue.shift();
  if (transaction === undefined) return;
  durable.inFlight = { transaction, refused: false };
  emit(turn, transaction);
}

function emit(turn: Turn, transaction: Transaction): void {
  const { revisions } = turn.state.durable;
  const compares = transaction.writes.map(({ key }) => ({ key, modRevision: revisions.get(key) ?? 0n }));
  turn.effects.push({ kind: "persist", id: transaction.id, compares, writes: transaction.writes });
}

function readBack(turn: Turn, transaction: Transaction): void {
  turn.effects.push({
    kind: "read",
    id: transaction.id,
    keys: transaction.writes.map((write) => write.key),
  });
}

function sameContent(write: DurableWrite, found: DurableEntry | undefined): boolean {
  if (write.record === null || found === undefined) return write.record === null && found === undefined;
  return JSON.stringify(write.record) === JSON.stringify(found.record);
}
