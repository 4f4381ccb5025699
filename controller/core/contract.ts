/**
 * The whole contract between the controller's core and its shell: events in, effects out, records that survive.
 *
 * The shell hands every event to `step(state, event, nowMs)` and carries out the effects in order. It never decides.
 * `nowMs` is wall-clock milliseconds that never go back while this controller leads (the shell clamps it).
 * The core holds back whatever must not happen before a write is durable, so the shell may carry out each effect at
 * once: an effect that depends on a write is emitted only after that write's `persisted` event.
 */
import type { SessionRequest, SessionResponse, StepCompleted } from "../../gen/goku/v1/agent.pb.js";
import type { ErrorDetail } from "../../gen/goku/v1/common.pb.js";
import type { ErrorCode } from "../../job/errors.js";
import type { Job } from "../../job/job.js";
import type { LayoutSize } from "../../job/layout.js";

/** Name of a training state. Order: generation first, then step (see `compareStates`). */
export interface StateName {
  generation: number;
  step: number;
}

export interface CheckpointSource {
  uri: string;
  state: StateName;
}

// ---------------------------------------------------------------------------------------------------------------------
// Events

/** One connection of one agent process. The shell numbers connections and never reuses a number. */
export interface Session {
  nodeId: string;
  incarnation: string;
  session: number;
}

export type AgentMessage = NonNullable<SessionRequest["message"]>;

export type Event =
  /** Leadership won. `records` is everything under the core's keys, read after winning. Starts a fresh state. */
  | { kind: "leadershipGained"; controllerId: string; records: DurableEntry[] }
  /** Leadership lost or given up. The core forgets everything; the shell ends all agent sessions. */
  | { kind: "leadershipLost"; reason: string }
  /** How the transaction of `persist` effect `id` ended. */
  | { kind: "persisted"; id: number; outcome: PersistOutcome }
  /** Answer to `read` effect `id`: one entry per key that exists; null: the store did not answer. */
  | { kind: "read"; id: number; entries: DurableEntry[] | null }
  /** A message of an agent. The first of every session is Hello. */
  | { kind: "agentMessage"; from: Session; message: AgentMessage }
  | { kind: "agentDisconnected"; from: Session; reason: string }
  /**
   * The job is resolved and checked by its schema; `jobId` is new and unique. `source`: checkpoint to continue from.
   * `found`: committed checkpoints that stand at job.checkpoint.uri already; `own`: `source` is one of them.
   */
  | {
      kind: "jobSubmitted";
      requestId: string;
      jobId: string;
      job: Job;
      source: CheckpointSource | null;
      found: { count: number; generationHighest: number; own: boolean };
    }
  /** Save and stop. */
  | { kind: "stopRequested"; requestId: string; jobId: string }
  | { kind: "saveRequested"; requestId: string; jobId: string }
  /** A person vouches for a quarantined node. */
  | { kind: "quarantineLifted"; requestId: string; nodeId: string }
  | { kind: "timerFired"; timer: string };

export type PersistOutcome =
  | { kind: "applied"; revision: bigint }
  | { kind: "refused" }
  /** The write may have been applied, may be applied later, or never. */
  | { kind: "unknown"; reason: string };

// ---------------------------------------------------------------------------------------------------------------------
// Effects

export type Command = NonNullable<SessionResponse["message"]>;

export type Effect =
  /**
   * One store transaction. The shell adds its own compare on the leader key, so that a deposed leader writes nothing.
   * modRevision 0n: the key must not exist. A write with `record: null` deletes. Answered by `persisted`.
   */
  | { kind: "persist"; id: number; compares: { key: string; modRevision: bigint }[]; writes: DurableWrite[] }
  /** Read these keys, linearizably. Answered by `read`. */
  | { kind: "read"; id: number; keys: string[] }
  /** Dropped by the shell when that session is gone: the core repeats commands after the next Hello. */
  | { kind: "send"; nodeId: string; session: number; term: number; commandId: number; message: Command }
  /** Send Refused on that session and end it. */
  | { kind: "refuse"; nodeId: string; session: number; error: ErrorDetail }
  /** The first reply to a request counts. */
  | { kind: "reply"; requestId: string; result: Reply }
  /** An entry of the event log, with its reason. */
  | { kind: "log"; entry: LogEntry }
  /** A step that every rank finished; feeds loss curves and `gokuctl watch`. */
  | { kind: "step"; jobId: string; generation: number; step: StepCompleted }
  /** `timer` was armed or moved; fire `timerFired` at or after `atMs`, once. */
  | { kind: "armTimer"; timer: string; atMs: number }
  | { kind: "cancelTimer"; timer: string }
  | { kind: "observe"; metric: MetricName; value: number; labels: Record<string, string> }
  /** Give up leadership (the store shows another leader's writes); `leadershipLost` follows. */
  | { kind: "resign"; reason: string };

