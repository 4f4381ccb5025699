import type {
  AgentMessage,
  Command,
  CoreLimits,
  Effect,
  Event,
  Session,
} from "../../controller/core/contract.js";
import { type CoreState, createState } from "../../controller/core/state.js";
import { step } from "../../controller/core/step.js";
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
  stepped(controller: SimController): void;
}

const RENEW_MS = 1_000;
export const SIM_VERSION = "1.0.0";

interface AgentStream {
  from: Session;
  link: AgentLink;
}

/** A controller process: the real core in the thinnest possible shell. */
export class SimController {
  readonly id: string;
  alive = true;
  /** Null: does not lead. */
  core: CoreState | null = null;
  /** Answers to requests, by request id. */
  readonly #scheduler: Scheduler;
  readonly #random: Random;
  readonly #store: SimStore;
  readonly #limits: CoreLimits;
  readonly #observer: ControllerObserver;
  readonly #replies = new Map<string, (reply: Extract<Effect, { kind: "reply" }>["result"]) => void>();
  #streams = new Map<number, AgentStream>();
  #timers = new Map<string, Scheduled>();
  #sessionLast = 0;
  #fence = 0;
  #leaseEndsMs = 0;
  /** Counts processes and leaderships; what was started under another count is void. */
  #life = 0;
  /** Stopped like a process by SIGSTOP until then: nothing runs, the world goes on. */
  #pausedUntilMs = Number.NEGATIVE_INFINITY;

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
    this.#store = options.store;
    this.#limits = options.limits;
    this.#observer = options.observer;
    this.#campaign(this.#life);
  }

  get leads(): boolean {
    return this.alive && this.core?.leader?.ready === true;
  }

  crash(): void {
    if (!this.alive) return;
    this.alive = false;
    this.#endLife();
    for (const { link } of this.#streams.values()) link.close("controller", "controller ended");
    this.#streams.clear();
    this.#replies.clear();
  }

  restart(): void {
    if (this.alive) return;
    this.alive = true;
    this.#pausedUntilMs = Number.NEGATIVE_INFINITY;
    this.#campaign(this.#life);
  }

  pause(ms: number): void {
    this.#pausedUntilMs = this.#scheduler.nowMs + ms;
  }

  request(
    event: Extract<Event, { requestId: string }>,
    answer: (reply: Extract<Effect, { kind: "reply" }>["result"]) => void,
  ): void {
    this.#replies.set(event.requestId, answer);
    this.#feed(event);
  }

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
    const life = this.#life;
    const wakeMs = this.#pausedUntilMs + (what === "timer" ? 0 : 1);
    const waitMs = wakeMs - this.#scheduler.nowMs;
    if (waitMs < 0) run();
    else this.#scheduler.after(waitMs, () => this.alive && this.#life === life && run());
  }

  #feed(event: Event): void {
    if (!this.alive || this.core === null) return;
    this.#observer.event(this, event);
    const effects = step(this.core, event, this.#scheduler.nowMs);
    this.#observer.stepped(this);
    this.#carryOut(effects);
  }

  #carryOut(effects: readonly Effect[]): void {
    for (const effect of effects) {
      this.#observer.effect(this, effect);
      this.#carryOutOne(effect);
    }
  }

  #carryOutOne(effect: Effect): void {
    const life = this.#life;
    const stillHere = (run: () => void) => this.#whenAwake(() => this.#life === life && run());
    switch (effect.kind) {
      case "persist":
        this.#store.transact(this.id, { fence: this.#fence, ...effect }, (outcome) =>
          stillHere(() => this.#feed({ kind: "persisted", id: effect.id, outcome })),
        );
        return;
      case "read":
        this.#store.read(this.id, effect.keys, (entries) =>
          stillHere(() => this.#feed({ kind: "read", id: effect.id, entries })),
        );
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
        this.#timers.set(
          effect.timer,
          this.#scheduler.at(effect.atMs, () =>
            this.#whenAwake(() => this.#fire(effect.timer, life), "timer"),
          ),
        );
        return;
      case "cancelTimer":
        this.#dropTimer(effect.timer);
        return;
      case "reply":
        this.#replies.get(effect.requestId)?.(effect.result);
        this.#replies.delete(effect.requestId);
        return;
      case "resign":
        this.#store.resign(this.id);
        this.#loseLead();
        return;
      case "log":
      case "step":
      case "observe":
        return;
    }
  }

  #fire(timer: string, life: number): void {
    if (this.#life === life) this.#feed({ kind: "timerFired", timer });
  }

  #dropTimer(timer: string): void {
    const armed = this.#timers.get(timer);
    if (armed) armed.run = null;
    this.#timers.delete(timer);
  }

  /** Asks for the lease again and again; reads everything once it is won. */
  #campaign(life: number): void {
    if (!this.alive || this.#life !== life) return;
    const askedMs = this.#scheduler.nowMs;
    this.#store.campaign(this.id, (fence) =>
      this.#whenAwake(() => {
        if (this.#life !== life || !this.alive) return;
        if (fence === null) this.#scheduler.after(this.#random.between(300, 900), () => this.#campaign(life));
        else this.#win(life, fence, askedMs);
      }),
    );
  }

  #win(life: number, fence: number, askedMs: number): void {
    this.#fence = fence;
    this.#leaseEndsMs = askedMs + LEASE_TTL_MS;
    this.#store.list(this.id, (records) =>
      this.#whenAwake(() => {
        if (this.#life !== life || !this.alive) return;
        if (records === null) {
          this.#campaign(life);
          return;
        }
        this.core = createState({ limits: this.#limits, version: SIM_VERSION, chooseLayout });
        this.#renew(life);
        this.#feed({ kind: "leadershipGained", controllerId: this.id, records });
      }),
    );
  }

  /** Renews the lease; without an answer in time this controller stops leading by its own clock. */
  #renew(life: number): void {
    if (this.#life !== life || !this.alive) return;
    if (this.#scheduler.nowMs >= this.#leaseEndsMs) {
      this.#loseLead();
      return;
    }
    const askedMs = this.#scheduler.nowMs;
    this.#store.campaign(this.id, (fence) =>
      this.#whenAwake(() => {
        if (this.#life === life && fence === this.#fence) this.#leaseEndsMs = askedMs + LEASE_TTL_MS;
      }),
    );
    this.#scheduler.after(RENEW_MS, () => this.#whenAwake(() => this.#renew(life)));
  }

  #loseLead(): void {
    if (this.core === null) return;
    this.#feed({ kind: "leadershipLost", reason: "the lease ended" });
    this.#endLife();
    for (const { link } of this.#streams.values())
      this.#refuse(link, "NOT_LEADER", "this controller does not lead");
    this.#streams.clear();
    this.#scheduler.after(this.#random.between(500, 1_500), () => this.#campaign(this.#life));
  }

  #endLife(): void {
    this.#life += 1;
    this.core = null;
    for (const timer of [...this.#timers.keys()]) this.#dropTimer(timer);
  }
}
