import { mkdirSync } from "node:fs";
import { ClassicLevel } from "classic-level";
import { GokuError } from "../../job/errors.js";
import { type Clock, systemClock } from "./clock.js";
import type {
  LeaseId,
  Store,
  StoreCompare,
  StoreEntry,
  StoreEvent,
  StoreOutcome,
  StoreWatch,
  StoreWrite,
} from "./store.js";
import { checkTransaction } from "./transaction_limits.js";

/**
 * The store of one machine: LevelDB for durability (its lock keeps a second controller out, its log survives a crash),
 * a map in memory for reads. Transactions queue; all that wait are committed by one synced batch.
 *
 * The hard case is a failed batch: it may or may not be on disk. Its callers get `unknown`, the database is
 * opened again and memory is rebuilt from what is really there. Leased keys live in memory alone: they belong to a
 * process that holds this store, so they end with it.
 */
export class EmbeddedStore implements Store {
  readonly #clock: Clock;
  readonly #folder: string;
  #db: ClassicLevel<string, Buffer>;
  #entries = new Map<string, StoreEntry>();
  #revision = 0n;
  #queue: Pending[] = [];
  #committing: Promise<void> | null = null;
  #watches = new Set<Watch>();
  #leases = new Map<LeaseId, Lease>();
  #leaseCount = 0;
  #closed = false;

  private constructor(folder: string, clock: Clock, db: ClassicLevel<string, Buffer>) {
    this.#folder = folder;
    this.#clock = clock;
    this.#db = db;
  }

  /** Throws STORE_LOCKED when another process holds the folder. */
  static async open(folder: string, clock: Clock = systemClock): Promise<EmbeddedStore> {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const store = new EmbeddedStore(folder, clock, await openLevel(folder));
    await store.#reload();
    return store;
  }

  async get(key: string): Promise<StoreEntry | null> {
    this.#checkOpen();
    return this.#entries.get(key) ?? null;
  }

