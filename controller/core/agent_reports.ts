import { adoptRunning, onAdoptedPages } from "./adopt.js";
import { onRetentionEnded, onSaved, onSaveFailed } from "./checkpoints.js";
import type { Event, Session } from "./contract.js";
import { knownCode } from "./failure_class.js";
import { onRankConnected, onRankReady, onRankRestored } from "./form.js";
import { addStack } from "./incident.js";
import { isOver, reconsider } from "./jobs.js";
import { type Fault, faultOf } from "./judge_fault.js";
import { raiseTerm } from "./leadership.js";
import { endWhereSaved, onLeaving } from "./leave.js";
import { pageText } from "./localise_stall.js";
import { hear, onHeartbeat, onHello } from "./nodes.js";
import { onPreviewDue, onPreviewEnded, onPreviewRead } from "./previews.js";
import { onCheckpointRead } from "./read_back.js";
import { isEcho, reform, reportFaults } from "./recover.js";
import { onReleased } from "./release.js";
import { onReplicaFailed } from "./replica_alarm.js";
import { onLateStep, onRankFinished, onStep, tryComplete } from "./run.js";
import { onCheckBegun, onCheckReport } from "./self_checks.js";
import { onStorageProof } from "./shared_storage.js";
import { onSignals } from "./signals.js";
import type { JobState, NodeState } from "./state.js";
import { observe, type Turn } from "./turn.js";
import { onTwinsDiffer } from "./twins.js";
import { type Report, readReport } from "./wire.js";

/** A message of an agent: malformed ones, and those of replaced streams and older generations, are counted and dropped. */
export function onAgentMessage(turn: Turn, event: Event & { kind: "agentMessage" }): void {
  const report = readReport(event.message);
  if (report === null) {
    refused(turn, "malformed");
    return;
  }
  if (report.kind === "hello") {
    if (report.hello.term <= turn.state.leader!.term) {
      onHello(turn, event.from, report.hello);
      return;
    }
    turn.state.deferred.push(event);
    raiseTerm(turn, report.hello.term);
    return;
  }
  const node = turn.state.nodes.get(event.from.nodeId);
  if (node === undefined || !isPresent(node, event.from)) {
    refused(turn, "stale_session");
    return;
  }
  hear(turn, node);
  onReport(turn, node, report);
}

/** Only the newest stream of the newest process of a node speaks for it. */
function isPresent(node: NodeState, from: Session): boolean {
  return node.session === from.session && node.incarnation === from.incarnation;
}

function refused(turn: Turn, reason: "malformed" | "stale_session" | "stale_generation"): void {
  observe(turn, "goku_agent_messages_refused_total", 1, { reason });
}

function onReport(turn: Turn, node: NodeState, report: Report): void {
  switch (report.kind) {
    case "heartbeat":
      onHeartbeat(turn, node, report);
      adoptFrom(turn, node, report);
      return;
    case "released":
      onReleased(turn, node.nodeId, report.jobId);
      reconsider(turn);
      return;
    case "saved":
    case "saveFailed": {
      const job = turn.state.jobs.get(node.jobId ?? node.heldJobId ?? "");
      if (job === undefined || isOver(job)) {
        refused(turn, "stale_generation");
        return;
      }
      if (report.kind === "saveFailed") {
        onSaveFailed(turn, job, node, report);
        return;
      }
      onSaved(turn, job, node, report);
      if (endWhereSaved(turn, job)) return;
      if (job.generation?.stage === "run") tryComplete(turn, job, false);
      if (job.stage === "waiting") reform(turn, job); // for this it may have waited
      return;
    }
    case "retentionEnded": {
      const job = turn.state.jobs.get(node.jobId ?? node.heldJobId ?? "");
      // After the last commit the job is over, which makes nothing of this wrong.
      if (job !== undefined && !isOver(job)) onRetentionEnded(turn, job, report);
      return;
    }
    case "checkpointRead": {
      const job = turn.state.jobs.get(node.jobId ?? node.heldJobId ?? "");
      // What lies at rest is as it is, whatever generation runs by now.
      if (job !== undefined && !isOver(job)) onCheckpointRead(turn, job, node.nodeId, report);
      return;
    }
    case "leaving":
      onLeaving(turn, node, report, "agent");
      reconsider(turn);
      return;
    case "checkBegun":
      onCheckBegun(turn, node, report);
      return;
    case "checked":
      onCheckReport(turn, node, report);
      return;
    case "signals":
      onSignals(turn, node, report);
      return;
    case "hello":
    case "output":
      return;
    default:
      onGenerationReport(turn, node, report);
      return;
  }
}

function adoptFrom(turn: Turn, node: NodeState, report: Report & { kind: "heartbeat" }): void {
  const job = node.jobId === null ? undefined : turn.state.jobs.get(node.jobId);
  if (job?.generation?.number === report.generation && !isOver(job)) onAdoptedPages(turn, job, report.pages);
}

type GenerationReport = Extract<
  Report,
  {
    kind:
      | "ready"
      | "connected"
      | "restored"
      | "step"
      | "exited"
      | "failed"
      | "finished"
      | "refusedPrepare"
      | "replicaFailed"
      | "storageProof"
      | "twinsDiffer"
      | "previewDue"
      | "previewRead"
      | "previewEnded"
      | "inspected";
  }
