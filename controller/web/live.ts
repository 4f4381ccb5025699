import {
  ApiError,
  type AsOf,
  api,
  type Checkpoint,
  type ClusterEvent,
  type Incident,
  type Job,
  type Me,
  type Node,
  type Ranks,
} from "./api.js";
import { addPoint, mergePoints, type Point, pointOfStep, pointsOf } from "./merge_curves.js";
import { followEvents } from "./stream.js";

/** Events kept for show. */
const EVENTS_MAX = 1_000;
/** News that come one after another are fetched together. */
const NEWS_MS = 150;
/** Between looks where no news came: heartbeats change what ranks do, and are no events. */
const LOOK_MS = { few: 2_000, many: 5_000 };
const MANY_RANKS = 1_024;

export type Connection =
  | { kind: "connecting" }
  | { kind: "live" }
  | { kind: "down"; since: number; why: string }
  | { kind: "standby" }
  | { kind: "signIn"; why: string };

/** What the page knows. Replaced, never changed, so that a view sees by identity what is new. */
export interface Known {
  connection: Connection;
  /** Null: what is answered is of now. */
  asOf: AsOf | null;
  me: Me | null;
  /** Null: not told yet. */
  jobs: Job[] | null;
  nodes: Node[] | null;
  /** Newest last, without steps. */
  events: ClusterEvent[];
  /** By job id. */
  curves: ReadonlyMap<string, Point[]>;
  incidents: ReadonlyMap<string, Incident[]>;
  checkpoints: ReadonlyMap<string, Checkpoint[]>;
  ranks: ReadonlyMap<string, Ranks>;
}

export type Shown = { kind: "job"; name: string } | { kind: "nodes" } | null;

/** All of the page's data: what it fetches, when, and what the events change. Views read `known` and are told of changes. */
export class Live {
  known: Known = {
    connection: { kind: "connecting" },
    asOf: null,
    me: null,
    jobs: null,
    nodes: null,
    events: [],
    curves: new Map(),
    incidents: new Map(),
    checkpoints: new Map(),
    ranks: new Map(),
  };
  #shown: Shown = null;
  #listeners = new Set<() => void>();
  #frame = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #timerAtMs = 0;
  #isLooking = false;
  #isStale = false;
  /** Curves that are whole but for what events add. */
  #drawn = new Set<string>();

