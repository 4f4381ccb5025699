import { admitNode } from "./admit_node.js";
import { adoptMember, adoptRunning, isTraining } from "./adopt.js";
import { onAnswerPages } from "./answers.js";
import type { Event, Session } from "./contract.js";
import { recallFate } from "./fate.js";
import { forgetNodes } from "./forget.js";
import { mustStop, repeatToSenders, sendPhase } from "./form.js";
import { keepFormer } from "./former.js";
import { decide } from "./incident.js";
import { isOver, reconsider } from "./jobs.js";
import { type Fault, faultOf } from "./judge_fault.js";
import { onLeaving, onLeft, repeatRescue } from "./leave.js";
import { resumePreviews } from "./previews.js";
import { protect } from "./protect.js";
import { dropKill, sendKill } from "./reap.js";
import { reportFaults } from "./recover.js";
import { releaseNode } from "./release.js";
import { onPages } from "./run.js";
import { onNodeHello } from "./self_checks.js";
import { considerBoot } from "./signals.js";
import type { GenerationState, JobState, NodeState } from "./state.js";
import { armSooner, log, observe, RECONSIDER_TIMER, send, silenceMs, type Turn } from "./turn.js";
import { onProgressTold } from "./watch_stall.js";
import type { NodeHello, Report } from "./wire.js";

/** An agent introduces itself: admit it, then bring what it says and what we want of it together. */
export function onHello(turn: Turn, from: Session, hello: NodeHello): void {
  const { state, nowMs } = turn;
  const known = state.nodes.get(hello.nodeId) ?? null;
  if (known !== null && known.session !== null && from.session <= known.session) return;
  const admission = admitNode({
    hello,
    known: known?.incarnation ?? null,
    controllerVersion: state.config.version,
  });
  if (admission.kind === "refuse") {
    refuse(turn, from, admission.code, admission.reason);
    log(turn, { level: "alarm", type: "node", nodeId: hello.nodeId, text: admission.reason });
    return;
  }
  if (known !== null && known.session !== null) {
    const why = `Cannot keep this stream of node ${hello.nodeId}: a newer one took over`;
    refuse(turn, { ...from, session: known.session }, "CONFLICT", why);
  }
  const node = nodeFrom(turn, from, hello);
  node.fate = known?.fate ?? null;
  node.signs = known?.signs ?? [];
  if (known?.incarnation === node.incarnation) {
    node.leaving = known.leaving;
    node.joinedMs = known.joinedMs;
  } else startedAnew(turn, node.nodeId);
  state.nodes.set(hello.nodeId, node);
  forgetNodes(turn);
  state.nodesChangedMs = nowMs;
  send(turn, node, {
    $case: "welcome",
    value: {
      controllerId: state.leader!.controllerId,
      heartbeatIntervalMs: state.config.limits.heartbeatMs,
    },
  });
  log(turn, { level: "info", type: "node", nodeId: node.nodeId, text: admission.reason });
  countConnected(turn);
  if (hello.leaving !== null) onLeaving(turn, node, hello.leaving, "agent");
  settleNode(turn, node, hello);
  considerBoot(turn, node);
  onNodeHello(turn, node, hello);
  const moved = known !== null && (known.host !== node.host || known.peerPort !== node.peerPort);
  const job = moved ? memberOf(turn, node.nodeId) : null;
  if (job !== null) repeatToSenders(turn, job, node);
  reconsider(turn);
}

/** Another process than before, on a node that may have been mended meanwhile. */
function startedAnew(turn: Turn, nodeId: string): void {
  memberOf(turn, nodeId)?.generation?.draining.delete(nodeId); // that process has left
  for (const job of turn.state.jobs.values()) job.unconnected.delete(nodeId);
}

function nodeFrom(turn: Turn, from: Session, hello: NodeHello): NodeState {
  return {
    nodeId: hello.nodeId,
    incarnation: hello.incarnation,
    joinedMs: turn.nowMs,
    session: from.session,
    ended: false,
    heardMs: turn.nowMs,
    steadyMs: turn.nowMs + steadyAfterMs(turn),
    slots: hello.slots,
    host: hello.host,
    device: hello.device,
    version: hello.version,
    heldJobId: hello.jobId,
    held: hello.held,
    heardCommand: null,
    generation: hello.generation,
    pages: hello.pages,
    jobId: memberOf(turn, hello.nodeId)?.record.jobId ?? null,
    releasing: false,
    leaving: null,
    fate: null,
    failureDomain: turn.state.domains.get(hello.nodeId) ?? hello.failureDomain,
    machine: hello.machine,
    peerPort: hello.peerPort,
    metricsUrl: hello.metricsUrl,
    unwatched: hello.unwatched,
    signs: [],
    rates: new Map(),
    devices: hello.devices,
  };
}

