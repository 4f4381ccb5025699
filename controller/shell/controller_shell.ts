import { randomUUID } from "node:crypto";
import type { Logger } from "pino";
import type { ErrorDetail } from "../../gen/goku/v1/common.pb.js";
import { GokuError } from "../../job/errors.js";
import { AgentSessions } from "../api/agent_sessions.js";
import type { DurableEntry, Effect, Event, Reply } from "../core/contract.js";
import { type CoreConfig, type CoreState, createState } from "../core/state.js";
import { step } from "../core/step.js";
import type { Clock } from "../store/clock.js";
import type { Store } from "../store/store.js";
import { EventLog } from "./event_log.js";
import { LEADER_KEY, Leadership } from "./leadership.js";
import type { Metrics } from "./metrics.js";
import { RankLogs } from "./rank_logs.js";
import { decodeEntry, encodeRecord, KEY_PREFIX } from "./records.js";
import { Timers } from "./timers.js";
import { TrainingHistory } from "./training_history.js";

/** The parts a running controller is made of. */
export interface ShellOptions {
  store: Store;
  clock: Clock;
  config: CoreConfig;
  metrics: Metrics;
  log: Logger;
  /** The core threw: its state may have changed half way, nothing more is done with it. The process must end. */
  onBroken(error: Error): void;
}

/**
 * The thin shell around the core: one queue of events, the effects carried out in order, nothing decided.
 * Effects that wait (store) come back as events; a reply ends the request that asked.
 */
export class ControllerShell {
  readonly sessions: AgentSessions;
  /** Read, never changed, by those who answer questions. */
  readonly state: CoreState;
  readonly events = new EventLog(Date.now());
  readonly logs = new RankLogs();
  readonly histories = new Map<string, TrainingHistory>();
  readonly #options: ShellOptions;
  readonly #leadership: Leadership<DurableEntry[]>;
  readonly #timers = new Timers((timer) => this.#submit({ kind: "timerFired", timer }));
  readonly #requests = new Map<string, (reply: Reply) => void>();
  readonly #controllerId = randomUUID();
  #queue: Event[] = [];
  #draining = false;
  #fence: bigint | null = null;
  #nowMs = 0;

