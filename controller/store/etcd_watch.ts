import type { EtcdMembers } from "./etcd_members.js";
import { EtcdWatchStream, type WatchEnd } from "./etcd_watch_stream.js";
import type { StoreEntry, StoreEvent, StoreWatch } from "./store.js";
import { watchDifference } from "./watch_difference.js";

const PAUSE = { firstMs: 100, longestMs: 2_000 };

export interface EtcdWatchOptions {
  members: EtcdMembers;
  /** Of the store and the watch, together; keys are told without the store's. */
  prefix: string;
  storePrefix: string;
  /** What is below the prefix, and the revision of that reading. */
  list(): Promise<{ entries: StoreEntry[]; revision: bigint }>;
  onEvents(events: StoreEvent[]): void;
  onLost(reason: string): void;
}

/**
 * A watch that outlives connections, members and compactions. It goes on after the last event that was *delivered*: what
 * etcd says about its own revision, on creating a watch or in between, may be ahead of events still under way, and a
 * client that goes on from there loses them. Only a list says for sure what there was at a revision.
 */
export class EtcdWatch implements StoreWatch {
  readonly #options: EtcdWatchOptions;
  /** modRevision of every key that is there, as far as delivered. */
  readonly #known = new Map<string, bigint>();
  /** First revision that was not delivered. */
  #next = 0n;
  #member: number;
  #fails = 0;
  #stream: EtcdWatchStream | null = null;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  private constructor(options: EtcdWatchOptions) {
    this.#options = options;
    this.#member = options.members.present;
  }

  /** Delivers what is there before it resolves. Throws what the list throws. */
  static async start(options: EtcdWatchOptions): Promise<EtcdWatch> {
    const watch = new EtcdWatch(options);
    await watch.#list();
    watch.#open();
    return watch;
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#stream?.close();
  }

  async #list(): Promise<void> {
    const { entries, revision } = await this.#options.list();
    if (this.#closed) return;
    this.#next = revision + 1n;
    this.#deliver(watchDifference(this.#known, entries, revision));
  }

  #open(): void {
    if (this.#closed) return;
    const { members, prefix } = this.#options;
    this.#stream = new EtcdWatchStream(
      members,
      { member: this.#member, prefix, from: this.#next },
      {
        onCreated: (revision) => {
          // etcd was set back to an older copy (or this member is behind): it would wait in silence for what we ask for.
          if (revision + 1n < this.#next) {
            this.#stream!.close();
            this.#onEnd({ kind: "compacted" });
          } else this.#fails = 0;
        },
        onEvents: (events) => {
          const { storePrefix } = this.#options;
          const news = events.filter(({ modRevision }) => modRevision >= this.#next);
          if (news.length === 0) return;
          this.#next = news.at(-1)!.modRevision + 1n;
          this.#deliver(news.map((event) => ({ ...event, key: event.key.slice(storePrefix.length) })));
        },
        onEnd: (end) => this.#onEnd(end),
      },
    );
  }

  #onEnd(end: WatchEnd): void {
    if (this.#closed) return;
    if (end.kind === "refused") {
      this.close();
      this.#options.onLost(end.reason);
      return;
    }
    // The first compaction in a row is no fault of the member: at once, and at the same one.
    const atOnce = end.kind === "compacted" && this.#fails === 0;
    if (!atOnce) this.#member = (this.#member + 1) % this.#options.members.endpoints.length;
    const longest = Math.min(PAUSE.longestMs, PAUSE.firstMs * 2 ** Math.min(this.#fails, 16));
    this.#fails += 1;
    const pauseMs = atOnce ? 0 : longest * (0.5 + Math.random() / 2);
    this.#timer = setTimeout(() => void this.#again(end), pauseMs);
    this.#timer.unref();
  }

  async #again(end: WatchEnd): Promise<void> {
    try {
      if (end.kind === "compacted") await this.#list();
      this.#open();
    } catch {
      this.#onEnd(end); // etcd cannot be read just now
    }
  }

  #deliver(events: StoreEvent[]): void {
    for (const { kind, key, modRevision } of events) {
      if (kind === "put") this.#known.set(key, modRevision);
      else this.#known.delete(key);
    }
    if (events.length > 0) this.#options.onEvents(events);
  }
}
