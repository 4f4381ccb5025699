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
import type { AnyJob } from "../../job/command_job.js";
import type { Device } from "../../job/device.js";
import type { ErrorCode } from "../../job/errors.js";
import type { LayoutSize } from "../../job/layout.js";
import type { ControllerMetric, ControllerMetricLabels } from "../../job/metrics.js";
import type { EffectiveRecord } from "./effective_time.js";

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

/** What comes as one message is several here. */
export type AgentMessage = Exclude<NonNullable<SessionRequest["message"]>, { $case: "reports" }>;

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
   * `found`: committed checkpoints that stand at job.checkpoint.uri already, if it has one; `own`: `source` is one of them.
   */
  | {
      kind: "jobSubmitted";
      requestId: string;
      jobId: string;
      job: AnyJob;
      source: CheckpointSource | null;
      found: { count: number; generationHighest: number; own: boolean };
    }
  /** Save and stop; `graceMs` null: nobody said for how long that may take. */
  | { kind: "stopRequested"; requestId: string; jobId: string; graceMs: number | null }
  | { kind: "saveRequested"; requestId: string; jobId: string }
  /** What the platform that runs the agents, such as Kubernetes, says of a node. */
  | { kind: "nodeFate"; nodeId: string; fate: NodeFate }
  /** What fails together with a node as the platform knows it, instead of what its agent says; null: it knows nothing any more. */
  | { kind: "nodeDomain"; nodeId: string; domain: string | null }
  /** A person vouches for a quarantined node. */
  | { kind: "quarantineLifted"; requestId: string; nodeId: string }
  /** A person wants a node to give its ranks up, and to get none. */
  | { kind: "drainRequested"; requestId: string; nodeId: string }
  /** A person wants nodes to be examined; none named: all. */
  | { kind: "diagnosisRequested"; requestId: string; nodeIds: string[] }
  /**
   * Answer to the `findCheckpoints` of that generation; null: `reason` says why nothing can be listed. `gone`: those of the known
   * ones that were looked for and are not there.
   */
  | {
      kind: "checkpointsFound";
      jobId: string;
      generation: number;
      found: FoundCheckpoint[] | null;
      gone: CheckpointSource[];
      reason: string;
    }
  | { kind: "timerFired"; timer: string };

/** A committed checkpoint, as its folder tells it. */
export interface FoundCheckpoint extends CheckpointSource {
  bytes: number;
  committedAtMs: number;
}

/** Why the platform ends, or has ended, the process of a node's agent and with it all of the node's ranks. */
export interface NodeFate {
  code: "NODE_PREEMPTED" | "NODE_OUT_OF_MEMORY" | "NODE_LOST";
  /** For example "pod goku-worker-1 was killed for its memory limit of 8Gi (OOMKilled)". */
  text: string;
  /** When an agent that is still there will be ended; null: it has ended. */
  endsAtMs: number | null;
  /** No other process of the node runs, as far as the platform knows. */
  down: boolean;
}

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
  /** List what is committed under this address, and look for what is known of it. Answered by `checkpointsFound`, at once or late. */
  | { kind: "findCheckpoints"; jobId: string; generation: number; uri: string; known: CheckpointSource[] }
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
  type:
    | "phase"
    | "incident"
    | "checkpoint"
    | "replica"
    | "preview"
    | "node"
    | "straggler"
    | "numbers"
    | "alarm";
  jobId: string | null;
  nodeId: string | null;
  text: string;
}

/** Counters are given as increments, histograms as observations, gauges as values. */
export type MetricName = ControllerMetric;
export type MetricLabels<Name extends MetricName> = ControllerMetricLabels<Name>;

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
  job: AnyJob;
  source: CheckpointSource | null;
  /** Highest generation that had written to its checkpoint.uri before: its own are above, so that they supersede. */
  generationFloor: number;
  submittedAtMs: number;
  /**
   * When a person asked to save and stop, and when that is to be done; `endMs` null: a program of its own, which `trainer`
   * gives its time.
   */
  stop: { atMs: number; endMs: number | null } | null;
  /** In the order in which they happened. */
  rollBacks: RollBackRecord[];
  outcome: JobOutcome | null;
}

/** States of that generation and older ones are given up from step `first` on, and who comes there goes on behind `last`. */
export interface RollBackRecord {
  generation: number;
  first: number;
  last: number;
}