export type Reply = { ok: true; jobId: string } | { ok: false; code: ErrorCode; message: string };

export interface LogEntry {
  level: "info" | "warning" | "alarm";
  type: "phase" | "incident" | "checkpoint" | "replica" | "node" | "alarm";
  jobId: string | null;
  nodeId: string | null;
  text: string;
}

/** Prometheus names, base units. Counters are given as increments, histograms as observations, gauges as values. */
export const METRICS = {
  goku_agent_messages_refused_total: "counter", // label reason: stale_generation, stale_session, malformed
  goku_generations_formed_total: "counter",
  goku_generations_failed_total: "counter",
  goku_incidents_total: "counter", // label code
  goku_recovery_seconds: "histogram", // detection to the next completed step; label code
  goku_steps_lost_total: "counter",
  goku_steps_completed_total: "counter", // label job
  goku_checkpoints_committed_total: "counter",
  goku_checkpoints_failed_total: "counter",
  goku_checkpoint_seconds: "histogram",
  goku_nodes_connected: "gauge",
  goku_persist_retries_total: "counter",
} as const;
export type MetricName = keyof typeof METRICS;

// ---------------------------------------------------------------------------------------------------------------------
// Durable records (plain JSON; keys below the shell's own prefix)

export const durableKeys = {
  term: "term",
  counter: "counter",
  job: (jobId: string) => `jobs/${jobId}`,
  generation: (jobId: string) => `generations/${jobId}`,
  checkpoints: (jobId: string) => `checkpoints/${jobId}`,
  incident: (jobId: string, number: number) => `incidents/${jobId}/${String(number).padStart(6, "0")}`,
  quarantine: (nodeId: string) => `quarantine/${nodeId}`,
};

export interface DurableEntry {
  key: string;
  modRevision: bigint;
  record: DurableRecord;
}
export interface DurableWrite {
  key: string;
  record: DurableRecord | null;
}

export type DurableRecord =
  | TermRecord
  | CounterRecord
  | JobRecord
  | GenerationRecord
  | CheckpointsRecord
  | IncidentRecord
  | QuarantineRecord;

/** Fence of all commands. Written by every new leader before it commands anything. */
interface TermRecord {
  kind: "term";
  term: number;
  controllerId: string;
}

/** Generation numbers are given out once, over all jobs; written in the transaction that uses the number. */
interface CounterRecord {
  kind: "counter";
  generationLast: number;
  jobOrderLast: number;
  /** Term of the writer, so that two leaders never write equal records. */
  term: number;
}

export interface JobRecord {
  kind: "job";
  jobId: string;
  /** Order of submission. */
  order: number;
  job: Job;
  source: CheckpointSource | null;
  /** Highest generation that had written to its checkpoint.uri before: its own are above, so that they supersede. */
  generationFloor: number;
  submittedAtMs: number;
  /** When a person asked to save and stop. */
  stop: { atMs: number } | null;
  outcome: JobOutcome | null;
}

export interface JobOutcome {
  phase: "COMPLETED" | "STOPPED" | "FAILED";
  /** Null unless FAILED. */
  code: ErrorCode | null;
  reason: string;
  step: number;
  atMs: number;
}

