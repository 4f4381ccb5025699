import type { DurableRecord } from "../../controller/core/contract.js";
import { KEY_PREFIX } from "../../controller/shell/records.js";
import type {
  LeaseId,
  Store,
  StoreCompare,
  StoreEntry,
  StoreEvent,
  StoreOutcome,
  StoreWatch,
  StoreWrite,
} from "../../controller/store/store.js";
import { GokuError } from "../../job/errors.js";
import type { Random } from "./random.js";
import type { Scheduled, Scheduler } from "./scheduler.js";

/** How long a client waits for an answer before the outcome is unknown. */
const TIMEOUT_MS = 2_000;
export const LEASE_TTL_MS = 4_000;
/** A lease that is not renewed ends at most so much later than promised. */
const LEASE_SLACK_MS = 1_000;
/** Between tries of a client that is cut off to hear what has changed. */
const WATCH_RETRY_MS = 300;

interface Lease {
  ttlMs: number;
  ends: Scheduled;
}
interface Watch {
  prefix: string;
  tell: (events: StoreEvent[]) => void;
}

/**
 * The truth of the store: entries with revisions, leases that end, watches. Controllers see it through `client`, whose
 * answers may be late or never come. A write whose answer is lost ends unknown, applied or not; one may even be applied
 * long after its client gave up.
 */
export class SimStore {
  readonly #scheduler: Scheduler;
  readonly #random: Random;
  readonly #entries = new Map<string, StoreEntry>();
  /** What the entries of the core hold. */
  readonly #records = new Map<string, DurableRecord>();
  readonly #leases = new Map<LeaseId, Lease>();
  readonly #watches = new Set<Watch>();
  #revision = 0n;
  #leaseLast = 0;
  /** Chance that a request goes wrong in one of the ways above. */
  faultRate = 0;
  /** Controllers that cannot reach the store. */
  readonly cutOff = new Set<string>();
  /** A record of the core was written or, with null, deleted. */
  onWrite: (key: string, record: DurableRecord | null, before: DurableRecord | null) => void = () => {};

  constructor(scheduler: Scheduler, random: Random) {
    this.#scheduler = scheduler;
    this.#random = random;
  }

  /** A record of the core. */
  peek(key: string): DurableRecord | null {
    return this.#records.get(key) ?? null;
  }

  /** The store as one controller process has it. @param receive lets an answer reach that process, or never does */
  client(holder: string, receive: (deliver: () => void) => void): Store {
    const ask = <T>(serve: () => T) => this.#ask(holder, receive, serve);
    return {
      get: (key) => ask(() => this.#entries.get(key) ?? null),
      list: (prefix) => ask(() => this.#list(prefix)),
      transact: (compares, writes) => this.#transact(holder, receive, compares, writes),
      watch: (prefix, onEvents) => this.#watch(holder, receive, prefix, onEvents),
      leaseGrant: (ttlMs) => ask(() => this.#grant(ttlMs)),
      leaseRenew: (lease) => ask(() => this.#renew(lease)),
      leaseRevoke: (lease) => ask(() => this.#end(lease)),
      close: async () => {},
    };
  }

  // The truth ---------------------------------------------------------------------------------------------------------

  #list(prefix: string): StoreEntry[] {
    const found = [...this.#entries.values()].filter(({ key }) => key.startsWith(prefix));
    return found.sort((a, b) => (a.key < b.key ? -1 : 1));
  }

  #apply(compares: readonly StoreCompare[], writes: readonly StoreWrite[]): StoreOutcome {
    const fits = compares.every((compare) => {
      const found = this.#entries.get(compare.key);
      if ("modRevision" in compare) return (found?.modRevision ?? 0n) === compare.modRevision;
      return (found?.createRevision ?? 0n) === compare.createRevision;
    });
    const lapsed = writes.some(
      (write) => write.kind === "put" && write.lease !== undefined && !this.#leases.has(write.lease),
    );
    if (!fits || lapsed) return { kind: "refused", found: [] };
    this.#write(writes);
    return { kind: "applied", revision: this.#revision };
  }

  #write(writes: readonly StoreWrite[]): void {
    this.#revision += 1n;
    const modRevision = this.#revision;
    const events: StoreEvent[] = [];
    for (const write of writes) {
      const { key } = write;
      const value = write.kind === "put" ? write.value : null;
      const before = this.#entries.get(key);
      if (write.kind === "put") {
        const createRevision = before?.createRevision ?? modRevision;
        this.#entries.set(key, {
          key,
          value: write.value,
          createRevision,
          modRevision,
          lease: write.lease ?? null,
        });
      } else this.#entries.delete(key);
      events.push({ kind: write.kind, key, value, modRevision });
      if (key.startsWith(KEY_PREFIX)) this.#keepRecord(key.slice(KEY_PREFIX.length), value);
    }
    for (const { prefix, tell } of this.#watches) {
      const told = events.filter(({ key }) => key.startsWith(prefix));
      if (told.length > 0) tell(told);
    }
  }

  #keepRecord(key: string, value: Uint8Array | null): void {
    const record = value === null ? null : (JSON.parse(new TextDecoder().decode(value)) as DurableRecord);
    const before = this.peek(key);
    if (record === null) this.#records.delete(key);
    else this.#records.set(key, record);
    this.onWrite(key, record, before);
  }

  #grant(ttlMs: number): LeaseId {
    this.#leaseLast += 1;
    const lease = `lease-${this.#leaseLast}`;
    this.#leases.set(lease, { ttlMs, ends: this.#endLater(lease, ttlMs) });
    return lease;
  }