export interface JobOutcome {
  phase: "COMPLETED" | "STOPPED" | "FAILED";
  /** Null unless FAILED. */
  code: ErrorCode | null;
  reason: string;
  step: number;
  /** Steps beyond it that were done, and are in no checkpoint; 0 unless STOPPED. */
  stepsGivenUp: number;
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
  /** Generations of the job before this one. */
  restarts: number;
  /** Highest step ever completed. */
  stepHighest: number;
  /** Open incident that this generation answers; null: none. */
  incident: number | null;
  /** Newest incident number used. */
  incidentLast: number;
  /** What its ranks compute on; absent in older records: cpu. */
  device?: Device;
  /** When it was written; absent in older records. */
  effective?: EffectiveRecord;
}

export interface CheckpointEntry extends CheckpointSource {
  bytes: number;
  /** What the save took; 0: not known. */
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
  /** When the node is examined again, and used if it passes; null, and absent in older records: a person must release it. */
  untilMs: number | null;
  /** Nothing is wrong with it: a person wants it free. Absent in older records: false. */
  drained: boolean;
  /** Boot of the machine whose fault it is: another one ends it, if the node passes its self-checks then. Absent: none does. */
  machine?: string;
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
  /** Of ranks that hung, just before they were killed; at most STACKS_COUNT_MAX. */
  stacks: RankStack[];
}
export const EVIDENCE_COUNT_MAX = 32;
export const STACKS_COUNT_MAX = 4;

export interface RankStack {
  rank: number;
  nodeId: string;
  lines: string[];
}

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
  /** How long the storage may take to tell what is committed, where that is known of a checkpoint; where of none, connectMs. */
  storageMs: number;
  /** How long a rank that waits for no other may show no sign of life in CONNECT and RESTORE before it counts as hung. */
  stillMs: number;
  /** The same of one that is blocked: its thread gets no processor time, since it asks for none. */
  blockedMs: number;
  /** How long evidence of one fault is collected before it is judged. */
  settleMs: number;
  /** How long it is collected where all of it is echoes, and whoever saw the cause can still be heard. */
  causeMs: number;
  /** How long ranks may take to answer an abort before the silent ones are killed. */
  answerMs: number;
  /** How long those that wait in a collective may take from when their nodes have heard of it: then these are asked whether they still do. */
  answerSoonMs: number;
  /** How long a killed process may take to be reaped before its node counts as bad. */
  reapMs: number;
  /** How long a new leader waits for nodes to re-home before it judges a generation it did not see. */
  rehomeMs: number;
  /** How long after the first finished rank the others may take. */
  finishMs: number;
  /** With layout auto: no node joined for this long before a job takes all free ones. */
  layoutSettleMs: number;
  /** How long a generation trains at least before it gives way to a larger one. */
  growMs: number;
  /** Wait between attempts: 0, then this, doubling. */
  backoffMs: number;
  backoffMsMax: number;
  /** No progress while all ranks wait for the final durable save. */
  finalSaveMs: number;
  /** A program that tells no steps and has run for so long has got somewhere: its attempts are counted anew. */
  programSteadyMs: number;
  /** Between two slow nodes of a job that others take the place of. */
  replaceSlowMs: number;
  /** Between tries of a store that does not answer or takes no writes: this, doubling. */
  storeRetryMs: number;
  storeRetryMsMax: number;
  /** Work of a node's self-checks before it is used; 0: nodes are used unexamined. */
  selfCheckMs: number;
  /** How long a node that is blamed again and again is examined before the job goes on with it. */
  selfCheckFaultMs: number;
  /** How long an agent may take to report; then it is asked again. */
  selfCheckAnswerMs: number;
  /** Work of a node's self-checks in a diagnosis, and of one collective. */
  diagnoseMs: number;
  diagnosePairMs: number;
}

export const DEFAULT_LIMITS: CoreLimits = {
  heartbeatMs: 1_000,
  prepareMs: 60_000,
  connectMs: 30_000,
  restoreMs: 900_000,
  storageMs: 10_000,
  stillMs: 60_000,
  blockedMs: 5_000,
  settleMs: 50,
  causeMs: 1_000,
  answerMs: 3_000,
  answerSoonMs: 400,
  reapMs: 10_000,
  rehomeMs: 10_000,
  finishMs: 30_000,
  layoutSettleMs: 2_000,
  growMs: 10_000,
  backoffMs: 500,
  backoffMsMax: 30_000,
  finalSaveMs: 900_000,
  programSteadyMs: 600_000,
  replaceSlowMs: 600_000,
  storeRetryMs: 500,
  storeRetryMsMax: 5_000,
  selfCheckMs: 200,
  selfCheckFaultMs: 5_000,
  selfCheckAnswerMs: 120_000,
  diagnoseMs: 3_000,
  diagnosePairMs: 1_000,
};
