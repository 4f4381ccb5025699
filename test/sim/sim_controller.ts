import type {
  AgentMessage,
  CheckpointSource,
  Command,
  CoreLimits,
  DurableEntry,
  Effect,
  Event,
  FoundCheckpoint,
  NodeFate,
  Session,
} from "../../controller/core/contract.js";
import { type CoreState, createState } from "../../controller/core/state.js";
import { sameState } from "../../controller/core/state_name.js";
import { step } from "../../controller/core/step.js";
import { LEADER_KEY, Leadership } from "../../controller/shell/leadership.js";
import { decodeEntry, encodeRecord, KEY_PREFIX } from "../../controller/shell/records.js";
import type { Clock } from "../../controller/store/clock.js";
import type { Store } from "../../controller/store/store.js";
import { chooseLayout } from "../../job/choose_layout.js";
import type { Random } from "./random.js";
import type { Scheduled, Scheduler } from "./scheduler.js";
import type { SimLink } from "./sim_link.js";
import { LEASE_TTL_MS, type SimStore } from "./sim_store.js";

export interface CommandFrame {
  term: number;
  commandId: number;
  message: Command;
}
export type AgentLink = SimLink<AgentMessage, CommandFrame>;

/** What the cluster wants to know of every controller. */
export interface ControllerObserver {
  effect(controller: SimController, effect: Effect): void;
  event(controller: SimController, event: Event): void;
  /** An event has been taken in and its effects are about to be carried out. */
  stepped(controller: SimController, event: Event): void;
  /** It has won the election, and has read what there is. */
  gained(controller: SimController): void;
  /** What the storage of a job tells that controller. */
  listed(generation: number, jobId: string): FoundCheckpoint[];
  /** Something went wrong that nobody catches where it does: below a promise. */
  broken(error: Error): void;
}

export const SIM_VERSION = "1.0.0";

interface AgentStream {
  from: Session;
  link: AgentLink;
}

/**
 * A controller process: the real core and the real leadership in the thinnest possible shell. Many may run at the same time,
 * also one that was deposed and does not know it.
 */
export class SimController {
  readonly id: string;
  alive = true;
  /** Null: does not lead. */
  core: CoreState | null = null;
  readonly #scheduler: Scheduler;
  readonly #random: Random;
  readonly #storeTruth: SimStore;
  readonly #limits: CoreLimits;
  readonly #observer: ControllerObserver;
  /** Answers to requests, by request id. */
  readonly #replies = new Map<string, (reply: Extract<Effect, { kind: "reply" }>["result"]) => void>();
  #store!: Store;
  #leadership!: Leadership<DurableEntry[]>;
  #streams = new Map<number, AgentStream>();
  #timers = new Map<string, Scheduled>();
  #sessionLast = 0;
  /** Create revision of its leader key; null: it does not lead, as far as it knows. */
  #fence: bigint | null = null;
  /** Generation whose last listing failed. */
  #listFailed = 0;
  /** Counts processes; what was started by another one is void. */
  #process = 0;
  /** Stopped like a process by SIGSTOP until then: nothing runs, the world goes on. */
  #pausedUntilMs = Number.NEGATIVE_INFINITY;
  /** The clock that its leases are counted by stands still until then, and has lost that much before. */
  #standsUntilMs = Number.NEGATIVE_INFINITY;
  #lostMs = 0;

  constructor(options: {
    id: string;
    scheduler: Scheduler;
    random: Random;
    store: SimStore;
    limits: CoreLimits;
    observer: ControllerObserver;
  }) {
    this.id = options.id;
    this.#scheduler = options.scheduler;
    this.#random = options.random;
    this.#storeTruth = options.store;
    this.#limits = options.limits;
    this.#observer = options.observer;
    this.#start();
  }

  get leads(): boolean {
    return this.alive && this.core?.leader?.ready === true;
  }

  /** It may believe to lead longer than it does: it was stopped, or its clock was. */
  get isBehind(): boolean {
    return this.#scheduler.nowMs <= Math.max(this.#pausedUntilMs, this.#standsUntilMs + LEASE_TTL_MS);
  }

  crash(): void {
    if (!this.alive) return;
    this.alive = false;
    this.#process += 1;
    this.#forget();
    for (const { link } of this.#streams.values()) link.close("controller", "controller ended");
    this.#streams.clear();
    this.#replies.clear();
  }

  restart(): void {
    if (this.alive) return;
    this.alive = true;
    this.#start();
  }

  pause(ms: number): void {
    this.#pausedUntilMs = Math.max(this.#pausedUntilMs, this.#scheduler.nowMs + ms);
  }

  /** Its leases are not over for so much longer, as far as it knows. */
  stopClock(ms: number): void {
    const { nowMs } = this.#scheduler;
    this.#lostMs = nowMs - this.#clockMs();
    this.#standsUntilMs = nowMs + ms;
    this.#lostMs += ms;
  }

  #clockMs(): number {
    const { nowMs } = this.#scheduler;
    return nowMs - this.#lostMs + Math.max(0, this.#standsUntilMs - nowMs);
  }

