import type { DurableEntry, DurableWrite, PersistOutcome } from "./contract.js";
import type { Continuation, Transaction } from "./state.js";
import { arm, disarm, log, observe, reply, STORE_TIMER, type Turn } from "./turn.js";

/** From this failed try on people hear of it: one lost answer is nothing to tell. */
const TRIES_QUIET_MAX = 2;

/**
 * Writes go to the store one at a time, in order, each compared with the revisions last seen. A write ends applied,
 * refused or unknown; the latter two are re-read: our own content there means applied (a retry met its first copy),
 * an untouched revision after *unknown* means write again, anything else means that another controller leads.
 * Tries follow at growing intervals; requests that wait for a store that goes on failing are answered meanwhile.
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
  flight.tries += 1;
  observe(turn, "goku_persist_retries_total", 1);
  if (flight.tries > TRIES_QUIET_MAX && outcome.kind === "unknown") tellTrouble(turn, outcome.reason);
  if (flight.tries === 1 || flight.refused) readBack(turn, flight.transaction);
  else arm(turn, STORE_TIMER, turn.nowMs + pauseMs(turn, flight.tries));
  return null;
}

/** None before the second try, then doubling. */
function pauseMs(turn: Turn, tries: number): number {
  const { storeRetryMs, storeRetryMsMax } = turn.state.config.limits;
  return Math.min(storeRetryMsMax, storeRetryMs * 2 ** (tries - 2));
}

/** The store takes no writes, for example on a full disk: says so once, and to everyone who waits for an answer. */
function tellTrouble(turn: Turn, reason: string): void {
  const { durable } = turn.state;
  const text = `the store takes no writes (${reason})`;
  if (!durable.troubled) log(turn, { level: "alarm", type: "alarm", text: `${text}; goes on trying` });
  durable.troubled = true;
  const writes = [durable.inFlight!.transaction, ...durable.queue].map(({ then }) => then);
  const message = `Cannot make the request durable: ${text}; it is done once the store takes it, ask again then`;
  for (const waiting of [...writes, ...turn.state.deferred]) {
    if (!("requestId" in waiting)) continue;
    reply(turn, waiting.requestId, { ok: false, code: "STORE_UNAVAILABLE", message });
  }
}

/** Continues after a re-read: a continuation when the write turns out to be durable, a reason to resign when it is not ours. */
export function onRead(
  turn: Turn,
  id: number,
  entries: readonly DurableEntry[] | null,
): Continuation | { kind: "resign"; reason: string } | null {
  const { durable } = turn.state;
  const flight = durable.inFlight;
  if (flight === null || flight.transaction.id !== id) return null;
  const { transaction } = flight;
  if (entries === null) {
    flight.tries += 1;
    if (flight.tries > TRIES_QUIET_MAX) tellTrouble(turn, "it does not answer");
    arm(turn, STORE_TIMER, turn.nowMs + pauseMs(turn, Math.max(2, flight.tries)));
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

/** Time to look again at what a failing store has made of the write. */
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
  if (durable.troubled) log(turn, { level: "info", type: "alarm", text: "the store takes writes again" });
  durable.troubled = false;
  disarm(turn, STORE_TIMER);
  pump(turn);
  return transaction.then;
}

function pump(turn: Turn): void {
  const { durable } = turn.state;
  if (durable.inFlight !== null) return;
  const transaction = durable.queue.shift();
  if (transaction === undefined) return;
  durable.inFlight = { transaction, refused: false, tries: 0 };
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
