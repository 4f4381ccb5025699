import type { StepCompleted } from "../../gen/goku/v1/agent.pb.js";
import type { LayoutSize } from "../../job/layout.js";
import type { CheckpointEntry, IncidentRecord, JobOutcome, JobRecord, QuarantineRecord } from "./contract.js";
import type { CoreState, JobState, NodeState } from "./state.js";
import type { HeldState, RankPage } from "./wire.js";

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
  checkpoints: readonly CheckpointEntry[];
  incidents: readonly IncidentRecord[];
  outcome: JobOutcome | null;
  /** How its state is protected against the loss of nodes; null: not known yet. */
  protection: string | null;
  /** Newest step of the present generation that is in two places for every rank; null: none. */
  replicatedStep: number | null;
}

export interface NodeView {
  nodeId: string;
  connected: boolean;
  silentMs: number;
  slots: number;
  host: string;
  device: string;
  version: string;
  jobId: string | null;
  pages: readonly RankPage[];
  held: readonly HeldState[];
  /** Why it is not used; null: it may be. */
  unusable: string | null;
  /** Until a person lifts that. */
  quarantined: boolean;
  /** What fails together with it; null: it has not come since this leader was elected. */
  failureDomain: string | null;
}

/** In order of submission. */
export function jobViews(state: CoreState): JobView[] {
  return [...state.jobs.values()].filter((job) => job.accepted).map(viewJob);
}

export function jobView(state: CoreState, jobId: string): JobView | null {
  const job = state.jobs.get(jobId);
  return job === undefined || !job.accepted ? null : viewJob(job);
}

export function nodeViews(state: CoreState, nowMs: number): NodeView[] {
  const known = [...state.nodes.values()].map((node) => viewNode(state, node, nowMs));
  const unseen = [...state.quarantine.values()].filter(({ nodeId }) => !state.nodes.has(nodeId));
  return [...known, ...unseen.map((record) => viewUnseen(record, nowMs))].sort((a, b) =>
    a.nodeId < b.nodeId ? -1 : 1,
  );
}

function viewJob(job: JobState): JobView {
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
    checkpoints: job.checkpoints,
    incidents: job.incidents,
    outcome: job.record.outcome,
    protection: job.protection,
    replicatedStep: job.replicated?.generation === generation?.number ? (job.replicated?.step ?? null) : null,
  };
}

export function phaseOf(job: JobState): JobPhase {
  const { outcome, stop } = job.record;
  if (outcome !== null) return job.stage === "ended" ? outcome.phase : "STOPPING";
  if (job.stage === "queued") return "QUEUED";
  if (stop !== null) return "STOPPING";
  if (job.stage === "running") return "RUNNING";
  return job.stage === "forming" && job.incident === null ? "FORMING" : "RECOVERING";
}

function viewNode(state: CoreState, node: NodeState, nowMs: number): NodeView {
  const { nodeId, slots, host, device, version, pages, held } = node;
  return {
    nodeId,
    connected: node.session !== null,
    silentMs: Math.max(0, nowMs - node.heardMs),
    slots,
    host,
    device,
    version,
    jobId: node.jobId ?? node.heldJobId,
    pages,
    held,
    unusable: unusableText(state, node),
    quarantined: state.quarantine.has(nodeId),
    failureDomain: node.failureDomain,
  };
}

/** A quarantined node that has not come since this leader was elected. */
function viewUnseen({ nodeId, reason, atMs }: QuarantineRecord, nowMs: number): NodeView {
  return {
    nodeId,
    connected: false,
    silentMs: Math.max(0, nowMs - atMs),
    slots: 0,
    host: "",
    device: "",
    version: "",
    jobId: null,
    pages: [],
    held: [],
    unusable: quarantineText(reason),
    quarantined: true,
    failureDomain: null,
  };
}

function quarantineText(reason: string): string {
  return `quarantined: ${reason}`;
}

function unusableText(state: CoreState, node: NodeState): string | null {
  const bad = state.quarantine.get(node.nodeId);
  if (bad !== undefined) return quarantineText(bad.reason);
  if (node.leaving !== null) return `leaves: ${node.leaving.reason}`;
  if (node.releasing) return "is being freed";
  if (node.heldJobId !== null && !state.jobs.has(node.heldJobId)) {
    return `holds job ${node.heldJobId}, which this controller does not know`;
  }
  return null;
}
