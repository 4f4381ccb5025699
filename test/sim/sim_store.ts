import type {
  DurableEntry,
  DurableRecord,
  DurableWrite,
  PersistOutcome,
} from "../../controller/core/contract.js";
import type { Random } from "./random.js";
import type { Scheduler } from "./scheduler.js";

/** How long a client waits for an answer before the outcome is unknown. */
const TIMEOUT_MS = 2_000;
export const LEASE_TTL_MS = 4_000;

/**
 * The store as the shell sees it: revisions, one leader lease, and answers that may be late or never come. A write whose
 * answer is lost ends unknown, applied or not; one may even be applied long after its client gave up.
 */
export class SimStore {
  readonly #scheduler: Scheduler;
  readonly #random: Random;
  readonly #data = new Map<string, { json: string; record: DurableRecord; modRevision: bigint }>();
  #revision = 0n;
  #lease: { holder: string; fence: number; endsMs: number } | null = null;
  #fenceLast = 0;
  /** Chance that a request goes wrong in one of the ways above. */
  faultRate = 0;
  /** Controllers that cannot reach the store. */
  readonly cutOff = new Set<string>();
  onWrite: (key: string, record: DurableRecord | null) => void = () => {};

  constructor(scheduler: Scheduler, random: Random) {
    this.#scheduler = scheduler;
    this.#random = random;
  }

  peek(key: string): DurableRecord | null {
    return this.#data.get(key)?.record ?? null;
  }

  /** Grants or renews the lease; the fence proves it in later writes. Null: another holds it, or no answer. */
  campaign(holder: string, answer: (fence: number | null) => void): void {
    this.#request(
      holder,
      () => {
        const { nowMs } = this.#scheduler;
        const lease = this.#lease;
        if (lease !== null && lease.endsMs > nowMs && lease.holder !== holder) return null;
        if (lease === null || lease.endsMs <= nowMs || lease.holder !== holder) this.#fenceLast += 1;
        this.#lease = { holder, fence: this.#fenceLast, endsMs: nowMs + LEASE_TTL_MS };
        return this.#fenceLast;
      },
      (fence) => answer(fence ?? null),
      false,
    );
  }

  /** Gives the lease up, so that another need not wait for it to end. */
  resign(holder: string): void {
    this.#request(
      holder,
      () => {
        if (this.#lease?.holder === holder) this.#lease = null;
        return null;
      },
      () => {},
      false,
    );
  }

  list(holder: string, answer: (entries: DurableEntry[] | null) => void): void {
    this.#request(
      holder,
      () => [...this.#data.keys()].sort().map((key) => this.#entry(key)!),
      (entries) => answer(entries ?? null),
      false,
    );
  }

  read(holder: string, keys: readonly string[], answer: (entries: DurableEntry[] | null) => void): void {
    this.#request(
      holder,
      () => keys.flatMap((key) => this.#entry(key) ?? []),
      (entries) => answer(entries ?? null),
      false,
    );
  }

  transact(
    holder: string,
    request: {
      fence: number;
      compares: readonly { key: string; modRevision: bigint }[];
      writes: readonly DurableWrite[];
    },
    answer: (outcome: PersistOutcome) => void,
  ): void {
    // Bytes leave the client now: what it changes later is not part of the write.
    const writes = request.writes.map(({ key, record }) => ({
      key,
      json: record === null ? null : JSON.stringify(record),
    }));
    this.#request(
      holder,
      () => this.#apply(request.fence, request.compares, writes),
      (outcome) => answer(outcome ?? { kind: "unknown", reason: "no answer from the store" }),
      true,
    );
  }

  #apply(
    fence: number,
    compares: readonly { key: string; modRevision: bigint }[],
    writes: readonly { key: string; json: string | null }[],
  ): PersistOutcome {
    if (this.#lease?.fence !== fence) return { kind: "refused" };
    const fits = compares.every(
      ({ key, modRevision }) => (this.#data.get(key)?.modRevision ?? 0n) === modRevision,
    );
    if (!fits) return { kind: "refused" };
    this.#revision += 1n;
    for (const { key, json } of writes) {
      const record = json === null ? null : (JSON.parse(json) as DurableRecord);
      if (json === null || record === null) this.#data.delete(key);
      else this.#data.set(key, { json, record, modRevision: this.#revision });
      this.onWrite(key, record);
    }
    return { kind: "applied", revision: this.#revision };
  }

  #entry(key: string): DurableEntry | null {
    const found = this.#data.get(key);
    if (found === undefined) return null;
    return { key, modRevision: found.modRevision, record: JSON.parse(found.json) as DurableRecord };
  }

  /** One round trip; `undefined` reaches the client when the answer does not. */
  #request<T>(
    holder: string,
    serve: () => T,
    answer: (result: T | undefined) => void,
    mayBeLate: boolean,
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
      scheduler.after(TIMEOUT_MS, () => answer(undefined));
      return;
    }
    scheduler.after(late ? TIMEOUT_MS + random.between(1, 3_000) : there, () => {
      const result = serve();
      if (fault === "none") scheduler.after(back, () => answer(this.cutOff.has(holder) ? undefined : result));
    });
    if (fault !== "none") scheduler.after(TIMEOUT_MS, () => answer(undefined));
  }
}

const FAULTS = ["lost", "answerLost", "late"] as const;