  request(
    event: Extract<Event, { requestId: string }>,
    answer: (reply: Extract<Effect, { kind: "reply" }>["result"]) => void,
  ): void {
    this.#replies.set(event.requestId, answer);
    this.#feed(event);
  }

  /** What the platform says of a node. */
  tellFate(nodeId: string, fate: NodeFate): void {
    this.#whenAwake(() => this.#feed({ kind: "nodeFate", nodeId, fate }));
  }

  // Leadership --------------------------------------------------------------------------------------------------------

  /** One more process. Whoever launches it does so again when its first try to lead fails. */
  #start(): void {
    this.#process += 1;
    this.#pausedUntilMs = Number.NEGATIVE_INFINITY;
    this.#standsUntilMs = Number.NEGATIVE_INFINITY;
    this.#lostMs = 0;
    const process = this.#process;
    const here = (run: () => void, what: "timer" | "message") =>
      this.#whenAwake(() => {
        if (this.#process !== process) return;
        this.#scheduler.unsettled = true;
        run();
      }, what);
    this.#store = this.#storeTruth.client(this.id, (deliver) => here(deliver, "message"));
    this.#leadership = new Leadership({
      store: this.#store,
      clock: this.#clock((callback) => here(callback, "timer")),
      controllerId: this.id,
      leaseMs: LEASE_TTL_MS,
      callbacks: {
        onWon: async () => (await this.#store.list(KEY_PREFIX)).map(decodeEntry),
        onGained: (fence, records) => this.#lead(fence, records),
        onLost: (reason) => this.#follow(reason),
        onFailed: () => {},
        onAnswered: () => {},
        onOther: () => {},
      },
    });
    this.#leadership.start(null).catch(() => {
      this.#scheduler.after(this.#random.between(500, 1_500), () => {
        if (this.#process === process && this.alive) this.#start();
      });
    });
  }

  #clock(fire: (callback: () => void) => void): Clock {
    return {
      now: () => this.#clockMs(),
      after: (ms, callback) => {
        const dueMs = this.#clockMs() + ms;
        let armed: Scheduled;
        const look = () => {
          const leftMs = dueMs - this.#clockMs();
          const standsMs = Math.max(0, this.#standsUntilMs - this.#scheduler.nowMs);
          if (leftMs > 0) armed = this.#scheduler.after(standsMs + leftMs, look);
          else fire(() => isArmed && callback());
        };
        let isArmed = true;
        armed = this.#scheduler.after(ms, look);
        return () => {
          isArmed = false;
          armed.run = null;
        };
      },
    };
  }

  #lead(fence: bigint, records: DurableEntry[]): void {
    this.#fence = fence;
    this.core = createState({ limits: this.#limits, version: SIM_VERSION, chooseLayout });
    this.#guard(() => this.#observer.gained(this));
    this.#feed({ kind: "leadershipGained", controllerId: this.id, records });
  }

  #follow(reason: string): void {
    this.#feed({ kind: "leadershipLost", reason });
    this.#forget();
    for (const { link } of this.#streams.values())
      this.#refuse(link, "NOT_LEADER", "this controller does not lead");
    this.#streams.clear();
    this.#replies.clear();
  }

  #forget(): void {
    this.#fence = null;
    this.core = null;
    for (const timer of [...this.#timers.keys()]) this.#dropTimer(timer);
  }

  /** Below a promise an error would be lost, or taken for one of the store. */
  #guard(run: () => void): void {
    try {
      run();
    } catch (error) {
      this.#observer.broken(error as Error);
    }
  }

  // Agents ------------------------------------------------------------------------------------------------------------

  /** An agent connects and says Hello. A controller that does not lead refuses. */
  accept(link: AgentLink, nodeId: string, incarnation: string): void {
    this.#sessionLast += 1;
    const from: Session = { nodeId, incarnation, session: this.#sessionLast };
    link.atController(
      (message) => this.#whenAwake(() => this.#onMessage(from, link, message)),
      (reason) =>
        this.#whenAwake(() => {
          if (this.#streams.delete(from.session)) this.#feed({ kind: "agentDisconnected", from, reason });
        }),
    );
  }

  #onMessage(from: Session, link: AgentLink, message: AgentMessage): void {
    if (!this.alive) return;
    if (this.core === null) {
      if (message.$case === "hello") this.#refuse(link, "NOT_LEADER", "this controller does not lead");
      return;
    }
    if (message.$case === "hello") this.#streams.set(from.session, { from, link });
    if (this.#streams.has(from.session)) this.#feed({ kind: "agentMessage", from, message });
  }

  #refuse(link: AgentLink, code: string, message: string): void {
    const error = { code, message, peer: undefined, operation: "" };
    link.sendDown({ term: 0, commandId: 0, message: { $case: "refused", value: { error, leader: "" } } });
    link.close("controller", message);
  }

  /** A process that goes on after a stop runs its overdue timers first, then reads what has come meanwhile. */
  #whenAwake(run: () => void, what: "timer" | "message" = "message"): void {
    const process = this.#process;
    const wakeMs = this.#pausedUntilMs + (what === "timer" ? 0 : 1);
    const waitMs = wakeMs - this.#scheduler.nowMs;
    if (waitMs < 0) run();
    else this.#scheduler.after(waitMs, () => this.alive && this.#process === process && run());
  }

  // Effects -----------------------------------------------------------------------------------------------------------

  #feed(event: Event): void {
    this.#guard(() => {
      if (!this.alive || this.core === null) return;
      this.#observer.event(this, event);
      const effects = step(this.core, event, this.#scheduler.nowMs);
      this.#observer.stepped(this, event);
      for (const effect of effects) {
        this.#observer.effect(this, effect);
        this.#carryOut(effect);
      }
    });
  }

  #carryOut(effect: Effect): void {
    switch (effect.kind) {
      case "persist":
        void this.#persist(effect);
        return;
      case "read":
        void this.#read(effect);
        return;
      case "findCheckpoints":
        this.#find(effect);
        return;
      case "send":
        this.#streams.get(effect.session)?.link.sendDown(effect);
        return;
      case "refuse": {
        const stream = this.#streams.get(effect.session);
        this.#streams.delete(effect.session);
        if (stream) this.#refuse(stream.link, effect.error.code, effect.error.message);
        return;
      }
      case "armTimer":
        this.#dropTimer(effect.timer);
        this.#timers.set(effect.timer, this.#armed(effect));
        return;
      case "cancelTimer":
        this.#dropTimer(effect.timer);
        return;
      case "reply":
        this.#replies.get(effect.requestId)?.(effect.result);
        this.#replies.delete(effect.requestId);
        return;
      case "resign":
        void this.#leadership.resign(effect.reason);
        return;
      case "log":
      case "step":
      case "observe":
        return;
    }
  }

  #armed({ timer, atMs }: Extract<Effect, { kind: "armTimer" }>): Scheduled {
    const fence = this.#fence;
    return this.#scheduler.at(atMs, () =>
      this.#whenAwake(() => {
        if (this.#fence === fence) this.#feed({ kind: "timerFired", timer });
      }, "timer"),
    );
  }

  #dropTimer(timer: string): void {
    const armed = this.#timers.get(timer);
    if (armed) armed.run = null;
    this.#timers.delete(timer);
  }

  /** As the shell does: every write also compares the leader key, and what another leadership asked for is dropped. */
  async #persist({ id, compares, writes }: Extract<Effect, { kind: "persist" }>): Promise<void> {
    const fence = this.#fence;
    if (fence === null) return;
    const outcome = await this.#store.transact(
      [
        { key: LEADER_KEY, createRevision: fence },
        ...compares.map(({ key, modRevision }) => ({ key: KEY_PREFIX + key, modRevision })),
      ],
      writes.map(({ key, record }) =>
        record === null
          ? { kind: "delete", key: KEY_PREFIX + key }
          : { kind: "put", key: KEY_PREFIX + key, value: encodeRecord(record) },
      ),
    );
    if (this.#fence !== fence) return;
    this.#feed({
      kind: "persisted",
      id,
      outcome: outcome.kind === "refused" ? { kind: "refused" } : outcome,
    });
  }

  async #read({ id, keys }: Extract<Effect, { kind: "read" }>): Promise<void> {
    const fence = this.#fence;
    const entries = await this.#readAll(keys).catch(() => null);
    if (this.#fence === fence) this.#feed({ kind: "read", id, entries });
  }

  /** Storage fails now and then, and not for as long as it is waited for. */
  #find({ jobId, generation, known }: Extract<Effect, { kind: "findCheckpoints" }>): void {
    const fence = this.#fence;
    this.#scheduler.after(this.#random.between(5, 500), () =>
      this.#whenAwake(() => {
        if (this.#fence !== fence) return;
        const fails = this.#random.chance(0.1) && this.#listFailed !== generation;
        this.#listFailed = fails ? generation : 0;
        const found = fails ? null : this.#observer.listed(generation, jobId);
        // As findCommitted tells it: where nothing is listed, nothing is gone.
        const isListed = ({ state }: CheckpointSource) => found!.some((each) => sameState(each.state, state));
        const gone = fails || found!.length === 0 ? [] : known.filter((each) => !isListed(each));
        this.#feed({ kind: "checkpointsFound", jobId, generation, found, gone, reason: "no answer" });
      }),
    );
  }

  async #readAll(keys: readonly string[]): Promise<DurableEntry[]> {
    const entries: DurableEntry[] = [];
    for (const key of keys) {
      const entry = await this.#store.get(KEY_PREFIX + key);
      if (entry !== null) entries.push(decodeEntry(entry));
    }
    return entries;
  }
}
