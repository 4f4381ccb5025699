import { adoptRunning, checkAdoption, onAdoptedPages } from "./adopt.js";
import { onSaved, onSaveFailed } from "./checkpoints.js";
import type { Effect, Event, Session } from "./contract.js";
import { durableKeys } from "./contract.js";
import { onPersisted, onRead, onStoreTimer, persist } from "./durable.js";
import { knownCode } from "./failure_class.js";
import { checkForming, onRankConnected, onRankReady, onRankRestored, prepareGeneration } from "./form.js";
import { acceptJob, isOver, onEnded, passStop, reconsider, saveJob, stopJob, submitJob } from "./jobs.js";
import { type Fault, faultOf } from "./judge_fault.js";
import { gainLeadership, lead, loseLeadership, raiseTerm } from "./leadership.js";
import { pageText } from "./localise_stall.js";
import { hear, onDisconnected, onHeartbeat, onHello } from "./nodes.js";
import { onRecoveryTimer, reportFaults } from "./recover.js";
import { onReleased } from "./release.js";
import { checkStall, onRankFinished, onStep, tryComplete } from "./run.js";
import type { Continuation, CoreState, JobState, NodeState } from "./state.js";
import { arm, log, observe, RECONSIDER_TIMER, reply, STORE_TIMER, type Turn } from "./turn.js";
import { type Report, readReport } from "./wire.js";

/**
 * The core: takes one event, changes the state that it owns, and returns what is to be done, in order.
 * No clock, no I/O, no chance: time and ids come with the event.
 */
export function step(state: CoreState, event: Event, nowMs: number): Effect[] {
  const turn: Turn = { state, nowMs, effects: [] };
  handle(turn, event);
  return turn.effects;
}

function handle(turn: Turn, event: Event): void {
  const { state } = turn;
  if (event.kind === "leadershipGained") {
    gainLeadership(turn, event);
    return;
  }
  if (state.leader === null) return;
  switch (event.kind) {
    case "leadershipLost":
      loseLeadership(turn, event.reason);
      return;
    case "persisted":
      proceed(turn, onPersisted(turn, event.id, event.outcome));
      return;
    case "read":
      proceed(turn, onRead(turn, event.id, event.entries));
      return;
    case "timerFired":
      onTimer(turn, event.timer);
      return;
  }
  const fromAgent = event.kind === "agentMessage" || event.kind === "agentDisconnected";
  if (!state.leader.ready || (state.raising && fromAgent)) {
    state.deferred.push(event);
    return;
  }
  switch (event.kind) {
    case "agentMessage":
      onAgentMessage(turn, event);
      return;
    case "agentDisconnected":
      onDisconnected(turn, event);
      return;
    case "jobSubmitted":
      submitJob(turn, event);
      return;
    case "stopRequested":
      stopJob(turn, event);
      return;
    case "saveRequested":
      saveJob(turn, event);
      return;
    case "quarantineLifted":
      liftQuarantine(turn, event.requestId, event.nodeId);
      return;
  }
}

/** A write is durable: do what waited for it. */
function proceed(turn: Turn, then: Continuation | { kind: "resign"; reason: string } | null): void {
  if (then === null) return;
  switch (then.kind) {
    case "none":
      return;
    case "resign":
      turn.effects.push({ kind: "resign", reason: then.reason });
      loseLeadership(turn, then.reason);
      return;
    case "lead":
      lead(turn);
      replay(turn);
      return;
    case "raise":
      turn.state.leader!.term = then.term;
      turn.state.raising = false;
      replay(turn);
      return;
    case "accept":
      acceptJob(turn, then.requestId, then.jobId);
      return;
    case "prepare": {
      const job = turn.state.jobs.get(then.jobId)!;
      const { generation } = job;
      if (generation?.number === then.generation && generation.stage === "persisting" && !isOver(job)) {
        prepareGeneration(turn, job);
      }
      return;
    }
    case "end":
      onEnded(turn, then.jobId);
      return;
    case "stop":
      passStop(turn, then.requestId, then.jobId);
      return;
    case "confirm":
      reply(turn, then.requestId, { ok: true, jobId: "" });
      return;
  }
}