  #renew(lease: LeaseId): boolean {
    const found = this.#leases.get(lease);
    if (found === undefined) return false;
    found.ends.run = null;
    found.ends = this.#endLater(lease, found.ttlMs);
    return true;
  }

  #endLater(lease: LeaseId, ttlMs: number): Scheduled {
    return this.#scheduler.after(ttlMs + this.#random.between(0, LEASE_SLACK_MS), () => this.#end(lease));
  }

  #end(lease: LeaseId): void {
    const found = this.#leases.get(lease);
    if (found === undefined) return;
    found.ends.run = null;
    this.#leases.delete(lease);
    const bound = [...this.#entries.values()].filter((entry) => entry.lease === lease);
    if (bound.length > 0) this.#write(bound.map(({ key }) => ({ kind: "delete", key })));
  }

  // As clients see it -------------------------------------------------------------------------------------------------

  #ask<T>(holder: string, receive: (deliver: () => void) => void, serve: () => T): Promise<T> {
    return new Promise((resolve, reject) => {
      const silent = () =>
        reject(new GokuError("STORE_UNAVAILABLE", "Cannot use the store: it does not answer"));
      this.#request(
        holder,
        serve,
        (answer) => receive(answer === null ? silent : () => resolve(answer.result)),
        {
          mayBeLate: false,
        },
      );
    });
  }

  #transact(
    holder: string,
    receive: (deliver: () => void) => void,
    compares: readonly StoreCompare[],
    writes: readonly StoreWrite[],
  ): Promise<StoreOutcome> {
    const unknown: StoreOutcome = { kind: "unknown", reason: "no answer from the store" };
    return new Promise((resolve) => {
      const serve = () => this.#apply(compares, writes);
      this.#request(holder, serve, (answer) => receive(() => resolve(answer?.result ?? unknown)), {
        mayBeLate: true,
      });
    });
  }

  /** Changes come in order and without gaps, however long the client was cut off. */
  async #watch(
    holder: string,
    receive: (deliver: () => void) => void,
    prefix: string,
    onEvents: (events: StoreEvent[]) => void,
  ): Promise<StoreWatch> {
    let isOpen = true;
    const untold: StoreEvent[][] = [];
    const deliver = () => {
      if (this.cutOff.has(holder)) this.#scheduler.after(WATCH_RETRY_MS, deliver);
      else for (const events of untold.splice(0)) receive(() => isOpen && onEvents(events));
    };
    const tell = (events: StoreEvent[]) => {
      untold.push(events);
      this.#scheduler.after(this.#random.between(1, 8), deliver);
    };
    const watch: Watch = { prefix, tell };
    const present = await this.#ask(holder, receive, () => {
      this.#watches.add(watch);
      return this.#list(prefix);
    });
    if (present.length > 0)
      onEvents(present.map(({ key, value, modRevision }) => ({ kind: "put", key, value, modRevision })));
    const close = () => {
      isOpen = false;
      this.#watches.delete(watch);
    };
    return { close };
  }

  /** One round trip; `null` reaches the client when the answer does not. */
  #request<T>(
    holder: string,
    serve: () => T,
    answer: (answer: { result: T } | null) => void,
    { mayBeLate }: { mayBeLate: boolean },
  ): void {
    const random = this.#random;
    const there = random.between(1, 8);
    const back = random.between(1, 8);
    const fault = this.cutOff.has(holder)
      ? "lost"
      : random.chance(this.faultRate)
        ? random.pick(FAULTS)
        : "none";
    const late = fault === "late" && mayBeLate;
    const scheduler = this.#scheduler;
    if (fault === "lost" || (fault === "late" && !mayBeLate)) {
      scheduler.after(TIMEOUT_MS, () => answer(null));
      return;
    }
    scheduler.after(late ? TIMEOUT_MS + random.between(1, 3_000) : there, () => {
      const result = serve();
      if (fault === "none") scheduler.after(back, () => answer(this.cutOff.has(holder) ? null : { result }));
    });
    if (fault !== "none") scheduler.after(TIMEOUT_MS, () => answer(null));
  }
}

const FAULTS = ["lost", "answerLost", "late"] as const;
