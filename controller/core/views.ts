import type { StepCompleted } from "../../gen/goku/v1/agent.pb.js";
import type { LayoutSize } from "../../job/layout.js";
import type { CheckpointEntry, IncidentRecord, JobOutcome, JobRecord, QuarantineRecord } from "./contract.js";
import { isDiagnosed } from "./diagnosis.js";
import { fleetNode, medians } from "./fleet.js";
import { isOver } from "./jobs.js";
import { type FleetMedians, type JudgedReading, judgeChecks } from "./judge_checks.js";
import type { NodeSign } from "./judge_signals.js";
import type { SlowSubject } from "./pace.js";
import { type ReadView, readView } from "./read_back.js";
import { sparesText } from "./spares.js";
import type { CoreState, JobState, NodeHealth, NodeState, NodeVerdict } from "./state.js";
import type { HeldState, NodeDevice, RankPage } from "./wire.js";

export type JobPhase =
  | "QUEUED"
  | "FORMING"
  | "RUNNING"
  | "RECOVERING"
  | "STOPPING"
  | "COMPLETED"
  | "STOPPED"
  | "FAILED";

/** A job as people see it. Everything is a copy or must not be changed. */
export interface CheckpointView extends CheckpointEntry {
  /** What of it was read back and is whole; null: nothing, as far as this leader has heard. */
  read: ReadView | null;
}

export interface JobView {
  record: JobRecord;
  phase: JobPhase;
  /** It will not change any more. */
  over: boolean;
  reason: string;
  step: number;
  generation: number;
  layout: LayoutSize | null;
  rankNodes: readonly string[];
  lastStep: StepCompleted | null;
  /** Newest last. */
  checkpoints: readonly CheckpointView[];
  incidents: readonly IncidentRecord[];
  outcome: JobOutcome | null;
  /** How its state is protected against the loss of nodes; null: not known yet. */
  protection: string | null;
  /** Newest step of the present generation that is in two places for every rank; null: none. */
  replicatedStep: number | null;
  /** How many nodes are ready to replace lost ones, and how many the failures so far call for; null: it trains nowhere. */
  spares: string | null;
  /** Typical slowness of every rank over the last rounds of steps, NaN: not known; null: no generation trains. */
  rankSlowness: Float64Array | null;
  /** What is slow, slowest first. */
  stragglers: readonly SlowSubject[];
  /** Nodes that it does without. */
  avoided: readonly AvoidedView[];
  /** Snapshots and saves that were due and could not be made then. */
  missed: Pick<JobState["missed"], "snapshots" | "saves">;
  /** Why its newest states are not to be trusted; null: nothing is known against them. */
  doubt: string | null;
}

export interface NodeView {
  nodeId: string;
  connected: boolean;
  silentMs: number;
  slots: number;
  host: string;
  device: string;
  devices: readonly NodeDevice[];
  version: string;
  jobId: string | null;
  pages: readonly RankPage[];
  held: readonly HeldState[];
  /** Why it is not used; null: it may be. */
  unusable: string | null;
  /** Until a person lifts that, or it passes its self-checks after `quarantinedUntilMs`. */
  quarantined: boolean;
  /** It is quarantined because a person drained it, for no fault. */
  drained: boolean;
  /** Null: only a person can lift it, or it is not quarantined. */
  quarantinedUntilMs: number | null;
  /** Null: it has not come since this leader was elected, or nodes are used unexamined. */
  selfCheck: NodeHealth["state"] | null;
  /** Newest results of its self-checks against the fleet's. */
  checks: readonly JudgedReading[];
  checkedMs: number | null;
  /** What fails together with it; null: it has not come since this leader was elected. */
  failureDomain: string | null;
  /** Jobs that do without it; others may use it. */
  avoided: readonly AvoidedView[];
  /** Signs of trouble that it told, newest first. */
  signs: readonly NodeSign[];
  /** What of the machine its agent cannot watch. */
  unwatched: readonly string[];
}

/** A job does without a node until then, or until it is known to be well, where others can take its ranks. */
export interface AvoidedView {
  job: string;
  nodeId: string;
  reason: string;
  untilMs: number;
}

/** The newest diagnosis as people see it. */
export interface DiagnosisView {
  id: number;
  startedMs: number;
  done: boolean;
  nodes: (NodeVerdict & { nodeId: string; checks: readonly JudgedReading[] })[];
  badLinks: readonly (readonly string[])[];
}

/** In order of submission. */
export function jobViews(state: CoreState, nowMs: number): JobView[] {
  return [...state.jobs.values()].filter((job) => job.accepted).map((job) => viewJob(state, job, nowMs));
}

export function jobView(state: CoreState, jobId: string, nowMs: number): JobView | null {
  const job = state.jobs.get(jobId);
  return job === undefined || !job.accepted ? null : viewJob(state, job, nowMs);
}

export function nodeViews(state: CoreState, nowMs: number): NodeView[] {
  const fleet = medians(state);
  const known = [...state.nodes.values()].map((node) => viewNode(state, node, { nowMs, fleet }));
  const unseen = [...state.quarantine.values()].filter(({ nodeId }) => !state.nodes.has(nodeId));
  return [...known, ...unseen.map((record) => viewUnseen(record, nowMs))].sort((a, b) =>
    a.nodeId < b.nodeId ? -1 : 1,
  );
}

