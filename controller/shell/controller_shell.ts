import { randomUUID } from "node:crypto";
import type { Logger } from "pino";
import { listCheckpoints, openCheckpoint } from "../../checkpoint/load.js";
import type {
  CheckpointRecord,
  Incident,
  JobStatus,
  LogLine,
  NodeStatus,
  StepPoint,
  WatchEventsResponse,
} from "../../gen/goku/v1/controller.pb.js";
import { GokuError } from "../../job/errors.js";
import type { Job } from "../../job/job.js";
import { resolveJob } from "../../job/load_job.js";
import { AgentSessions } from "../api/agent_sessions.js";
import type { ControllerApi } from "../api/controller_api.js";
import type {
  CheckpointSource,
  DurableEntry,
  DurableRecord,
  Effect,
  Event,
  Reply,
} from "../core/contract.js";
import { type CoreConfig, type CoreState, createState } from "../core/state.js";
import { step } from "../core/step.js";
import { type JobView, jobView, jobViews, nodeViews } from "../core/views.js";
import type { Clock } from "../store/clock.js";
import type { Store } from "../store/store.js";
import { EventLog } from "./event_log.js";
import { LEADER_KEY, Leadership } from "./leadership.js";
import type { Metrics } from "./metrics.js";
import { RankLogs } from "./rank_logs.js";
import { Timers } from "./timers.js";
import { TrainingHistory } from "./training_history.js";
import { checkpointMessages, incidentMessage, jobStatus, nodeStatus } from "./views.js";

const KEY_PREFIX = "goku/core/";
const TERMINAL: ReadonlySet<JobView["phase"]> = new Set(["COMPLETED", "STOPPED", "FAILED"]);

/** The parts a running controller is made of. */
export interface ShellOptions {
  store: Store;
  clock: Clock;
  config: CoreConfig;
  metrics: Metrics;
  log: Logger;
}

/**
 * The thin shell around the core: one queue of events, the effects carried out in order, nothing decided.
 * Effects that wait (store) come back as events; a reply ends the request that asked.
 */
export class ControllerShell implements ControllerApi {
  readonly sessions: AgentSessions;
  readonly #options: ShellOptions;
  readonly #state: CoreState;
  readonly #leadership: Leadership;
  readonly #timers = new Timers((timer) => this.#submit({ kind: "timerFired", timer }));
  readonly #events = new EventLog(Date.now());
  readonly #logs = new RankLogs();
  readonly #histories = new Map<string, TrainingHistory>();
  readonly #requests = new Map<string, (reply: Reply) => void>();
  readonly #controllerId = randomUUID();
  #queue: Event[] = [];
  #draining = false;
  #fence: bigint | null = null;
  #nowMs = 0;

