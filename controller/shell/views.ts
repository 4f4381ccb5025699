import {
  type CheckpointRecord,
  type Incident,
  JobPhase,
  type JobStatus,
  type NodeStatus,
} from "../../gen/goku/v1/controller.pb.js";
import type { IncidentRecord } from "../core/contract.js";
import type { CoreState, JobState, NodeState } from "../core/state.js";
import type { TrainingHistory } from "./training_history.js";

/** The core's state as people are told it. Pure reading; nothing here is kept. */
export function jobStatus(job: JobState, history: TrainingHistory | undefined): JobStatus {
  const { record, generation } = job;
  const phase = jobPhase(job);
  const step = history?.last ? Number(history.last.step) : 0;
  const pace = phase === JobPhase.RUNNING ? (history?.pace() ?? null) : null;
  const usable = job.checkpoints.filter((entry) => entry.unusable === null).at(-1);
  const layout = generation?.layout.size ?? job.prior?.layout ?? null;
  return {
    id: record.jobId,
    name: record.job.name,
    phase,
    reason: record.outcome?.reason ?? job.reason,
    step: BigInt(record.outcome?.step ?? Math.max(step, generation?.step ?? 0)),
    stepsTotal: BigInt(record.job.train.steps),
    loss: history?.last?.loss,
    gradNorm: history?.last?.gradNorm,
    stepSeconds: history?.last?.stepSeconds,
    tokensPerSecond: pace?.tokensPerSecond,
    etaSeconds: pace ? Math.max(0, record.job.train.steps - step) * pace.secondsPerStep : undefined,
    generation: BigInt(generation?.number ?? 0),
    layout: layout
      ? { dpReplicate: layout.dp_replicate, dpShard: layout.dp_shard, sp: layout.sp }
      : undefined,
    rankNodes: generation?.rankNodes ?? [],
    checkpointUri: usable?.uri ?? "",
    checkpointStep: BigInt(usable?.state.step ?? 0),
    incidents: job.incidents.length,
    error: record.outcome?.code
      ? { code: record.outcome.code, message: record.outcome.reason, peer: undefined, operation: "" }
      : undefined,
    submittedAt: new Date(record.submittedAtMs),
    tokensTotal: BigInt(history?.tokensTotal ?? 0),
  };
}

export function jobPhase(job: JobState): JobPhase {
  const { outcome, stop } = job.record;
  if (outcome) return JobPhase[outcome.phase];
  if (stop) return JobPhase.STOPPING;
  switch (job.stage) {
    case "queued":
      return JobPhase.QUEUED;
    case "forming":
      return job.incident ? JobPhase.RECOVERING : JobPhase.FORMING;
    case "waiting":
      return job.incident ? JobPhase.RECOVERING : JobPhase.QUEUED;
    case "running":
    case "ending":
    case "ended":
      return JobPhase.RUNNING;
    default:
      return JobPhase.RECOVERING;
  }
}

export function nodeStatus(state: CoreState, node: NodeState, nowMs: number): NodeStatus {
  const job = node.jobId === null ? undefined : state.jobs.get(node.jobId);
  return {
    nodeId: node.nodeId,
    connected: node.session !== null,
    slots: node.slots,
    host: node.host,
    device: node.device,
    version: node.version,
    job: job?.record.job.name ?? "",
    ranks: node.pages.map((page) => ({
      rank: page.rank,
      pid: page.pid,
      step: BigInt(page.step),
      microStep: page.microStep,
      phase: page.phase,
      layer: page.layer,
      collectiveEntered: BigInt(page.entered),
      collectiveCompleted: BigInt(page.completed),
      collective: page.collective,
      group: page.group,
      unchangedMs: BigInt(page.unchangedMs),
    })),
    silentSeconds: Math.max(0, nowMs - node.heardMs) / 1000,
    heldStates: node.held.map((held) => {
      const [dpReplicate = 1, dpShard = 1, sp = 1] = held.layout.split("x").map(Number);
      const name = { generation: BigInt(held.state.generation), step: BigInt(held.state.step) };
      return { state: name, rank: held.rank, layout: { dpReplicate, dpShard, sp } };
    }),
  };
}

export function incidentMessage(record: IncidentRecord, jobName: string): Incident {
  const dropped = record.evidenceDropped > 0 ? [`and ${record.evidenceDropped} more`] : [];
  return {
    id: BigInt(record.number),
    job: jobName,
    detectedAt: new Date(record.openedAtMs),
    what: record.what,
    code: record.code,
    rank: record.rank ?? undefined,
    nodeId: record.nodeId ?? "",
    evidence: [...record.evidence.map((e) => `${after(record, e.atMs)}  ${e.text}`), ...dropped],
    decision: record.decisions.map((d) => d.text).join("; "),
    generationBefore: BigInt(record.generationBefore),
    generationAfter: BigInt(record.generationAfter),
    milestones: Object.entries(record.milestones).map(([name, afterMs]) => ({
      name,
      afterMs: BigInt(Math.round(afterMs)),
    })),
    stepsLost: BigInt(record.stepsLost ?? 0),
    closed: record.outcome !== "open",
    lastLines: record.lastLines,
  };
}

export function checkpointMessages(job: JobState): CheckpointRecord[] {
  return job.checkpoints
    .filter((entry) => entry.unusable === null)
    .map((entry) => ({
      state: { generation: BigInt(entry.state.generation), step: BigInt(entry.state.step) },
      uri: entry.uri,
      bytes: BigInt(entry.bytes),
      seconds: entry.seconds,
    }));
}

function after(record: IncidentRecord, atMs: number): string {
  return `+${((atMs - record.openedAtMs) / 1000).toFixed(3)} s`;
}
