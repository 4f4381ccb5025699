import type { Preview } from "../../checkpoint/previews.js";
import type { RankProgress, RankTimes as WireTimes } from "../../gen/goku/v1/agent.pb.js";
import {
  type AvoidedNode,
  type CheckpointParts,
  type CheckpointRecord,
  type Diagnosis,
  type Incident,
  IncidentOutcome,
  JobPhase,
  type JobStatus,
  type JudgedCheck,
  type NodeSignalStatus,
  type NodeStatus,
  type Preview as PreviewMessage,
} from "../../gen/goku/v1/controller.pb.js";
import { isCommandJob, jobTraits } from "../../job/command_job.js";
import { Layout } from "../../job/layout.js";
import type { IncidentRecord } from "../core/contract.js";
import type { JudgedReading } from "../core/judge_checks.js";
import type { ReadView } from "../core/read_back.js";
import type { AvoidedView, DiagnosisView, JobView, NodeView } from "../core/views.js";
import type { RankPage, RankTimes } from "../core/wire.js";
import type { TrainingHistory } from "./training_history.js";

/** The core's views as messages of the wire. Pure translation; nothing here is kept. */
export function jobStatus(view: JobView, history: TrainingHistory | undefined): JobStatus {
  const { record, layout, lastStep, outcome } = view;
  const pace = view.phase === "RUNNING" ? (history?.pace() ?? null) : null;
  const usable = view.checkpoints.filter((entry) => entry.unusable === null).at(-1);
  const { stepsTotal } = jobTraits(record.job);
  return {
    id: record.jobId,
    name: record.job.name,
    phase: JobPhase[view.phase],
    reason: view.reason,
    step: BigInt(outcome?.step ?? view.step),
    stepsTotal: BigInt(stepsTotal ?? 0),
    loss: lastStep?.loss,
    gradNorm: lastStep?.gradNorm,
    stepSeconds: lastStep?.stepSeconds,
    tokensPerSecond: isCommandJob(record.job) ? undefined : pace?.tokensPerSecond,
    etaSeconds:
      pace && stepsTotal !== null ? Math.max(0, stepsTotal - view.step) * pace.secondsPerStep : undefined,
    generation: BigInt(view.generation),
    layout: layout
      ? { dpReplicate: layout.dp_replicate, dpShard: layout.dp_shard, sp: layout.sp }
      : undefined,
    rankNodes: [...view.rankNodes],
    checkpointUri: usable?.uri ?? "",
    checkpointStep: BigInt(usable?.state.step ?? 0),
    checkpointRead: partsMessage(usable?.read ?? null),
    incidents: view.incidents.length,
    error: outcome?.code
      ? { code: outcome.code, message: outcome.reason, peer: undefined, operation: "" }
      : undefined,
    submittedAt: new Date(record.submittedAtMs),
    tokensTotal: BigInt(history?.tokensTotal ?? 0),
    protection: view.protection ?? "",
    replicatedStep: view.replicatedStep === null ? undefined : BigInt(view.replicatedStep),
    spares: view.spares ?? "",
    rankSlowness: Array.from(view.rankSlowness ?? [], (slowness) =>
      Number.isFinite(slowness) ? slowness : 0,
    ),
    stragglers: view.stragglers.map(({ nodeId, rank, slowness, evidence }) => ({
      nodeId,
      rank: rank ?? undefined,
      slowness,
      evidence,
    })),
    avoided: view.avoided.map(avoidedNode),
    doubt: view.doubt ?? "",
    snapshotsSkipped: BigInt(view.missed.snapshots),
    savesPutOff: BigInt(view.missed.saves),
    stepsGivenUp: BigInt(view.outcome?.stepsGivenUp ?? 0),
  };
}

function avoidedNode({ untilMs, ...avoided }: AvoidedView): AvoidedNode {
  return { ...avoided, until: new Date(untilMs) };
}