  constructor(options: ShellOptions) {
    this.#options = options;
    this.state = createState(options.config);
    this.sessions = new AgentSessions({
      onMessage: (from, message) => {
        if (message.$case === "rankLog") this.#keepLog(from.nodeId, message.value);
        this.#submit({ kind: "agentMessage", from, message });
      },
      onGone: (from, reason) => this.#submit({ kind: "agentDisconnected", from, reason }),
      refusal: () => (this.#fence === null ? notLeading("this controller does not lead") : null),
    });
    this.#leadership = new Leadership({
      store: options.store,
      clock: options.clock,
      controllerId: this.#controllerId,
      callbacks: {
        onWon: async () => (await options.store.list(KEY_PREFIX)).map(decodeEntry),
        onGained: (fence, records) => this.#lead(fence, records),
        onLost: (reason) => this.#follow(reason),
        onFailed: (error) => options.log.error(`leadership: ${error.message}`),
      },
    });
  }

  /** Resolves after the first try to lead, throws when it failed; a standby goes on trying. */
  start(): Promise<void> {
    return this.#leadership.start();
  }

  async stop(): Promise<void> {
    await this.#leadership.stop();
    this.#timers.cancelAll();
  }

  /** Events are handled one after another, also those that effects cause at once. */
  #submit(event: Event): void {
    this.#queue.push(event);
    if (this.#draining) return;
    this.#draining = true;
    try {
      for (let next = this.#queue.shift(); next; next = this.#queue.shift()) {
        for (const effect of step(this.state, next, this.nowMs())) this.#perform(effect);
      }
    } catch (error) {
      this.#options.onBroken(error as Error); // still draining: no event is handled any more
      return;
    }
    this.#draining = false;
  }

  #perform(effect: Effect): void {
    switch (effect.kind) {
      case "persist":
        void this.#persist(effect);
        return;
      case "read":
        void this.#read(effect);
        return;
      case "send":
        this.sessions.send(effect.session, {
          term: BigInt(effect.term),
          commandId: BigInt(effect.commandId),
          message: effect.message,
        });
        return;
      case "refuse":
        this.sessions.refuse(effect.session, effect.error);
        return;
      case "reply":
        this.#requests.get(effect.requestId)?.(effect.result);
        this.#requests.delete(effect.requestId);
        return;
      case "log": {
        const { level, type, jobId, nodeId, text } = effect.entry;
        const write = { info: "info", warning: "warn", alarm: "error" } as const;
        this.#options.log[write[level]]({ type, job: jobId, node: nodeId }, text);
        this.events.add({ timeMs: this.nowMs(), job: this.jobName(jobId), kind: type, message: text });
        return;
      }
      case "step":
        this.#keepStep(effect);
        return;
      case "armTimer":
        this.#timers.arm(effect.timer, effect.atMs - this.nowMs());
        return;
      case "cancelTimer":
        this.#timers.cancel(effect.timer);
        return;
      case "observe":
        this.#options.metrics.observe(effect.metric, effect.value, effect.labels);
        return;
      case "resign":
        void this.#leadership.resign(effect.reason);
        return;
    }
  }

  /**
   * Every write also compares the leader key, so that a deposed leader writes nothing. An answer that comes after the
   * leadership that asked is dropped: the core of the next one counts its transactions anew.
   */
  async #persist(effect: Extract<Effect, { kind: "persist" }>): Promise<void> {
    const fence = this.#fence;
    if (fence === null) return;
    const compares = effect.compares.map(({ key, modRevision }) => ({ key: KEY_PREFIX + key, modRevision }));
    const writes = effect.writes.map(({ key, record }) =>
      record === null
        ? ({ kind: "delete", key: KEY_PREFIX + key } as const)
        : ({ kind: "put", key: KEY_PREFIX + key, value: encodeRecord(record) } as const),
    );
    const outcome = await this.#options.store
      .transact([{ key: LEADER_KEY, createRevision: fence }, ...compares], writes)
      .catch((error: Error) => ({ kind: "unknown", reason: error.message }) as const);
    if (this.#fence !== fence) return;
    this.#submit({
      kind: "persisted",
      id: effect.id,
      outcome: outcome.kind === "refused" ? { kind: "refused" } : outcome,
    });
  }

  async #read(effect: Extract<Effect, { kind: "read" }>): Promise<void> {
    const fence = this.#fence;
    const entries = await this.#readAll(effect.keys).catch(() => null);
    if (this.#fence === fence) this.#submit({ kind: "read", id: effect.id, entries });
  }

  async #readAll(keys: readonly string[]): Promise<DurableEntry[]> {
    const entries: DurableEntry[] = [];
    for (const key of keys) {
      const entry = await this.#options.store.get(KEY_PREFIX + key);
      if (entry !== null) entries.push(decodeEntry(entry));
    }
    return entries;
  }

  #lead(fence: bigint, records: DurableEntry[]): void {
    this.#fence = fence;
    this.#options.log.info({ records: records.length }, "leading");
    this.#submit({ kind: "leadershipGained", controllerId: this.#controllerId, records });
  }

  #follow(reason: string): void {
    this.#fence = null;
    this.#options.log.warn(`leadership lost: ${reason}`);
    this.#submit({ kind: "leadershipLost", reason });
    this.sessions.refuseAll(notLeading(reason));
    this.#timers.cancelAll();
    for (const answer of this.#requests.values())
      answer({ ok: false, code: "NOT_LEADER", message: `Cannot answer: ${reason}` });
    this.#requests.clear();
  }

  /** Resolves when the core has answered the event; throws what it refuses with. */
  async request(makeEvent: (requestId: string) => Event): Promise<Reply & { ok: true }> {
    if (this.#fence === null)
      throw new GokuError("NOT_LEADER", "Cannot answer: this controller does not lead");
    const requestId = randomUUID();
    const reply = await new Promise<Reply>((resolve) => {
      this.#requests.set(requestId, resolve);
      this.#submit(makeEvent(requestId));
    });
    if (!reply.ok) throw new GokuError(reply.code, reply.message);
    return reply;
  }

  #keepStep(effect: Extract<Effect, { kind: "step" }>): void {
    let history = this.histories.get(effect.jobId);
    if (!history) {
      // Those of jobs that the core has forgotten go when a new one comes.
      for (const jobId of this.histories.keys())
        if (!this.state.jobs.has(jobId)) this.histories.delete(jobId);
      history = new TrainingHistory();
      this.histories.set(effect.jobId, history);
    }
    history.add(effect.step, this.nowMs());
    const job = this.jobName(effect.jobId);
    this.#options.metrics.step(job, effect.step);
    const { step: number, loss, gradNorm, stepSeconds, applied } = effect.step;
    const message = `step ${number}: loss ${loss.toPrecision(5)}, gradient norm ${gradNorm.toPrecision(3)}, ${stepSeconds.toFixed(3)} s${applied ? "" : ", voted down"}`;
    this.events.add({ timeMs: this.nowMs(), job, kind: "step", message, step: effect.step });
  }

  #keepLog(nodeId: string, log: { rank: number; lines: string[] }): void {
    const jobId = this.state.nodes.get(nodeId)?.jobId;
    if (jobId) this.logs.add(jobId, log.rank, log.lines, this.nowMs());
  }

  /** The job's id where it is not known (any more); empty for none. */
  jobName(jobId: string | null): string {
    return jobId === null ? "" : (this.state.jobs.get(jobId)?.record.job.name ?? jobId);
  }

  /** Wall-clock milliseconds that never go back. */
  nowMs(): number {
    this.#nowMs = Math.max(this.#nowMs, Date.now());
    return this.#nowMs;
  }
}

function notLeading(reason: string): ErrorDetail {
  return { code: "NOT_LEADER", message: `Cannot serve agents: ${reason}`, operation: "", peer: undefined };
}
