import type { Clock } from "../store/clock.js";
import { type Kinds, type KubeApi, KubeError, type Resource, type WatchEvent } from "./kube_api.js";

/** Between tries of an API server that does not answer: this, doubling. */
const RETRY_MS = 1_000;
const RETRY_MS_MAX = 30_000;
/** Everything is listed anew so often, whatever the watch says: watches have been known to go quiet. */
const RELIST_MS = 300_000;

export interface InformerOptions<R extends Resource> {
  api: KubeApi;
  resource: R;
  clock: Clock;
  /** Something may have changed; called often. */
  onChange(): void;
  /** It is not there any more; what it was last. */
  onGone?(object: Kinds[R]): void;
  /** Null: it answers (again). */
  onTrouble(error: KubeError | null): void;
}

/**
 * A copy of all objects of a kind, kept by list and watch. What it holds may be old, never torn; it is whole when
 * `synced`. Objects are known by uid: one that was deleted and made anew is another one.
 */
export class Informer<R extends Resource> {
  readonly #options: InformerOptions<R>;
  readonly #objects = new Map<string, Kinds[R]>();
  #stopped = new AbortController();
  #running: Promise<void> = Promise.resolve();
  /** All have been listed at least once. */
  synced = false;

  constructor(options: InformerOptions<R>) {
    this.#options = options;
  }

  start(): void {
    this.#stopped = new AbortController();
    this.#running = this.#run(this.#stopped.signal);
  }

  async stop(): Promise<void> {
    this.#stopped.abort();
    await this.#running;
    this.synced = false;
    this.#objects.clear();
  }

  all(): Kinds[R][] {
    return [...this.#objects.values()];
  }

  /** What a write of ours has made of an object: seen before its event comes. */
  put(object: Kinds[R]): void {
    const { uid, resourceVersion } = object.metadata;
    const known = this.#objects.get(uid);
    if (known !== undefined && !isOlder(resourceVersion, known.metadata.resourceVersion))
      this.#objects.set(uid, object);
  }

  async #run(signal: AbortSignal): Promise<void> {
    let failures = 0;
    while (!signal.aborted) {
      try {
        const version = await this.#list(signal);
        this.#options.onTrouble(null);
        failures = 0;
        await this.#follow(version, signal);
      } catch (error) {
        if (signal.aborted) return;
        const known = error instanceof KubeError ? error : new KubeError("unreachable", String(error));
        if (known.kind === "gone") continue; // lists anew, at once
        this.#options.onTrouble(known);
        await this.#pause(Math.min(RETRY_MS_MAX, RETRY_MS * 2 ** failures), signal);
        failures += 1;
      }
    }
  }

  async #list(signal: AbortSignal): Promise<string> {
    const { items, resourceVersion } = await this.#options.api.list(this.#options.resource, signal);
    const listed = new Set(items.map(({ metadata }) => metadata.uid));
    for (const [uid, object] of this.#objects) if (!listed.has(uid)) this.#drop(uid, object);
    for (const object of items) this.#objects.set(object.metadata.uid, object);
    this.synced = true;
    this.#options.onChange();
    return resourceVersion;
  }

  /** Streams end now and then and go on where they ended, until all is listed anew. */
  async #follow(version: string, signal: AbortSignal): Promise<void> {
    const { api, clock, resource } = this.#options;
    if (signal.aborted) return; // while all was listed: an abort that has been is not told again
    const until = clock.now() + RELIST_MS;
    const enough = new AbortController();
    const abort = () => enough.abort();
    const cancel = clock.after(RELIST_MS, abort);
    signal.addEventListener("abort", abort, { once: true });
    try {
      while (!enough.signal.aborted && clock.now() < until) {
        const startedMs = clock.now();
        await api.watch(resource, version, (event) => (version = this.#take(event)), enough.signal);
        // A proxy that ends every stream at once must not make a storm.
        if (clock.now() - startedMs < RETRY_MS) await this.#pause(RETRY_MS, enough.signal);
      }
    } finally {
      cancel();
      signal.removeEventListener("abort", abort);
    }
  }

  #take(event: WatchEvent<Kinds[R]>): string {
    if (event.type === "BOOKMARK") return event.resourceVersion;
    const { object } = event;
    const { uid, resourceVersion } = object.metadata;
    const known = this.#objects.get(uid);
    if (event.type === "DELETED") this.#drop(uid, object);
    else if (known === undefined || !isOlder(resourceVersion, known.metadata.resourceVersion))
      this.#objects.set(uid, object);
    this.#options.onChange();
    return resourceVersion;
  }

  #drop(uid: string, last: Kinds[R]): void {
    if (this.#objects.delete(uid)) this.#options.onGone?.(last);
  }

  #pause(ms: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        cancel();
        signal.removeEventListener("abort", done);
        resolve();
      };
      const cancel = this.#options.clock.after(ms, done);
      signal.addEventListener("abort", done, { once: true });
      if (signal.aborted) done();
    });
  }
}

/** Versions are opaque; where both are numbers, as they are in practice, a repeated event is told from news. */
function isOlder(a: string, b: string): boolean {
  return /^\d+$/.test(a) && /^\d+$/.test(b) && BigInt(a) < BigInt(b);
}
