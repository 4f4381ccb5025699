import { randomUUID } from "node:crypto";
import type { Logger } from "pino";
import type { StepCompleted } from "../../gen/goku/v1/agent.pb.js";
import type { AuditEntry } from "../../gen/goku/v1/controller.pb.js";
import { GokuError } from "../../job/errors.js";
import { AgentSessions } from "../api/agent_sessions.js";
import type { AsOf } from "../api/as_of.js";
import { auditText } from "../api/audit.js";
import { type LeaderAddresses, NotLeaderError } from "../api/not_leader_error.js";
import type { Command, DurableEntry, Effect, Event, Reply } from "../core/contract.js";
import { type CoreConfig, type CoreState, createState } from "../core/state.js";
import { step } from "../core/step.js";
import type { Clock } from "../store/clock.js";
import type { Store } from "../store/store.js";
import { EventLog } from "./event_log.js";
import { findCommitted } from "./find_committed.js";
import { HistoryKeeper } from "./history_keeper.js";
import type { LeaderRecord } from "./leader_record.js";
import { LEADER_KEY, Leadership } from "./leadership.js";
import type { Metrics } from "./metrics.js";
import { PeerSecrets } from "./peer_secrets.js";
import { RankLogs } from "./rank_logs.js";
import { decodeEntry, encodeRecord, KEY_PREFIX } from "./records.js";
import { showState } from "./show_state.js";
import { steadyNowMs } from "./steady_clock.js";
import { Timers } from "./timers.js";
import { TrainingHistory } from "./training_history.js";

/** What there is to read: the state of a leader, or as it was when this controller last led. */
export interface Seen {
  state: CoreState;
  /** Of when it is. */
  atMs: number;
  /** Null: of now. */
  asOf: AsOf | null;
}

/** The parts a running controller is made of. */
export interface ShellOptions {
  store: Store;
  clock: Clock;
  /** For how long the store keeps the leadership of a controller that has gone. */
  leaseMs: number;
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
  readonly events = new EventLog(steadyNowMs());
  readonly logs = new RankLogs();
  readonly histories = new Map<string, TrainingHistory>();
  readonly #keeper: HistoryKeeper;
  readonly #peerSecrets = new PeerSecrets();
  readonly #options: ShellOptions;
  readonly #leadership: Leadership<DurableEntry[]>;
  readonly #timers = new Timers((timer) => this.#submit({ kind: "timerFired", timer }));
  readonly #requests = new Map<string, (reply: Reply) => void>();
  readonly #controllerId = randomUUID();
  #queue: Event[] = [];
  #draining = false;
  #fence: bigint | null = null;
  /** Why this controller does not lead. */
  #standing = "this controller does not lead yet";
  /** The controller that leads instead, as far as known. */
  #other: LeaderRecord | null = null;
  readonly #onOther = new Set<(error: NotLeaderError) => void>();
  /** Since when the store has not answered; null: it does. */
  #troubledMs: number | null = null;
  /** How things stood when the lease ran out, until this controller leads again or another one does. */
  #remembered: { state: CoreState; atMs: number } | null = null;
  #stopping = false;