/** Counts from the next generation on: where a present one keeps its replicas stays as it is. */
export function onDomain(turn: Turn, { nodeId, domain }: Event & { kind: "nodeDomain" }): void {
  const { domains, nodes } = turn.state;
  if (domain === null) {
    domains.delete(nodeId); // what its agent says counts from its next hello on
    return;
  }
  domains.set(nodeId, domain);
  const node = nodes.get(nodeId);
  if (node !== undefined) node.failureDomain = domain;
}

/** The living job whose newest generation has a place for the node. */
function memberOf(turn: Turn, nodeId: string): JobState | null {
  for (const job of turn.state.jobs.values()) {
    if (!isOver(job) && job.generation?.nodeRanks.has(nodeId)) return job;
  }
  return null;
}

/** What runs there against what should run there. */
function settleNode(turn: Turn, node: NodeState, hello: NodeHello): void {
  const job = memberOf(turn, node.nodeId);
  const { heldJobId } = node;
  if (heldJobId !== null && heldJobId !== job?.record.jobId) settleStranger(turn, node, heldJobId);
  if (job !== null) settleMember(turn, job, node, hello);
}

/** It holds something of a job that has no place for it now. */
function settleStranger(turn: Turn, node: NodeState, heldJobId: string): void {
  const held = turn.state.jobs.get(heldJobId);
  if (held === undefined) {
    const text = `${node.nodeId} holds job ${heldJobId}, which this controller does not know: left alone; restart its agent to free it`;
    log(turn, { level: "alarm", type: "node", nodeId: node.nodeId, text });
    return;
  }
  // While its job looks for nodes, what the node still holds in memory may be wanted.
  const wanted = held.stage === "waiting" || held.stage === "settling" || held.stage === "answering";
  if (held.stage === "ending" || wanted || held.stage === "reaping") return;
  if (isOver(held) || !keepFormer(turn, held, node)) releaseNode(turn, node.nodeId, heldJobId);
}

function settleMember(turn: Turn, job: JobState, node: NodeState, hello: NodeHello): void {
  const generation = job.generation!;
  protect(turn, job);
  onPages(turn, job, node, hello.generation === generation.number ? hello.pages : []);
  switch (job.stage) {
    case "forming":
    case "running":
      if (generation.stage === "adopt") {
        adoptMember(turn, job, node, hello);
        return;
      }
      if (generation.stage === "prepare") {
        resumePrepare(turn, job, node);
        return;
      }
      if (generation.stage !== "persisting") {
        resumeMember(turn, job, node, hello);
        return;
      }
      return;
    case "settling":
    case "answering": {
      const gone = lostRanks(turn, job, generation, node, hello);
      if (gone.length > 0) reportFaults(turn, job, gone);
      return;
    }
    case "reaping":
      resumeReaping(turn, job, node, hello);
      return;
    case "waiting":
      readopt(turn, job, node, hello);
      return;
    default:
      return;
  }
}

/** In PREPARE nothing binds the ranks together yet: another process of the node simply starts over. */
function resumePrepare(turn: Turn, job: JobState, node: NodeState): void {
  const generation = job.generation!;
  const before = generation.incarnations.get(node.nodeId);
  if (before !== undefined && before !== node.incarnation) {
    for (const rank of generation.nodeRanks.get(node.nodeId)!) {
      if (generation.reached[rank] === 1) generation.reachedCount -= 1;
      generation.reached[rank] = 0;
    }
  }
  sendPhase(turn, job, node);
}

function resumeMember(turn: Turn, job: JobState, node: NodeState, hello: NodeHello): void {
  const generation = job.generation!;
  const gone = lostRanks(turn, job, generation, node, hello);
  if (gone.length > 0) {
    reportFaults(turn, job, gone);
    return;
  }
  sendPhase(turn, job, node);
  if (generation.stage !== "run") return;
  resumePreviews(turn, generation, node);
  const value = { generation: BigInt(generation.number) };
  if (mustStop(job)) send(turn, node, { $case: "requestStop", value });
  else if (generation.yielding) send(turn, node, { $case: "requestYield", value });
  repeatRescue(turn, generation, node);
}

/** Ranks of the generation that ended on this node without a report. */
export function lostRanks(
  turn: Turn,
  job: JobState,
  generation: GenerationState,
  node: NodeState,
  hello: NodeHello,
): Fault[] {
  const { nodeId } = node;
  const base = { atMs: turn.nowMs, nodeId } as const;
  const before = generation.incarnations.get(nodeId);
  if (before !== undefined && before !== node.incarnation) {
    const text = `the agent of ${nodeId} restarted, its ranks ended with it`;
    return [faultOf({ ...base, source: "restart", code: "NODE_LOST", text })];
  }
  if (hello.generation !== generation.number || hello.jobId !== job.record.jobId) {
    const text = `${nodeId} does not run generation ${generation.number} any more`;
    return [faultOf({ ...base, source: "restart", code: "NODE_LOST", text })];
  }
  const living = new Set(hello.pages.map((page) => page.rank));
  return generation.nodeRanks
    .get(nodeId)!
    .filter((rank) => !living.has(rank))
    .map((rank) => {
      const text = `rank ${rank} on ${nodeId} ended while its agent could not report`;
      return faultOf({ ...base, source: "exit", code: "RANK_DIED", rank, text });
    });
}

