import type { StepCompleted } from "../../gen/goku/v1/agent.pb.js";
import type { AuditEntry, WatchEventsResponse } from "../../gen/goku/v1/controller.pb.js";

const KEPT_MAX = 10_000;
/** Of these, what steps came by the thousand must not push out: verdicts, decisions, alarms. */
const TOLD_KEPT_MAX = 4_000;
/** Entries of the audit, which nothing else pushes out. */
const AUDIT_KEPT_MAX = 1_000;

/** What happened, as people read it: the newest events in memory, numbered without gaps, for streams and pages. */
export class EventLog {
  #events: WatchEventsResponse[] = [];
  #last: bigint;
  #listeners = new Set<(event: WatchEventsResponse) => void>();

  /** Ids start at the time of start, so that they grow over restarts of the controller and a reader can resume. */
  constructor(startMs: number) {
    this.#last = BigInt(Math.floor(startMs)) * 1000n;
  }

  add(entry: {
    timeMs: number;
    job: string;
    kind: string;
    message: string;
    step?: StepCompleted;
    audit?: AuditEntry;
  }): void {
    const event: WatchEventsResponse = {
      id: ++this.#last,
      time: new Date(entry.timeMs),
      job: entry.job,
      kind: entry.kind,
      message: entry.message,
      step: entry.step,
      audit: entry.audit,
    };
    this.#events.push(event);
    if (this.#events.length > KEPT_MAX) this.#forget();
    for (const listener of this.#listeners) listener(event);
  }

  /** The oldest of each kind beyond its limit, and a tenth of the steps, so that this is not done for each of them. */
  #forget(): void {
    const surplus = { audit: -AUDIT_KEPT_MAX, told: -TOLD_KEPT_MAX, step: KEPT_MAX / 10 };
    for (const event of this.#events) if (event.step === undefined) surplus[kindOf(event)] += 1;
    this.#events = this.#events.filter((event) => surplus[kindOf(event)]-- <= 0);
  }

  /**
   * Among what is here comes what another leader has kept, of which no listener is told. Numbers go on above all that any leader may
   * have given so far, whatever this process was started after.
   */
  restore(kept: readonly WatchEventsResponse[], nowMs: number): void {
    const known = new Set(this.#events.map(({ id }) => id));
    const all = [...kept.filter(({ id }) => !known.has(id)), ...this.#events];
    this.#events = all.sort((a, b) => (a.id < b.id ? -1 : 1));
    for (const id of [BigInt(Math.floor(nowMs)) * 1000n, this.#events.at(-1)?.id ?? 0n])
      if (id > this.#last) this.#last = id;
  }

  past(job: string, afterId: bigint): WatchEventsResponse[] {
    return this.#events.filter((event) => event.id > afterId && (job === "" || event.job === job));
  }

  listen(callback: (event: WatchEventsResponse) => void): () => void {
    this.#listeners.add(callback);
    return () => void this.#listeners.delete(callback);
  }
}

function kindOf({ step, audit }: WatchEventsResponse): "step" | "audit" | "told" {
  if (audit !== undefined) return "audit";
  return step === undefined ? "told" : "step";
}
