import { deflateRawSync, inflateRawSync } from "node:zlib";
import type { Logger } from "pino";
import { WatchEventsResponse } from "../../gen/goku/v1/controller.pb.js";
import type { Clock } from "../store/clock.js";
import type { Store, StoreEntry, StoreWrite } from "../store/store.js";
import type { EventLog } from "./event_log.js";
import { LEADER_KEY } from "./leadership.js";
import { type KeptHistory, TrainingHistory } from "./training_history.js";

const PREFIX = "goku/history/";
const CURVES = `${PREFIX}curves/`;
const EVENTS = `${PREFIX}events/`;
const TICK_MS = 2_000;
/** Between two writes of a curve while its job trains; its agents repeat what came after the last one. */
const CURVE_MS = 15_000;
/** Events of one key: it is written again whole for each of them. */
const PART_EVENTS = 50;
const PARTS_MAX = 10;
/** A store that does not answer holds up the end of a controller for no longer. */
const FLUSH_MS = 1_000;

export interface HistoryKeeperOptions {
  store: Store;
  clock: Clock;
  log: Logger;
  /** By job id; those that were kept are put there. */
  histories: Map<string, TrainingHistory>;
  events: EventLog;
  /** Whether the core still knows a job. */
  isKnown(jobId: string): boolean;
}

/**
 * Keeps in the store what people look back at, the curves of jobs and the events that are no steps, so that another leader, or
 * this one started again, shows them as well. Nothing is decided by it, and nothing waits for it: at most one curve and the
 * new events are written every two seconds, however many jobs there are, and a write that fails is made again.
 */
export class HistoryKeeper {
  readonly #options: HistoryKeeperOptions;
  #fence: bigint | null = null;
  /** As it was read before leading. */
  #found: StoreEntry[] = [];
  /** By job id: what of it is in the store. */
  #curves = new Map<string, { tellings: number; atMs: number; generation: number }>();
  /** Tellings at the last tick: a job that tells nothing any more is written at once. */
  #tellings = new Map<string, number>();
  /** Numbers of the parts in the store, oldest first; the last one is `#part`, or is about to be. */
  #parts: number[] = [];
  #part: WatchEventsResponse[] = [];
  #news: WatchEventsResponse[] = [];
  #cancel: () => void = () => {};
  #work: Promise<void> = Promise.resolve();