  start(): void {
    followEvents({
      onOpen: () => {
        this.#drawn.clear();
        this.#change({ connection: { kind: "live" } });
        void this.#identify();
        this.look();
      },
      onEvent: (event) => this.#take(event),
      onDown: (error) => this.#down(error),
    });
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.look();
    });
  }

  listen(callback: () => void): () => void {
    this.#listeners.add(callback);
    return () => void this.#listeners.delete(callback);
  }

  /** What is on the screen decides what is fetched. */
  show(shown: Shown): void {
    this.#shown = shown;
    this.look();
  }

  /** Fetches anew what is on show, at once; while that is under way, once more after it. */
  look(): void {
    if (this.known.connection.kind === "signIn") return;
    if (this.#isLooking) {
      this.#isStale = true;
      return;
    }
    this.#isLooking = true;
    clearTimeout(this.#timer);
    this.#timerAtMs = 0;
    this.#fetch()
      .catch((error: unknown) => {
        if (error instanceof ApiError && error.isRefusal) this.#down(error);
        // Anything else: the stream tells of a controller that is gone, and what is on show stays.
      })
      .finally(() => {
        this.#isLooking = false;
        this.#lookIn(this.#isStale ? NEWS_MS : this.#pauseMs());
        this.#isStale = false;
      });
  }

  /** All runs of a name, oldest first. */
  runs(name: string): Job[] {
    return (this.known.jobs ?? []).filter((job) => job.name === name);
  }

  #pauseMs(): number {
    const ranks = Math.max(0, ...(this.known.jobs ?? []).map((job) => job.rank_nodes.length));
    return ranks > MANY_RANKS ? LOOK_MS.many : LOOK_MS.few;
  }

  #lookIn(ms: number): void {
    const atMs = performance.now() + ms;
    if (this.#timerAtMs !== 0 && this.#timerAtMs <= atMs) return;
    clearTimeout(this.#timer);
    this.#timerAtMs = atMs;
    this.#timer = setTimeout(() => {
      this.#timerAtMs = 0;
      if (document.hidden) return; // looks when it is seen again
      this.look();
    }, ms);
  }

  async #identify(): Promise<void> {
    try {
      this.#change({ me: await api.me() });
    } catch {
      // The stream has said why.
    }
  }

  async #fetch(): Promise<void> {
    const shown = this.#shown;
    this.#change(await api.jobs());
    if (shown?.kind === "nodes") this.#change({ nodes: await api.nodes() });
    if (shown?.kind !== "job") return;
    const runs = this.runs(shown.name);
    const newest = runs.at(-1);
    await Promise.all([
      ...runs.map((run) => this.#fetchRun(run)),
      newest === undefined
        ? null
        : api.ranks(newest.id).then((ranks) => this.#put("ranks", newest.id, ranks)),
    ]);
  }

  /** What no longer changes is fetched once. */
  async #fetchRun({ id, phase }: Job): Promise<void> {
    const isOver = OVER.has(phase);
    if (isOver && this.#drawn.has(`${id} ${phase}`)) return;
    const [incidents, checkpoints, curves] = await Promise.all([
      api.incidents(id),
      api.checkpoints(id).catch(() => []), // those of a program of its own are not known
      this.#drawn.has(id) ? null : api.curves(id),
    ]);
    this.#put("incidents", id, incidents);
    this.#put("checkpoints", id, checkpoints);
    if (curves !== null)
      this.#put("curves", id, mergePoints(this.known.curves.get(id) ?? [], pointsOf(curves)));
    this.#drawn.add(id);
    if (isOver) this.#drawn.add(`${id} ${phase}`);
  }

  #take(event: ClusterEvent): void {
    if (event.step !== null) {
      this.#addStep(event);
      return;
    }
    const { events } = this.known;
    if (events.some(({ id }) => id === event.id)) return;
    this.#change({ events: [...events.slice(1 - EVENTS_MAX), event] });
    this.#lookIn(NEWS_MS);
    if (this.#isLooking) this.#isStale = true;
  }

  #addStep({ step, job, time }: ClusterEvent): void {
    const run = this.runs(job ?? "").findLast(({ submitted_at }) => (submitted_at ?? "") <= (time ?? ""));
    if (run === undefined || step === null) return;
    const points = this.known.curves.get(run.id) ?? [];
    this.#put("curves", run.id, addPoint(points, pointOfStep(step, time ?? "")));
  }

  #down(error: ApiError): void {
    if (error.isRefusal) this.#change({ connection: { kind: "signIn", why: error.message } });
    else if (error.code === "STANDBY") this.#change({ connection: { kind: "standby" } });
    else if (this.known.connection.kind !== "down")
      this.#change({ connection: { kind: "down", since: Date.now(), why: error.message } });
  }

  #put<K extends "curves" | "incidents" | "checkpoints" | "ranks">(
    what: K,
    id: string,
    value: Known[K] extends ReadonlyMap<string, infer V> ? V : never,
  ): void {
    this.#change({ [what]: new Map<string, unknown>(this.known[what]).set(id, value) } as Partial<Known>);
  }

  /** Views hear of changes once a frame, however many there are; a hidden page draws nothing. */
  #change(part: Partial<Known>): void {
    this.known = { ...this.known, ...part };
    if (this.#frame !== 0) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      for (const listener of this.#listeners) listener();
    });
  }
}

export const OVER: ReadonlySet<Job["phase"]> = new Set(["COMPLETED", "STOPPED", "FAILED"] as const);