  constructor(options: ShellOptions) {
    this.#options = options;
    this.#state = createState(options.config);
    this.sessions = new AgentSessions({
      onMessage: (from, message) => {
        if (message.$case === "rankLog") this.#keepLog(from.nodeId, message.value);
        this.#submit({ kind: "agentMessage", from, message });
      },
      onGone: (from, reason) => this.#submit({ kind: "agentDisconnected", from, reason }),
      refusal: () =>
        this.#fence === null
          ? {
              error: {
                code: "NOT_LEADER",
                message: "Cannot serve agents: this controller does not lead",
                operation: "",
                peer: undefined,
              },
              leader: "",
            }
          : null,
    });
    this.#leadership = new Leadership({
      store: options.store,
      clock: options.clock,
      controllerId: this.#controllerId,
      callbacks: { onGained: (fence) => this.#lead(fence), onLost: (reason) => this.#follow(reason) },
    });
  }

  /** Resolves after the first try to lead; a standby goes on trying. */
  start(): Promise<void> {
    return this.#leadership.start();
  }

  async stop(): Promise<void> {
    await this.#leadership.stop();
    this.#timers.cancelAll();
  }

  // --- requests -----------------------------------------------------------------------------------------------------

  async submitJob(job: unknown, resumeUri: string | null): Promise<JobStatus> {
    const resolved = resolveJob(job);
    const source = resumeUri === null ? null : await checkpointSource(resumeUri);
    const entries = await listCheckpoints(resolved.checkpoint.uri);
    const generations = entries.map((entry) => Number(entry.state.generation));
    const found = { count: entries.length, generationHighest: Math.max(0, ...generations) };
    const reply = await this.#request((requestId) => ({
      kind: "jobSubmitted",
      requestId,
      jobId: randomUUID(),
      job: resolved,
      source,
      found,
    }));
    return this.#status(jobView(this.#state, reply.jobId)!);
  }

  listJobs(): JobStatus[] {
    return jobViews(this.#state).map((view) => this.#status(view));
  }

  getJob(name: string): { status: JobStatus; spec: Job; history: StepPoint[] } {
    const job = this.#find(name);
    const points = this.#histories.get(job.record.jobId)?.points() ?? [];
    return {
      status: this.#status(job),
      spec: job.record.job,
      history: points.map((p) => ({ step: BigInt(p.step), loss: p.loss })),
    };
  }

  async stopJob(name: string): Promise<JobStatus> {
    const { jobId } = this.#find(name).record;
    await this.#request((requestId) => ({ kind: "stopRequested", requestId, jobId, force: false }));
    return this.#status(jobView(this.#state, jobId)!);
  }

  async saveJob(name: string): Promise<void> {
    const { jobId } = this.#find(name).record;
    await this.#request((requestId) => ({ kind: "saveRequested", requestId, jobId }));
  }

  listNodes(): NodeStatus[] {
    return nodeViews(this.#state, this.#now()).map((view) => nodeStatus(view, this.#jobName(view.jobId)));
  }

  listCheckpoints(name: string): CheckpointRecord[] {
    return checkpointMessages(this.#find(name));
  }

  listIncidents(name: string): Incident[] {
    const job = this.#find(name);
    return job.incidents.map((incident) => incidentMessage(incident, job.record.job.name));
  }

  logs(name: string, rank: number | null, limit: number): LogLine[] {
    return this.#logs.last(this.#find(name).record.jobId, rank, limit);
  }

  pastEvents(job: string, afterId: bigint): WatchEventsResponse[] {
    return this.#events.past(job, afterId);
  }

  onEvent(callback: (event: WatchEventsResponse) => void): () => void {
    return this.#events.listen(callback);
  }

  isOver(name: string): boolean {
    return TERMINAL.has(this.#find(name).phase);
  }

  isReady(): boolean {
    return this.#state.leader?.ready ?? false;
  }

  // --- the loop -----------------------------------------------------------------------------------------------------

  /** Events are handled one after another, also those that effects cause at once. */
  #submit(event: Event): void {
    this.#queue.push(event);
    if (this.#draining) return;
    this.#draining = true;
    try {
      for (let next = this.#queue.shift(); next; next = this.#queue.shift()) {
        for (const effect of step(this.#state, next, this.#now())) this.#perform(effect);
      }
    } finally {
      this.#draining = false;
    }
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
        this.#events.add({ timeMs: this.#now(), job: this.#jobName(jobId), kind: type, message: text });
        return;
      }
      case "step":
        this.#keepStep(effect);
        return;
      case "armTimer":
        this.#timers.arm(effect.timer, effect.atMs - this.#now());
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

  /** Every write also compares the leader key, so that a deposed leader writes nothing. */
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
    this.#submit({
      kind: "persisted",
      id: effect.id,
      outcome: outcome.kind === "refused" ? { kind: "refused" } : outcome,
    });
  }

  async #read(effect: Extract<Effect, { kind: "read" }>): Promise<void> {
    try {
      const entries: DurableEntry[] = [];
      for (const key of effect.keys) {
        const entry = await this.#options.store.get(KEY_PREFIX + key);
        if (entry) entries.push({ key, modRevision: entry.modRevision, record: decodeRecord(entry.value) });
      }
      this.#submit({ kind: "read", id: effect.id, entries });
    } catch {
      this.#submit({ kind: "read", id: effect.id, entries: null });
    }
  }

  async #lead(fence: bigint): Promise<void> {
    const entries = await this.#options.store.list(KEY_PREFIX);
    this.#fence = fence;
    const records = entries.map(({ key, modRevision, value }) => ({
      key: key.slice(KEY_PREFIX.length),
      modRevision,
      record: decodeRecord(value),
    }));
    this.#options.log.info({ records: records.length }, "leading");
    this.#submit({ kind: "leadershipGained", controllerId: this.#controllerId, records });
  }

  #follow(reason: string): void {
    this.#fence = null;
    this.#options.log.warn(`leadership lost: ${reason}`);
    this.#submit({ kind: "leadershipLost", reason });
    this.sessions.refuseAll(
      { code: "NOT_LEADER", message: `Cannot serve agents: ${reason}`, operation: "", peer: undefined },
      "",
    );
    this.#timers.cancelAll();
    for (const answer of this.#requests.values())
      answer({ ok: false, code: "NOT_LEADER", message: `Cannot answer: ${reason}` });
    this.#requests.clear();
  }

  async #request(makeEvent: (requestId: string) => Event): Promise<Reply & { ok: true }> {
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
    let history = this.#histories.get(effect.jobId);
    if (!history) {
      history = new TrainingHistory();
      this.#histories.set(effect.jobId, history);
    }
    history.add(effect.step, this.#now());
    const job = this.#jobName(effect.jobId);
    this.#options.metrics.step(job, effect.step);
    const { step: number, loss, gradNorm, stepSeconds, applied } = effect.step;
    const message = `step ${number}: loss ${loss.toPrecision(5)}, gradient norm ${gradNorm.toPrecision(3)}, ${stepSeconds.toFixed(3)} s${applied ? "" : ", voted down"}`;
    this.#events.add({ timeMs: this.#now(), job, kind: "step", message, step: effect.step });
  }

  #keepLog(nodeId: string, log: { rank: number; lines: string[] }): void {
    const jobId = this.#state.nodes.get(nodeId)?.jobId;
    if (jobId) this.#logs.add(jobId, log.rank, log.lines, this.#now());
  }

  /** The newest job of that name; the newest of all when the name is empty. */
  #find(name: string): JobView {
    const jobs = jobViews(this.#state);
    const found = jobs.filter((job) => name === "" || job.record.job.name === name).at(-1);
    if (found) return found;
    const known = [...new Set(jobs.map((job) => job.record.job.name))].slice(-5);
    const have = known.length === 0 ? "no job has been submitted" : `known are ${known.join(", ")}`;
    throw new GokuError(
      "NOT_FOUND",
      name === "" ? `Cannot find a job: ${have}` : `Cannot find job "${name}": ${have}`,
    );
  }

  #status(view: JobView): JobStatus {
    return jobStatus(view, this.#histories.get(view.record.jobId));
  }

  #jobName(jobId: string | null): string {
    return jobId === null ? "" : (this.#state.jobs.get(jobId)?.record.job.name ?? jobId);
  }

  /** Wall-clock milliseconds that never go back. */
  #now(): number {
    this.#nowMs = Math.max(this.#nowMs, Date.now());
    return this.#nowMs;
  }
}

async function checkpointSource(uri: string): Promise<CheckpointSource> {
  const checkpoint = await openCheckpoint(uri);
  const { generation, step: number } = checkpoint.meta.state;
  return { uri: checkpoint.uri, state: { generation: Number(generation), step: number } };
}

function encodeRecord(record: DurableRecord): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(record));
}

function decodeRecord(bytes: Uint8Array): DurableRecord {
  return JSON.parse(new TextDecoder().decode(bytes)) as DurableRecord;
}