/** @param jobName of the job whose id the view names; empty when it serves none. */
export function nodeStatus(node: NodeView, jobName: string): NodeStatus {
  return {
    nodeId: node.nodeId,
    connected: node.connected,
    slots: node.slots,
    host: node.host,
    device: node.device,
    devices: node.devices.map(({ name, memoryBytes }) => ({ name, memoryBytes: BigInt(memoryBytes) })),
    version: node.version,
    job: jobName,
    unusable: node.unusable ?? "",
    quarantined: node.quarantined,
    drained: node.drained,
    failureDomain: node.failureDomain ?? "",
    quarantinedUntil: dateOf(node.quarantinedUntilMs),
    selfCheck: node.selfCheck ?? "",
    checks: node.checks.map(judgedCheck),
    checkedAt: dateOf(node.checkedMs),
    avoided: node.avoided.map(avoidedNode),
    signals: node.signs.map(signalStatus),
    unwatched: [...node.unwatched],
    ranks: node.pages.map(rankProgress),
    silentSeconds: node.silentMs / 1000,
    heldStates: node.held.map((held) => {
      const { dp_replicate: dpReplicate, dp_shard: dpShard, sp } = Layout.parse(held.layout).size;
      const state = { generation: BigInt(held.state.generation), step: BigInt(held.state.step) };
      return { state, rank: held.rank, layout: { dpReplicate, dpShard, sp } };
    }),
  };
}

function signalStatus(sign: NodeView["signs"][number]): NodeSignalStatus {
  const { name, class: cls, action, meaning, rank, device, text, count, heardMs } = sign;
  return {
    kind: name,
    class: cls,
    action,
    meaning,
    rank: rank ?? undefined,
    device,
    text,
    count,
    at: new Date(heardMs),
  };
}

export function rankProgress(page: RankPage): RankProgress {
  return {
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
    blockedMs: BigInt(page.blockedMs),
    generation: 0n,
    times: page.times === null ? undefined : timesMessage(page.times),
  };
}

export function diagnosisMessage(view: DiagnosisView): Diagnosis {
  return {
    id: BigInt(view.id),
    startedAt: new Date(view.startedMs),
    done: view.done,
    nodes: view.nodes.map(({ checks, ...node }) => ({ ...node, checks: checks.map(judgedCheck) })),
    badLinks: view.badLinks.map((members) => members.join(", ")),
  };
}

function judgedCheck({ reading, median, verdict }: JudgedReading): JudgedCheck {
  const { name, ok, value, unit, detail, seconds, device } = reading;
  const result = { name, ok, value, unit, detail, seconds, device: device ?? undefined };
  return { result, median: median ?? undefined, verdict };
}

function dateOf(ms: number | null): Date | undefined {
  return ms === null ? undefined : new Date(ms);
}

function timesMessage(times: RankTimes): WireTimes {
  return {
    steps: BigInt(times.steps),
    work: BigInt(times.work),
    forwardUs: BigInt(times.forwardUs),
    backwardUs: BigInt(times.backwardUs),
    optimizerUs: BigInt(times.optimizerUs),
    dataUs: BigInt(times.dataUs),
    waitUs: BigInt(times.waitUs),
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
    stepBefore: BigInt(record.stepBefore),
    stepsLost: record.stepsLost === null ? undefined : BigInt(record.stepsLost),
    outcome: OUTCOMES[record.outcome],
    lastLines: record.lastLines,
    stacks: record.stacks,
  };
}

export function checkpointMessages(view: JobView): CheckpointRecord[] {
  return view.checkpoints.map((entry) => ({
    state: { generation: BigInt(entry.state.generation), step: BigInt(entry.state.step) },
    uri: entry.uri,
    bytes: BigInt(entry.bytes),
    seconds: entry.seconds,
    committedAt: new Date(entry.committedAtMs),
    unusable: entry.unusable ?? "",
    read: partsMessage(entry.read),
  }));
}

function partsMessage(read: ReadView | null): CheckpointParts | undefined {
  return read === null ? undefined : { whole: read.whole, of: read.of, at: new Date(read.atMs) };
}

export function previewMessage(preview: Preview): PreviewMessage {
  const { state, uri, prompts, seed, steps, guidance, shift, width, height, frames, files } = preview;
  return {
    state: { generation: BigInt(state.generation), step: BigInt(state.step) },
    uri,
    prompts: [...prompts],
    seed: BigInt(seed),
    samplingSteps: steps,
    guidance,
    shift,
    width,
    height,
    frames,
    files: files.map(({ name, bytes }) => ({ name, bytes: BigInt(bytes) })),
    drawnAt: new Date(preview.drawnAt),
  };
}

function after(record: IncidentRecord, atMs: number): string {
  const seconds = (atMs - record.openedAtMs) / 1000;
  return `${seconds < 0 ? "" : "+"}${seconds.toFixed(3)} s`;
}
