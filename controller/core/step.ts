import { checkAdoption } from "./adopt.js";
import { onAgentMessage } from "./agent_reports.js";
import { forgive } from "./avoid.js";
import type { Effect, Event } from "./contract.js";
import { durableKeys } from "./contract.js";
import { diagnose } from "./diagnosis.js";
import { forgetBlame } from "./doubt.js";
import { drainNode } from "./drain_node.js";
import { onPersisted, onRead, onStoreTimer, persist } from "./durable.js";
import { onFate } from "./fate.js";
import { onCheckpointsFound } from "./find_checkpoints.js";
import { checkForming, prepareGeneration } from "./form.js";
import { acceptJob, isOver, onEnded, passStop, reconsider, saveJob, stopJob, submitJob } from "./jobs.js";
import { gainLeadership, lead, loseLeadership } from "./leadership.js";
import { onLeaveTimer } from "./leave.js";
import { onDisconnected, onDomain } from "./nodes.js";
import { onRecoveryTimer } from "./recover.js";
import { onFinishDue } from "./run.js";
import { armChecks, onChecksTimer, vouch } from "./self_checks.js";
import { onWordsTimer } from "./signals.js";
import type { Continuation, CoreState, JobState } from "./state.js";
import { arm, CHECKS_TIMER, log, RECONSIDER_TIMER, reply, STORE_TIMER, type Turn } from "./turn.js";
import { checkStall } from "./watch_stall.js";

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
    case "checkpointsFound":
      onCheckpointsFound(turn, event);
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
    case "diagnosisRequested":
      diagnose(turn, event);
      return;
    case "drainRequested":
      drainNode(turn, event.requestId, event.nodeId);
      return;
    case "nodeFate":
      onFate(turn, event);
      return;
    case "nodeDomain":
      onDomain(turn, event);
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
      armChecks(turn);
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
  if (timer === CHECKS_TIMER) {
    onChecksTimer(turn);
    return;
  }
  const [, jobId, what] = timer.split("/");
  const job = state.jobs.get(jobId ?? "");
  if (job === undefined || isOver(job) || excuseLate(turn, timer, atMs)) return;
  if (what === "leave") onLeaveTimer(turn, job);
  else if (what === "words") onWordsTimer(turn, job);
  else if (what !== "stall") onStageTimer(turn, job);
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
    onFinishDue(turn, job);
    return;
  }
  if (generation.stage !== "persisting") checkForming(turn, job);
}

function liftQuarantine(turn: Turn, requestId: string, nodeId: string): void {
  const wasBlamed = forgetBlame(turn, nodeId);
  const isForgiven = forgive(turn, nodeId, "a person released it") || wasBlamed;
  if (!turn.state.quarantine.delete(nodeId)) {
    const message = `Cannot lift the quarantine of node ${nodeId}: it is not quarantined, and no job avoids it`;
    reply(turn, requestId, isForgiven ? { ok: true, jobId: "" } : { ok: false, code: "NOT_FOUND", message });
    if (isForgiven) reconsider(turn);
    return;
  }
  persist(turn, [{ key: durableKeys.quarantine(nodeId), record: null }], { kind: "confirm", requestId });
  vouch(turn, nodeId);
  log(turn, { level: "info", type: "node", nodeId, text: `${nodeId} may be used again` });
  reconsider(turn);
}