  async list(prefix: string): Promise<StoreEntry[]> {
    this.#checkOpen();
    return [...this.#entries.values()]
      .filter((e) => e.key.startsWith(prefix))
      .sort((a, b) => (a.key < b.key ? -1 : 1));
  }

  async transact(compares: readonly StoreCompare[], writes: readonly StoreWrite[]): Promise<StoreOutcome> {
    this.#checkOpen();
    checkTransaction(compares, writes);
    return new Promise((resolve) => {
      this.#queue.push({ compares, writes, resolve });
      this.#committing ??= this.#commitAll();
    });
  }

  async watch(
    prefix: string,
    onEvents: (events: StoreEvent[]) => void,
    onLost: (reason: string) => void,
  ): Promise<StoreWatch> {
    const present = (await this.list(prefix)).sort((a, b) => Number(a.modRevision - b.modRevision));
    const watch: Watch = { prefix, onEvents, onLost };
    this.#watches.add(watch);
    if (present.length > 0)
      onEvents(present.map((e) => ({ kind: "put", key: e.key, value: e.value, modRevision: e.modRevision })));
    return { close: () => void this.#watches.delete(watch) };
  }

  async leaseGrant(ttlMs: number): Promise<LeaseId> {
    this.#checkOpen();
    const id = `lease-${++this.#leaseCount}`;
    this.#leases.set(id, { ttlMs, cancel: this.#clock.after(ttlMs, () => void this.leaseRevoke(id)) });
    return id;
  }

  async leaseRenew(id: LeaseId): Promise<boolean> {
    const lease = this.#leases.get(id);
    if (!lease) return false;
    lease.cancel();
    lease.cancel = this.#clock.after(lease.ttlMs, () => void this.leaseRevoke(id));
    return true;
  }

  async leaseRevoke(id: LeaseId): Promise<void> {
    const lease = this.#leases.get(id);
    if (!lease || this.#closed) return;
    lease.cancel();
    this.#leases.delete(id);
    // Its keys go before the next batch is decided, so behind a put under this lease that is being written now.
    await this.transact([], []);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    await this.#committing;
    this.#closed = true;
    for (const lease of this.#leases.values()) lease.cancel();
    this.#watches.clear();
    await this.#db.close();
  }

  #checkOpen(): void {
    if (this.#closed)
      throw new GokuError("STORE_UNAVAILABLE", `Cannot use the store at ${this.#folder}: it is closed`);
  }

  async #commitAll(): Promise<void> {
    await Promise.resolve(); // let `#committing` be assigned, and neighbours join the batch
    while (this.#queue.length > 0) await this.#commit(this.#queue.splice(0));
    // In the same turn as the last look at the queue, so that no transaction falls between.
    this.#committing = null;
  }

  /** Decides every waiting transaction on top of those before it, writes once, then shows the result. */
  async #commit(batch: Pending[]): Promise<void> {
    this.#dropLapsed();
    if (this.#db.status !== "open") await this.#reopen();
    const staged = new Map<string, StoreEntry | null>();
    const look = (key: string) =>
      staged.has(key) ? (staged.get(key) ?? null) : (this.#entries.get(key) ?? null);
    const events: StoreEvent[] = [];
    const outcomes: StoreOutcome[] = [];
    let revision = this.#revision;
    for (const { compares, writes } of batch) {
      const lost = writes.find(
        (w) => w.kind === "put" && w.lease !== undefined && !this.#leases.has(w.lease),
      );
      if (lost || !compares.every((compare) => holds(compare, look(compare.key)))) {
        outcomes.push({ kind: "refused", found: compares.map((c) => look(c.key)).filter((e) => e !== null) });
        continue;
      }
      if (writes.length > 0) revision++;
      for (const write of writes) {
        const before = look(write.key);
        if (write.kind === "delete" && !before) continue;
        const entry = write.kind === "put" ? newEntry(write, before, revision) : null;
        staged.set(write.key, entry);
        events.push({ kind: write.kind, key: write.key, value: entry?.value ?? null, modRevision: revision });
      }
      outcomes.push({ kind: "applied", revision });
    }
    try {
      await this.#write(staged, revision);
    } catch (error) {
      const why = await this.#reopen();
      const reason = why ?? `Cannot commit to the store at ${this.#folder}: ${(error as Error).message}`;
      this.#endWatches(reason);
      for (const [i, pending] of batch.entries()) {
        const refused = outcomes[i]?.kind === "refused";
        pending.resolve(refused ? outcomes[i]! : { kind: "unknown", reason });
      }
      return;
    }
    this.#revision = revision;
    for (const [key, entry] of staged) {
      if (entry) this.#entries.set(key, entry);
      else this.#entries.delete(key);
    }
    this.#notify(events);
    for (const [i, pending] of batch.entries()) pending.resolve(outcomes[i]!);
  }

  /** Keys of ended leases. They were never on disk, so a disk that takes no writes keeps none of them alive. */
  #dropLapsed(): void {
    const lapsed = [...this.#entries.values()].filter((e) => e.lease !== null && !this.#leases.has(e.lease));
    if (lapsed.length === 0) return;
    this.#revision++;
    for (const { key } of lapsed) this.#entries.delete(key);
    this.#notify(
      lapsed.map(({ key }) => ({ kind: "delete", key, value: null, modRevision: this.#revision })),
    );
  }

  async #write(staged: Map<string, StoreEntry | null>, revision: bigint): Promise<void> {
    if (staged.size === 0) return;
    const operations: ({ type: "put"; key: string; value: Buffer } | { type: "del"; key: string })[] = [
      { type: "put", key: REVISION_KEY, value: Buffer.from(revision.toString()) },
    ];
    for (const [key, entry] of staged) {
      // A leased key is not kept; what it replaced must not come back either.
      if (entry && entry.lease === null)
        operations.push({ type: "put", key: DATA_PREFIX + key, value: encode(entry) });
      else operations.push({ type: "del", key: DATA_PREFIX + key });
    }
    await this.#db.batch(operations, { sync: true });
  }

  /**
   * After a failed write: what is on disk decides. Where it cannot be opened, for example on a full disk, memory keeps
   * the last known good state and the next write tries again.
   * @returns why it cannot be opened; null: it is open
   */
  async #reopen(): Promise<string | null> {
    try {
      await this.#db.close();
      this.#db = await openLevel(this.#folder);
      await this.#reload();
      return null;
    } catch (error) {
      return (error as Error).message;
    }
  }

  /** Watchers must list again. */
  #endWatches(reason: string): void {
    for (const watch of [...this.#watches]) {
      this.#watches.delete(watch);
      watch.onLost(reason);
    }
  }

  async #reload(): Promise<void> {
    const leased = [...this.#entries.values()].filter((entry) => entry.lease !== null);
    const entries = new Map<string, StoreEntry>();
    let revision = this.#revision;
    for await (const [key, value] of this.#db.iterator()) {
      if (key === REVISION_KEY) {
        const written = BigInt(value.toString());
        if (written > revision) revision = written;
      } else entries.set(key.slice(DATA_PREFIX.length), decode(key.slice(DATA_PREFIX.length), value));
    }
    for (const entry of leased) entries.set(entry.key, entry);
    this.#entries = entries;
    this.#revision = revision;
  }

  #notify(events: StoreEvent[]): void {
    for (const watch of this.#watches) {
      const mine = events.filter((event) => event.key.startsWith(watch.prefix));
      if (mine.length > 0) watch.onEvents(mine);
    }
  }
}

interface Pending {
  compares: readonly StoreCompare[];
  writes: readonly StoreWrite[];
  resolve(outcome: StoreOutcome): void;
}
interface Watch {
  prefix: string;
  onEvents: (events: StoreEvent[]) => void;
  onLost: (reason: string) => void;
}
interface Lease {
  ttlMs: number;
  cancel: () => void;
}

const REVISION_KEY = "!revision";
const DATA_PREFIX = "k:";

async function openLevel(folder: string): Promise<ClassicLevel<string, Buffer>> {
  const db = new ClassicLevel<string, Buffer>(folder, { valueEncoding: "buffer" });
  try {
    await db.open();
  } catch (error) {
    const cause = (error as { cause?: { code?: string; message?: string } }).cause;
    if (cause?.code === "LEVEL_LOCKED") {
      throw new GokuError(
        "STORE_LOCKED",
        `Cannot open the store at ${folder}: another controller holds it; stop that one or choose another --store`,
        { cause: error },
      );
    }
    throw new GokuError(
      "STORE_UNAVAILABLE",
      `Cannot open the store at ${folder}: ${cause?.message ?? (error as Error).message}`,
      { cause: error },
    );
  }
  return db;
}

function holds(compare: StoreCompare, found: StoreEntry | null): boolean {
  if ("modRevision" in compare) return (found?.modRevision ?? 0n) === compare.modRevision;
  return (found?.createRevision ?? 0n) === compare.createRevision;
}

function newEntry(
  write: StoreWrite & { kind: "put" },
  before: StoreEntry | null,
  revision: bigint,
): StoreEntry {
  return {
    key: write.key,
    value: Uint8Array.from(write.value),
    createRevision: before?.createRevision ?? revision,
    modRevision: revision,
    lease: write.lease ?? null,
  };
}

function encode(entry: StoreEntry): Buffer {
  const head = Buffer.alloc(16);
  head.writeBigUInt64LE(entry.createRevision, 0);
  head.writeBigUInt64LE(entry.modRevision, 8);
  return Buffer.concat([head, entry.value]);
}

function decode(key: string, bytes: Buffer): StoreEntry {
  return {
    key,
    value: Uint8Array.from(bytes.subarray(16)),
    createRevision: bytes.readBigUInt64LE(0),
    modRevision: bytes.readBigUInt64LE(8),
    lease: null,
  };
}