  constructor(options: ShellOptions) {
    this.#options = options;
    this.state = createState(options.config);
    const { store, clock, log } = options;
    this.#keeper = new HistoryKeeper({
      ...{ store, clock, log, histories: this.histories, events: this.events },
      isKnown: (jobId) => this.state.jobs.has(jobId),
    });
    options.metrics.onScrape((metrics) => showState(metrics, this.state, this.nowMs()));
    this.sessions = new AgentSessions({
      onMessage: (from, message) => {
        if (message.$case === "rankLog") this.#keepLog(from.nodeId, message.value);
        this.#submit({ kind: "agentMessage", from, message });
      },
      onGone: (from, reason) => this.#submit({ kind: "agentDisconnected", from, reason }),
      refusal: () => (this.#fence === null ? this.notLeader("serve agents") : null),
    });
    this.#leadership = new Leadership({
      store,
      clock,
      controllerId: this.#controllerId,
      leaseMs: options.leaseMs,
      callbacks: {
        onWon: async () => {
          await this.#peerSecrets.load(store);
          await this.#keeper.read();
          return (await store.list(KEY_PREFIX)).map(decodeEntry);
        },
        onGained: (fence, records) => this.#lead(fence, records),
        onLost: (reason) => this.#follow(reason),
        onFailed: (error) => this.#storeFailed(error),
        onAnswered: () => this.#storeAnswered(),
        onOther: (leader) => this.#seeOther(leader),
      },
    });
  }

  /**
   * Resolves after the first try to lead, throws when it failed; a standby goes on trying.
   * @param addresses where this controller is reached from elsewhere; null: not known
   */
  start(addresses: LeaderAddresses | null): Promise<void> {
    return this.#leadership.start(addresses);
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#keeper.flush();
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
      case "findCheckpoints":
        void this.#findCheckpoints(effect);
        return;
      case "send":
        this.sessions.send(effect.session, {
          term: BigInt(effect.term),
          commandId: BigInt(effect.commandId),
          message: this.#sealed(effect.message),
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

  /** With what the core knows nothing of: the secret of its job or collective, the last steps of the job. */
  #sealed(message: Command): Command {
    if (message.$case === "prepare") {
      const { value } = message;
      const peerSecret = this.#peerSecrets.of(value.jobId);
      const history = value.ranks.includes(0) ? this.histories.get(value.jobId) : undefined;
      return { $case: "prepare", value: { ...value, peerSecret, recentSteps: history?.recentSteps() ?? [] } };
    }
    if (message.$case === "selfCheckConnect") {
      const { value } = message;
      return {
        $case: "selfCheckConnect",
        value: { ...value, secret: this.#peerSecrets.ofCheck(value.group) },
      };
    }
    return message;
  }

  /** Into the log that leaves this process, and into the one that people follow. */
  audit(entry: AuditEntry, job: string): void {
    const text = auditText(entry);
    const level = entry.outcome === "DONE" ? "info" : "warn";
    this.#options.log[level]({ type: "audit", job: job || null, audit: entry }, text);
    this.#options.metrics.audited(entry);
    this.events.add({ timeMs: this.nowMs(), job, kind: "audit", message: text, audit: entry });
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
    const begun = performance.now();
    const outcome = await this.#options.store
      .transact([{ key: LEADER_KEY, createRevision: fence }, ...compares], writes)
      .catch((error: Error) => ({ kind: "unknown", reason: error.message }) as const);
    this.#options.metrics.storeAnswered("transact", outcome.kind, (performance.now() - begun) / 1000);
    if (this.#fence !== fence) return;
    this.#submit({
      kind: "persisted",
      id: effect.id,
      outcome: outcome.kind === "refused" ? { kind: "refused" } : outcome,
    });
  }

  async #read(effect: Extract<Effect, { kind: "read" }>): Promise<void> {
    const fence = this.#fence;
    const begun = performance.now();
    const entries = await this.#readAll(effect.keys).catch(() => null);
    const outcome = entries === null ? "unknown" : "read";
    this.#options.metrics.storeAnswered("read", outcome, (performance.now() - begun) / 1000);
    if (this.#fence === fence) this.#submit({ kind: "read", id: effect.id, entries });
  }

  async #findCheckpoints({ jobId, generation, uri, known }: Extract<Effect, { kind: "findCheckpoints" }>) {
    const fence = this.#fence;
    const answer = await findCommitted(uri, known).then(
      (listed) => ({ ...listed, reason: "" }),
      (error: Error) => ({ found: null, gone: [], reason: error.message }),
    );
    if (this.#fence === fence) this.#submit({ kind: "checkpointsFound", jobId, generation, ...answer });
  }

  async #readAll(keys: readonly string[]): Promise<DurableEntry[]> {
    const entries: DurableEntry[] = [];
    for (const key of keys) {
      const entry = await this.#options.store.get(KEY_PREFIX + key);
      if (entry !== null) entries.push(decodeEntry(entry));
    }
    return entries;
  }

  /** Said once, however long it lasts. */
  #storeFailed(error: Error): void {
    this.#options.metrics.storeFailed();
    if (this.#fence === null) {
      this.#standing = `this controller does not lead: ${error.message}`;
      this.#other = null; // who led may be anyone by now
    }
    if (this.#troubledMs !== null) return;
    this.#troubledMs = this.nowMs();
    this.#tellStore("error", `${error.message}; goes on trying, training goes on meanwhile`);
  }

  #storeAnswered(): void {
    if (this.#fence === null) this.#standing = otherText(this.#other);
    if (this.#troubledMs === null) return;
    const seconds = ((this.nowMs() - this.#troubledMs) / 1000).toFixed(1);
    this.#troubledMs = null;
    this.#tellStore("info", `the store answers again after ${seconds} s`);
  }

  #tellStore(level: "error" | "info", message: string): void {
    this.#options.log[level](message);
    this.events.add({ timeMs: this.nowMs(), job: "", kind: "alarm", message });
  }

  #seeOther(leader: LeaderRecord | null): void {
    const before = this.#other;
    this.#other = leader;
    if (leader === null || leader.controllerId === before?.controllerId) return;
    this.#remembered = null; // it knows better
    this.#standing = otherText(leader);
    for (const callback of [...this.#onOther]) callback(this.notLeader("go on"));
  }

  /** Calls back when another controller is seen to lead, until the returned function is called. */
  onOtherLeads(callback: (error: NotLeaderError) => void): () => void {
    this.#onOther.add(callback);
    return () => void this.#onOther.delete(callback);
  }

  /** Why this controller does not lead; for those who ask it all the same. */
  get standing(): string {
    return this.#standing;
  }

  /** Null: this controller does not lead, and remembers nothing that could still be so. */
  get seen(): Seen | null {
    if (this.state.leader?.ready) return { state: this.state, atMs: this.nowMs(), asOf: null };
    if (this.#remembered === null) return null;
    const { state, atMs } = this.#remembered;
    return { state, atMs, asOf: { atMs, storeSilentMs: this.#troubledMs } };
  }

  /** The same as an error, which names who leads where that is known. */
  notLeader(action: string): NotLeaderError {
    return new NotLeaderError(`Cannot ${action}: ${this.#standing}`, this.#other?.addresses ?? null);
  }

  #lead(fence: bigint, records: DurableEntry[]): void {
    this.#fence = fence;
    this.#other = null;
    this.#standing = "this controller's term is not durable yet";
    this.#options.metrics.leads(true);
    this.#options.log.info({ records: records.length }, "leading");
    this.#keeper.begin(fence, this.nowMs());
    this.#submit({ kind: "leadershipGained", controllerId: this.#controllerId, records });
  }

  #follow(reason: string): void {
    this.#fence = null;
    this.#keeper.end();
    const { leader } = this.state;
    // A core that resigned has forgotten already: the store held what it did not know.
    if (leader === null || this.#stopping) this.#remembered = null;
    else if (leader.ready) this.#remembered = { state: { ...this.state }, atMs: this.nowMs() };
    this.#standing = `this controller does not lead any more: ${reason}`;
    this.#options.metrics.leads(false);
    this.#keepMetricsOf(new Set()); // from now on another controller tells of jobs
    this.#options.log.warn(`leadership lost: ${reason}`);
    this.#submit({ kind: "leadershipLost", reason });
    this.sessions.refuseAll(this.notLeader("serve agents"));
    this.#timers.cancelAll();
    for (const answer of this.#requests.values())
      answer({ ok: false, code: "NOT_LEADER", message: `Cannot answer: ${reason}` });
    this.#requests.clear();
  }

  /** Resolves when the core has answered the event; throws what it refuses with. */
  async request(makeEvent: (requestId: string) => Event): Promise<Reply & { ok: true }> {
    if (this.#fence === null) throw this.notLeader("answer");
    const requestId = randomUUID();
    const reply = await new Promise<Reply>((resolve) => {
      this.#requests.set(requestId, resolve);
      this.#submit(makeEvent(requestId));
    });
    if (!reply.ok) throw new GokuError(reply.code, reply.message);
    return reply;
  }

  /** News that nobody waits for an answer to; dropped where this controller does not lead. */
  tell(event: Event & { kind: "nodeFate" | "nodeDomain" }): void {
    if (this.#fence !== null) this.#submit(event);
  }

  #keepStep(effect: Extract<Effect, { kind: "step" }>): void {
    let history = this.histories.get(effect.jobId);
    if (!history) {
      // Those of jobs that the core has forgotten go when a new one comes.
      for (const jobId of this.histories.keys())
        if (!this.state.jobs.has(jobId)) this.histories.delete(jobId);
      this.#keepMetricsOf(new Set([...this.state.jobs.values()].map(({ record }) => record.job.name)));
      history = new TrainingHistory();
      this.histories.set(effect.jobId, history);
    }
    if (history.knows(effect.step)) return;
    history.add(effect.step, this.nowMs());
    const job = this.jobName(effect.jobId);
    this.#options.metrics.step(job, effect.step);
    this.events.add({
      timeMs: this.nowMs(),
      job,
      kind: "step",
      message: stepText(effect.step),
      step: effect.step,
    });
  }

  #keepMetricsOf(names: ReadonlySet<string>): void {
    const { metrics, log } = this.#options;
    metrics.keepJobs(names).catch((error: unknown) => log.error(error, "metrics"));
  }

  #keepLog(nodeId: string, log: { rank: number; lines: string[] }): void {
    const jobId = this.state.nodes.get(nodeId)?.jobId;
    if (jobId) this.logs.add(jobId, log.rank, log.lines, this.nowMs());
  }

  /** The job's id where it is not known (any more); empty for none. */
  jobName(jobId: string | null, { jobs } = this.state): string {
    return jobId === null ? "" : (jobs.get(jobId)?.record.job.name ?? jobId);
  }

  /** Time of every event; never goes back. */
  nowMs(): number {
    return steadyNowMs();
  }
}

function otherText(other: LeaderRecord | null): string {
  if (other === null) return "no controller leads just now";
  const { addresses } = other;
  return `another controller leads${addresses === null ? "" : `, at ${addresses.grpc}`}`;
}

/** What was told of a step; a program of its own may tell less. */
function stepText({ step, loss, gradNorm, stepSeconds, applied }: StepCompleted): string {
  const parts = [
    ...(loss === undefined ? [] : [`loss ${loss.toPrecision(5)}`]),
    ...(gradNorm === undefined ? [] : [`gradient norm ${gradNorm.toPrecision(3)}`]),
    `${stepSeconds.toFixed(3)} s${applied ? "" : ", voted down"}`,
  ];
  return `step ${step}: ${parts.join(", ")}`;
}