  constructor(options: HistoryKeeperOptions) {
    this.#options = options;
    options.events.listen((event) => {
      if (this.#fence === null || event.step !== undefined) return;
      this.#news.push(event);
      if (this.#news.length > PART_EVENTS * PARTS_MAX) this.#news.shift();
    });
  }

  /** Before leading. Throws STORE_UNAVAILABLE. */
  async read(): Promise<void> {
    this.#found = await this.#options.store.list(PREFIX);
  }

  /** Takes over what was read, and keeps from now on. */
  begin(fence: bigint, nowMs: number): void {
    const { histories, events, log } = this.#options;
    this.#fence = fence;
    this.#news = [];
    this.#part = [];
    this.#parts = [];
    this.#curves.clear();
    const past: WatchEventsResponse[] = [];
    for (const entry of this.#found) {
      const { key } = entry;
      try {
        if (key.startsWith(EVENTS)) {
          this.#parts.push(Number(key.slice(EVENTS.length)));
          past.push(...decode<unknown[]>(entry).map((event) => WatchEventsResponse.fromJSON(event)));
        } else {
          const jobId = key.slice(CURVES.length);
          const kept = decode<KeptHistory>(entry);
          const own = histories.get(jobId); // it has led before, and knows which steps are told again
          const history = own === undefined || own.isOlderThan(kept) ? TrainingHistory.from(kept) : own;
          histories.set(jobId, history);
          this.#curves.set(jobId, { tellings: 0, atMs: this.#nowMs(), generation: history.generation });
        }
      } catch (error) {
        // Nothing hangs on it: what cannot be read is not shown.
        log.warn({ key, reason: (error as Error).message }, "history in the store cannot be read");
      }
    }
    this.#found = [];
    this.#parts.push((this.#parts.at(-1) ?? 0) + 1);
    events.restore(past, nowMs);
    this.#arm();
  }

  /** Leads no more: writes nothing. */
  end(): void {
    this.#fence = null;
    this.#cancel();
  }

  /** Writes all that is not kept yet; resolves when that is done, has failed, or took too long. */
  async flush(): Promise<void> {
    if (this.#fence === null) return;
    this.#cancel();
    const written = this.#work.then(async () => {
      await this.#writeEvents();
      for (const [jobId, history] of this.#options.histories) await this.#writeCurve(jobId, history);
    });
    const late = new Promise<void>((resolve) => this.#options.clock.after(FLUSH_MS, resolve));
    await Promise.race([written, late]);
  }

  #arm(): void {
    this.#cancel = this.#options.clock.after(TICK_MS, () => {
      this.#work = this.#tick().finally(() => {
        if (this.#fence !== null) this.#arm();
      });
    });
  }

  async #tick(): Promise<void> {
    await this.#writeEvents();
    const { histories } = this.#options;
    const due = [...histories].filter(([jobId, history]) => this.#isDue(jobId, history));
    this.#tellings = new Map([...histories].map(([jobId, { tellings }]) => [jobId, tellings]));
    const [next] = due.sort(([a], [b]) => this.#writtenMs(a) - this.#writtenMs(b));
    if (next !== undefined) await this.#writeCurve(...next);
    const gone = [...this.#curves.keys()].find((jobId) => !this.#options.isKnown(jobId));
    if (gone === undefined || !(await this.#write([{ kind: "delete", key: CURVES + gone }]))) return;
    this.#curves.delete(gone);
    histories.delete(gone);
  }

  /** After a while, when a new generation has begun, and when the job tells nothing (any more). */
  #isDue(jobId: string, { tellings, generation }: TrainingHistory): boolean {
    const kept = this.#curves.get(jobId);
    if (tellings === (kept?.tellings ?? 0)) return false;
    const isQuiet = this.#tellings.get(jobId) === tellings;
    return isQuiet || generation !== kept?.generation || this.#nowMs() - kept.atMs >= CURVE_MS;
  }

  #writtenMs(jobId: string): number {
    return this.#curves.get(jobId)?.atMs ?? Number.NEGATIVE_INFINITY;
  }

  async #writeCurve(jobId: string, history: TrainingHistory): Promise<void> {
    const { tellings, generation } = history;
    if (tellings === (this.#curves.get(jobId)?.tellings ?? 0) || !this.#options.isKnown(jobId)) return;
    const put = { kind: "put", key: CURVES + jobId, value: encode(history.kept()) } as const;
    if (await this.#write([put])) this.#curves.set(jobId, { tellings, atMs: this.#nowMs(), generation });
  }

  async #writeEvents(): Promise<void> {
    if (this.#news.length === 0) return;
    const news = this.#news;
    this.#news = [];
    const parts = inParts([...this.#part, ...news]);
    const first = this.#parts.at(-1)!;
    const numbers = [...this.#parts.slice(0, -1), ...parts.map((_, i) => first + i)];
    const writes = numbers.flatMap((number, i): StoreWrite[] => {
      const part = parts[number - first];
      if (i < numbers.length - PARTS_MAX) return [{ kind: "delete", key: partKey(number) }];
      if (part === undefined) return [];
      const value = encode(part.map((event) => WatchEventsResponse.toJSON(event)));
      return [{ kind: "put", key: partKey(number), value }];
    });
    if (!(await this.#write(writes))) {
      this.#news = [...news, ...this.#news].slice(-PART_EVENTS * PARTS_MAX);
      return;
    }
    this.#parts = numbers.slice(-PARTS_MAX);
    this.#part = parts.at(-1)!;
    if (this.#part.length < PART_EVENTS) return;
    this.#part = [];
    this.#parts.push(first + parts.length);
  }

  /** False: it is not known to be there; the leadership tells of a store that does not answer. */
  async #write(writes: StoreWrite[]): Promise<boolean> {
    const fence = this.#fence;
    if (fence === null) return false;
    const outcome = await this.#options.store
      .transact([{ key: LEADER_KEY, createRevision: fence }], writes)
      .catch(() => null);
    return outcome?.kind === "applied" && this.#fence === fence;
  }

  #nowMs(): number {
    return this.#options.clock.now();
  }
}

function partKey(number: number): string {
  return EVENTS + String(number).padStart(10, "0");
}

function inParts(events: readonly WatchEventsResponse[]): WatchEventsResponse[][] {
  const count = Math.ceil(events.length / PART_EVENTS);
  return Array.from({ length: count }, (_, i) => events.slice(i * PART_EVENTS, (i + 1) * PART_EVENTS));
}

function decode<T>({ value }: StoreEntry): T {
  return JSON.parse(inflateRawSync(value).toString()) as T;
}

/** What a curve shows needs six digits; sixteen do not compress. */
function encode(value: unknown): Uint8Array {
  const text = JSON.stringify(value, (_, each: unknown) =>
    typeof each === "number" && !Number.isInteger(each) ? Number(each.toPrecision(6)) : each,
  );
  return deflateRawSync(text);
}