function replay(turn: Turn): void {
  const { deferred } = turn.state;
  turn.state.deferred = [];
  for (const event of deferred) handle(turn, event);
}

function onTimer(turn: Turn, timer: string): void {
  const { state } = turn;
  const atMs = state.timers.get(timer);
  if (atMs === undefined) return;
  state.timers.delete(timer);
  if (turn.nowMs < atMs) {
    arm(turn, timer, atMs);
    return;
  }
  if (timer === STORE_TIMER) {
    onStoreTimer(turn);
    return;
  }
  if (timer === RECONSIDER_TIMER) {
    reconsider(turn);
    return;
  }
  const [, jobId, what] = timer.split("/");
  const job = state.jobs.get(jobId ?? "");
  if (job === undefined || isOver(job) || excuseLate(turn, timer, atMs)) return;
  if (what !== "stall") onStageTimer(turn, job);
  else if (job.stage === "running") checkStall(turn, job);
}

/**
 * A timer that fires far too late tells that this controller itself stood still, and that what the agents sent
 * meanwhile has not been read yet. It judges nobody then and looks again, once, after two heartbeats.
 */
function excuseLate(turn: Turn, timer: string, atMs: number): boolean {
  const { excused, config } = turn.state;
  const { heartbeatMs } = config.limits;
  if (turn.nowMs - atMs <= heartbeatMs || excused.has(timer)) {
    excused.delete(timer);
    return false;
  }
  excused.add(timer);
  arm(turn, timer, turn.nowMs + 2 * heartbeatMs);
  return true;
}

function onStageTimer(turn: Turn, job: JobState): void {
  if (job.stage !== "forming" && job.stage !== "running") {
    onRecoveryTimer(turn, job);
    return;
  }
  const generation = job.generation!;
  if (generation.stage === "adopt") {
    checkAdoption(turn, job);
    return;
  }
  if (generation.stage === "run") {
    tryComplete(turn, job, true);
    return;
  }
  if (generation.stage !== "persisting") checkForming(turn, job);
}

function onAgentMessage(turn: Turn, event: Event & { kind: "agentMessage" }): void {
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
      if (job.generation?.stage === "run") tryComplete(turn, job, false);
      return;
    }
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
  { kind: "ready" | "connected" | "restored" | "step" | "exited" | "failed" | "finished" | "refusedPrepare" }
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
    refused(turn, "stale_generation");
    return;
  }
  const rank = "rank" in report ? report.rank : null;
  if (rank !== null && generation.rankNodes[rank] !== node.nodeId) {
    refused(turn, "stale_generation");
    return;
  }
  if (report.kind === "exited" || report.kind === "failed" || report.kind === "refusedPrepare") {
    reportFaults(turn, job, [faultFrom(turn, job, node, report)]);
    return;
  }
  if (report.kind === "step" || report.kind === "finished") {
    const found = generation.stage === "adopt" && (job.stage === "forming" || job.stage === "running");
    if (found) adoptRunning(turn, job);
    if (job.stage !== "running") return;
    report.kind === "step" ? onStep(turn, job, report) : onRankFinished(turn, job, report);
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
  onRankRestored(turn, job, report.rank, report.state);
  return;
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

function liftQuarantine(turn: Turn, requestId: string, nodeId: string): void {
  if (!turn.state.quarantine.delete(nodeId)) {
    const message = `Cannot lift the quarantine of node ${nodeId}: it is not quarantined`;
    reply(turn, requestId, { ok: false, code: "NOT_FOUND", message });
    return;
  }
  persist(turn, [{ key: durableKeys.quarantine(nodeId), record: null }], { kind: "confirm", requestId });
  log(turn, { level: "info", type: "node", nodeId, text: `${nodeId} may be used again` });
  reconsider(turn);
}