/**
 * Nobody was in sight for so long that the generation was given up, but nobody could be told either: when its nodes
 * come back training, it goes on as if nothing had been decided.
 */
function readopt(turn: Turn, job: JobState, node: NodeState, hello: NodeHello): void {
  const generation = job.generation!;
  if (generation.abortSent || lostRanks(turn, job, generation, node, hello).length > 0) return;
  if (!hello.pages.some((page) => isTraining(page, generation.number))) return;
  decide(turn, job, `goes on: ${node.nodeId} is back and trains generation ${generation.number}`);
  job.faults = [];
  adoptRunning(turn, job);
}

function resumeReaping(turn: Turn, job: JobState, node: NodeState, hello: NodeHello): void {
  const generation = job.generation!;
  const gone = lostRanks(turn, job, generation, node, hello);
  const ended = new Set(gone.map((fault) => fault.rank));
  for (const [rank, nodeId] of [...job.kills]) {
    if (nodeId !== node.nodeId) continue;
    const moved = generation.answered.has(rank) || generation.changedMs[rank]! > generation.abortedMs;
    if (ended.has(rank) || ended.has(null) || moved) dropKill(turn, job, rank);
    else sendKill(turn, job, rank, "repeated after a reconnect");
  }
}

/** Unreachable, not dead: nothing follows from this alone. */
export function onDisconnected(turn: Turn, event: Event & { kind: "agentDisconnected" }): void {
  const { from, reason } = event;
  const node = turn.state.nodes.get(from.nodeId);
  if (node === undefined || node.session !== from.session) return;
  node.session = null;
  node.ended = turn.nowMs - node.heardMs <= silenceMs(turn);
  countConnected(turn);
  log(turn, {
    level: "warning",
    type: "node",
    nodeId: node.nodeId,
    jobId: node.jobId,
    text: `${node.nodeId} cannot be reached (${reason}); its ranks may well go on`,
  });
  const job = node.jobId === null ? undefined : turn.state.jobs.get(node.jobId);
  if (node.leaving !== null && job?.generation != null) onLeft(turn, job, node.nodeId);
  recallFate(turn, node);
}

export function onHeartbeat(turn: Turn, node: NodeState, report: Report & { kind: "heartbeat" }): void {
  node.generation = report.generation;
  node.pages = report.pages;
  if (report.held !== null) node.held = report.held;
  node.heardCommand = report.heard;
  node.rates = report.rates;
  const job = node.jobId === null ? undefined : turn.state.jobs.get(node.jobId);
  if (job === undefined || job.generation === null || isOver(job)) return;
  if (job.generation.number === report.generation) {
    onPages(turn, job, node, report.pages);
    if (job.stage === "running") onProgressTold(turn, job, node.nodeId);
    else if (job.stage === "answering") onAnswerPages(turn, job, node.nodeId);
  }
  if (job.stage === "waiting" && report.held !== null) lookAgainSoon(turn);
}

/** What the others hold decides whether a lost node is waited for. They all tell it at about the same time: looks once. */
function lookAgainSoon(turn: Turn): void {
  const soonMs = turn.nowMs + turn.state.config.limits.heartbeatMs / 4;
  armSooner(turn, RECONSIDER_TIMER, soonMs);
}

/** Any message proves the node reachable; after a silence, jobs that wait look again. */
export function hear(turn: Turn, node: NodeState): void {
  const wasSilent = turn.nowMs - node.heardMs > silenceMs(turn);
  node.heardMs = turn.nowMs;
  if (!wasSilent) return;
  node.steadyMs = turn.nowMs + steadyAfterMs(turn);
  reconsider(turn);
}

function steadyAfterMs(turn: Turn): number {
  return 2 * turn.state.config.limits.heartbeatMs;
}

function refuse(turn: Turn, to: Session, code: "STATE_INVALID" | "CONFLICT", message: string): void {
  const error = { code, message, peer: undefined, operation: "" };
  turn.effects.push({ kind: "refuse", nodeId: to.nodeId, session: to.session, error });
}

function countConnected(turn: Turn): void {
  let connected = 0;
  for (const node of turn.state.nodes.values()) if (node.session !== null) connected += 1;
  observe(turn, "goku_nodes_connected", connected);
}
