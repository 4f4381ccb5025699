import {
  type CheckpointRecord,
  type Incident,
  IncidentOutcome,
  JobPhase,
  type JobStatus,
  type NodeStatus,
} from "../../gen/goku/v1/controller.pb.js";
import { Layout } from "../../job/layout.js";
import type { IncidentRecord } from "../core/contract.js";
import type { JobView, NodeView } from "../core/views.js";
import type { TrainingHistory } from "./training_history.js";

/** The core's views as messages of the wire. Pure translation; nothing here is kept. */
export function jobStatus(view: JobView, history: TrainingHistory | undefined): JobStatus {
  const { record, layout, lastStep, outcome } = view;
  const pace = view.phase === "RUNNING" ? (history?.pace() ?? null) : null;
  const usable = view.checkpoints.filter((entry) => entry.unusable === null).at(-1);
  const stepsTotal = record.job.train.steps;
  return {
    id: record.jobId,
    name: record.job.name,
    phase: JobPhase[view.phase],
    reason: view.reason,
    step: BigInt(outcome?.step ?? view.step),
    stepsTotal: BigInt(stepsTotal),
    loss: lastStep?.loss,
    gradNorm: lastStep?.gradNorm,
    stepSeconds: lastStep?.stepSeconds,
    tokensPerSecond: pace?.tokensPerSecond,
    etaSeconds: pace ? Math.max(0, stepsTotal - view.step) * pace.secondsPerStep : undefined,
    generation: BigInt(view.generation),
    layout: layout
      ? { dpReplicate: layout.dp_replicate, dpShard: layout.dp_shard, sp: layout.sp }
      : undefined,
    rankNodes: [...view.rankNodes],
    checkpointUri: usable?.uri ?? "",
    checkpointStep: BigInt(usable?.state.step ?? 0),
    incidents: view.incidents.length,
    error: outcome?.code
      ? { code: outcome.code, message: outcome.reason, peer: undefined, operation: "" }
      : undefined,
    submittedAt: new Date(record.submittedAtMs),
    tokensTotal: BigInt(history?.tokensTotal ?? 0),
    protection: view.protection ?? "",
    replicatedStep: view.replicatedStep === null ? undefined : BigInt(view.replicatedStep),
  };
}

/** @param jobName of the job whose id the view names; empty when it serves none. */
export function nodeStatus(node: NodeView, jobName: string): NodeStatus {
  return {
    nodeId: node.nodeId,
    connected: node.connected,
    slots: node.slots,
    host: node.host,
    device: node.device,
    version: node.version,
    job: jobName,
    unusable: node.unusable ?? "",
    quarantined: node.quarantined,
    failureDomain: node.failureDomain ?? "",
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
      generation: 0n,
    })),
    silentSeconds: node.silentMs / 1000,
    heldStates: node.held.map((held) => {
      const { dp_replicate: dpReplicate, dp_shard: dpShard, sp } = Layout.parse(held.layout).size;
      const state = { generation: BigInt(held.state.generation), step: BigInt(held.state.step) };
      return { state, rank: held.rank, layout: { dpReplicate, dpShard, sp } };
    }),
  };
}

const OUTCOMES = {
  open: IncidentOutcome.OPEN,
  recovered: IncidentOutcome.RECOVERED,
  failed: IncidentOutcome.FAILED,
};

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
    stepsLost: record.stepsLost === null ? undefined : BigInt(record.stepsLost),
    outcome: OUTCOMES[record.outcome],
    lastLines: record.lastLines,
  };
}

export function checkpointMessages(view: JobView): CheckpointRecord[] {
  return view.checkpoints
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