>;

/** The fence: only the newest generation of the job that has a place for this node, and only the rank's own node. */
function onGenerationReport(turn: Turn, node: NodeState, report: GenerationReport): void {
  const job = node.jobId === null ? undefined : turn.state.jobs.get(node.jobId);
  const generation = job?.generation;
  if (job === undefined || generation == null || isOver(job)) {
    refused(turn, "stale_generation");
    return;
  }
  if (report.generation !== generation.number) {
    if (report.kind === "step" && onLateStep(turn, job, report)) return;
    refused(turn, "stale_generation");
    return;
  }
  const rank = "rank" in report ? report.rank : null;
  if (rank !== null && generation.rankNodes[rank] !== node.nodeId) {
    refused(turn, "stale_generation");
    return;
  }
  if (report.kind === "failed") {
    onFailed(turn, job, node, report);
    return;
  }
  if (report.kind === "exited" || report.kind === "refusedPrepare") {
    reportFaults(turn, job, [faultFrom(turn, job, node, report)]);
    return;
  }
  if (report.kind === "inspected") {
    if (job.incident !== null) addStack(job.incident, node.nodeId, report);
    return;
  }
  if (report.kind === "replicaFailed") {
    onReplicaFailed(turn, job, report);
    return;
  }
  if (report.kind === "twinsDiffer") {
    onTwinsDiffer(turn, job, report);
    return;
  }
  if (report.kind === "storageProof") {
    if (generation.nodeRanks.has(node.nodeId)) onStorageProof(turn, job, node, report);
    return;
  }
  if (report.kind === "previewDue" || report.kind === "previewRead" || report.kind === "previewEnded") {
    onPreviewReport(turn, job, node, report);
    return;
  }
  if (report.kind === "step" || report.kind === "finished") {
    const found = generation.stage === "adopt" && (job.stage === "forming" || job.stage === "running");
    if (found) adoptRunning(turn, job);
    if (report.kind === "step") onStep(turn, job, report);
    else if (job.stage === "running") onRankFinished(turn, job, report);
    return;
  }
  if (job.stage !== "forming") return;
  if (report.kind === "ready") {
    onRankReady(turn, job, node, report);
    return;
  }
  if (report.kind === "connected") {
    onRankConnected(turn, job, report.rank);
    return;
  }
  onRankRestored(turn, job, report);
  return;
}

/** The others of the node that failed alike count as if each had said so itself. */
function onFailed(turn: Turn, job: JobState, node: NodeState, report: Report & { kind: "failed" }): void {
  for (const rank of [report.rank, ...report.others]) {
    const generation = job.generation!;
    // With the last answer to an abort the next one forms.
    if (generation.number !== report.generation || isOver(job)) return;
    if (generation.rankNodes[rank] !== node.nodeId) continue;
    const own = { ...report, rank };
    if (!isEcho(job, node.nodeId, own)) reportFaults(turn, job, [faultFrom(turn, job, node, own)]);
  }
}

/** Nothing but pictures depends on them. */
function onPreviewReport(
  turn: Turn,
  job: JobState,
  node: NodeState,
  report: Report & { kind: "previewDue" | "previewRead" | "previewEnded" },
): void {
  if (job.stage !== "running" || job.generation!.stage !== "run") return;
  if (report.kind === "previewDue") onPreviewDue(turn, job, node, report);
  else if (report.kind === "previewRead") onPreviewRead(turn, job, report);
  else onPreviewEnded(turn, job, node, report);
}

function faultFrom(
  turn: Turn,
  job: JobState,
  node: NodeState,
  report: Extract<Report, { kind: "exited" | "failed" | "refusedPrepare" }>,
): Fault {
  const { nodeId } = node;
  if (report.kind === "exited") {
    const how = report.signal === "" ? `exited with code ${report.exitCode}` : `ended by ${report.signal}`;
    const where = report.page === null ? "" : ` in ${pageText(report.page)}`;
    return faultOf({
      atMs: turn.nowMs,
      source: "exit",
      code: "RANK_DIED",
      rank: report.rank,
      nodeId,
      operation: report.page?.phase ?? "",
      text: `rank ${report.rank} on ${nodeId} ${how}${where}`,
      lastLines: report.lastLines,
      ordered: job.kills.has(report.rank),
    });
  }
  const { error } = report;
  const named = error.peer === undefined ? "" : `, names rank ${error.peer}`;
  const inside = error.operation === "" ? "" : ` in ${error.operation}`;
  const who = report.kind === "failed" ? `rank ${report.rank} on ${nodeId}` : nodeId;
  return faultOf({
    atMs: turn.nowMs,
    source: report.kind === "failed" ? "failed" : "refused",
    code: knownCode(error.code),
    rank: report.kind === "failed" ? report.rank : null,
    nodeId,
    peer: error.peer ?? null,
    operation: error.operation,
    text: `${who}: ${error.code}${inside}${named}: ${error.message}`,
    lastLines: report.kind === "failed" ? report.lastLines : [],
  });
}