/** The newest generation of a job. */
export interface GenerationRecord {
  kind: "generation";
  jobId: string;
  generation: number;
  term: number;
  layout: LayoutSize;
  /** Node of every rank, in rank order. */
  rankNodes: string[];
  /** `running` once every rank restored the same state. */
  stage: "forming" | "running";
  restored: StateName | null;
  /** Generations formed since a step was completed for the first time. */
  attempts: number;
  /** Highest step ever completed. */
  stepHighest: number;
  /** Open incident that this generation answers; null: none. */
  incident: number | null;
  /** Newest incident number used. */
  incidentLast: number;
}

export interface CheckpointEntry extends CheckpointSource {
  bytes: number;
  seconds: number;
  committedAtMs: number;
  /** Why it must not be restored from; null: it may. */
  unusable: string | null;
}

/** Newest last. */
export interface CheckpointsRecord {
  kind: "checkpoints";
  jobId: string;
  entries: CheckpointEntry[];
}

export interface QuarantineRecord {
  kind: "quarantine";
  nodeId: string;
  reason: string;
  atMs: number;
}

export type Milestone = "detected" | "aborted" | "prepared" | "ready" | "connected" | "restored" | "stepped";

/** One fault, from its detection to the next completed step: what `gokuctl why` shows. */
export interface IncidentRecord {
  kind: "incident";
  jobId: string;
  number: number;
  openedAtMs: number;
  closedAtMs: number | null;
  outcome: "open" | "recovered" | "failed";
  code: ErrorCode;
  /** For example "rank 2 on node-b ended by SIGKILL in step 41 (backward, layer 3)". */
  what: string;
  /** World rank named as the cause; null when the node itself is, or nobody. */
  rank: number | null;
  nodeId: string | null;
  operation: string;
  /** Who saw what; at most EVIDENCE_COUNT_MAX, then counted. */
  evidence: { atMs: number; text: string }[];
  evidenceDropped: number;
  /** What was decided and why, in order. */
  decisions: { atMs: number; text: string }[];
  generationBefore: number;
  /** 0: none formed yet. */
  generationAfter: number;
  /** Milliseconds after detection, of the last attempt. */
  milestones: Partial<Record<Milestone, number>>;
  /** Last step completed before the fault. */
  stepBefore: number;
  /** Steps computed again; null: not known yet. */
  stepsLost: number | null;
  lastLines: string[];
}
export const EVIDENCE_COUNT_MAX = 32;

// ---------------------------------------------------------------------------------------------------------------------
// Limits

/** Every wait of the core, in milliseconds. A job's own limits stand in its `recovery` section. */
export interface CoreLimits {
  /** Told to agents; a node silent for three of them is unreachable. */
  heartbeatMs: number;
  /** Deadlines of the phases of a forming generation. */
  prepareMs: number;
  connectMs: number;
  restoreMs: number;
  /** How long evidence of one fault is collected before it is judged. */
  settleMs: number;
  /** How long it is collected where all of it is echoes, and whoever saw the cause can still be heard. */
  causeMs: number;
  /** How long ranks may take to answer an abort before the silent ones are killed. */
  answerMs: number;
  /** How long a killed process may take to be reaped before its node counts as bad. */
  reapMs: number;
  /** How long a new leader waits for nodes to re-home before it judges a generation it did not see. */
  rehomeMs: number;
  /** How long after the first finished rank the others may take. */
  finishMs: number;
  /** With layout auto: no node joined for this long before a job takes all free ones. */
  layoutSettleMs: number;
  /** Wait between attempts: 0, then this, doubling. */
  backoffMs: number;
  backoffMsMax: number;
  /** No progress while all ranks wait for the final durable save. */
  finalSaveMs: number;
  /** Between tries of a store that does not answer or takes no writes: this, doubling. */
  storeRetryMs: number;
  storeRetryMsMax: number;
}

export const DEFAULT_LIMITS: CoreLimits = {
  heartbeatMs: 1_000,
  prepareMs: 60_000,
  connectMs: 30_000,
  restoreMs: 900_000,
  settleMs: 50,
  causeMs: 1_000,
  answerMs: 3_000,
  reapMs: 10_000,
  rehomeMs: 10_000,
  finishMs: 30_000,
  layoutSettleMs: 2_000,
  backoffMs: 500,
  backoffMsMax: 30_000,
  finalSaveMs: 900_000,
  storeRetryMs: 500,
  storeRetryMsMax: 5_000,
};