/** Null: none was asked for since this leader was elected. */
export function diagnosisView(state: CoreState): DiagnosisView | null {
  const { diagnosis } = state;
  if (diagnosis === null) return null;
  const { id, startedMs, stage, badLinks } = diagnosis;
  const fleet = medians(state);
  const nodes = [...diagnosis.nodes].map(([nodeId, { verdict, reason }]) => ({
    nodeId,
    verdict,
    reason,
    checks: verdict === "skipped" ? [] : judged(state, nodeId, fleet),
  }));
  return { id, startedMs, done: stage === "done", nodes, badLinks };
}

function judged(state: CoreState, nodeId: string, fleet: FleetMedians): readonly JudgedReading[] {
  const node = fleetNode(state, nodeId);
  return node === null ? [] : judgeChecks(node, fleet);
}

function viewJob(state: CoreState, job: JobState, nowMs: number): JobView {
  const { generation } = job;
  return {
    record: job.record,
    phase: phaseOf(job),
    over: job.stage === "ended",
    reason: job.reason,
    step: generation?.step ?? job.stepHighest,
    generation: generation?.number ?? 0,
    layout: generation?.layout.size ?? null,
    rankNodes: generation?.rankNodes ?? [],
    lastStep: job.lastStep,
    checkpoints: job.checkpoints.map((entry) => ({ ...entry, read: readView(job, entry) })),
    incidents: job.incidents,
    outcome: job.record.outcome,
    protection: job.protection,
    rankSlowness: job.stage === "running" ? (generation?.pace.verdict?.typical ?? null) : null,
    stragglers: job.stage === "running" ? [...(generation?.pace.told.values() ?? [])] : [],
    replicatedStep: job.replicated?.generation === generation?.number ? (job.replicated?.step ?? null) : null,
    spares: isOver(job) ? null : sparesText(state, job, nowMs),
    avoided: avoidedBy(job),
    missed: { ...job.missed },
    doubt: job.doubt?.text ?? null,
  };
}

function avoidedBy(job: JobState): AvoidedView[] {
  if (isOver(job)) return [];
  return [...job.avoided].map(([nodeId, avoided]) => ({ job: job.record.job.name, nodeId, ...avoided }));
}

export function phaseOf(job: JobState): JobPhase {
  const { outcome, stop } = job.record;
  if (outcome !== null) return job.stage === "ended" ? outcome.phase : "STOPPING";
  if (job.stage === "queued") return "QUEUED";
  if (stop !== null) return "STOPPING";
  if (job.stage === "running") return "RUNNING";
  return job.stage === "forming" && job.incident === null ? "FORMING" : "RECOVERING";
}

function viewNode(
  state: CoreState,
  node: NodeState,
  { nowMs, fleet }: { nowMs: number; fleet: FleetMedians },
): NodeView {
  const { nodeId, slots, host, device, devices, version, pages, held } = node;
  return {
    nodeId,
    connected: node.session !== null,
    silentMs: Math.max(0, nowMs - node.heardMs),
    slots,
    host,
    device,
    devices,
    version,
    jobId: node.jobId ?? node.heldJobId,
    pages,
    held,
    unusable: unusableText(state, node),
    quarantined: state.quarantine.has(nodeId),
    drained: state.quarantine.get(nodeId)?.drained ?? false,
    quarantinedUntilMs: state.quarantine.get(nodeId)?.untilMs ?? null,
    selfCheck: state.health.get(nodeId)?.state ?? null,
    checks: judged(state, nodeId, fleet),
    checkedMs: state.health.get(nodeId)?.checkedMs ?? null,
    failureDomain: node.failureDomain,
    avoided: [...state.jobs.values()].flatMap(avoidedBy).filter((each) => each.nodeId === nodeId),
    signs: node.signs.toReversed(),
    unwatched: node.unwatched,
  };
}

/** A quarantined node that has not come since this leader was elected. */
function viewUnseen(record: QuarantineRecord, nowMs: number): NodeView {
  const { nodeId, atMs, untilMs, drained } = record;
  return {
    nodeId,
    connected: false,
    silentMs: Math.max(0, nowMs - atMs),
    slots: 0,
    host: "",
    device: "",
    devices: [],
    version: "",
    jobId: null,
    pages: [],
    held: [],
    unusable: quarantineText(record),
    quarantined: true,
    drained,
    quarantinedUntilMs: untilMs,
    selfCheck: null,
    checks: [],
    checkedMs: null,
    failureDomain: null,
    avoided: [],
    signs: [],
    unwatched: [],
  };
}

function quarantineText({ reason, drained }: QuarantineRecord): string {
  return drained ? reason : `quarantined: ${reason}`;
}

function unusableText(state: CoreState, node: NodeState): string | null {
  const bad = state.quarantine.get(node.nodeId);
  if (bad !== undefined) return quarantineText(bad);
  if (node.leaving !== null) return `leaves: ${node.leaving.reason}`;
  if (node.releasing) return "is being freed";
  const isExamined = state.health.get(node.nodeId)?.run != null || isDiagnosed(state, node.nodeId);
  if (isExamined) return "is being examined";
  if (node.heldJobId !== null && !state.jobs.has(node.heldJobId)) {
    return `holds job ${node.heldJobId}, which this controller does not know`;
  }
  return null;
}
