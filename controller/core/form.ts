import type { DurableWrite, StateName } from "./contract.js";
import { durableKeys } from "./contract.js";
import { persist } from "./durable.js";
import { addEvidence, decide, incidentWrite, mark } from "./incident.js";
import { endJob } from "./jobs.js";
import { type Fault, faultOf } from "./judge_fault.js";
import { phaseCommand, stateOf } from "./phase_commands.js";
import type { MembersPlan } from "./plan_members.js";
import { planRestore } from "./plan_restore.js";
import { protect } from "./protect.js";
import { reportFaults } from "./recover.js";
import { releaseNode } from "./release.js";
import { startRunning } from "./run.js";
import { createGeneration, type GenerationState, type JobState, type NodeState } from "./state.js";
import { compareStates, sameState, stateText } from "./state_name.js";
import {
  arm,
  disarm,
  enter,
  hasHeard,
  jobTimers,
  log,
  observe,
  sendAll,
  silenceMs,
  type Turn,
  tell,
} from "./turn.js";
import type { Report, RestoredPart } from "./wire.js";

/**
 * Forming a generation: PREPARE -> all ready -> CONNECT -> all connected -> RESTORE -> all restored -> RUN.
 * Every phase is one message to each node and one report of each rank; a late or failing member fails this generation
 * only. The number is durable before anyone hears of it.
 */
export function startGeneration(
  turn: Turn,
  job: JobState,
  plan: Extract<MembersPlan, { kind: "form" }>,
): void {
  const { state, nowMs } = turn;
  const { layout, rankNodes } = plan;
  const number = Math.max(state.generationLast, newestGenerationKnown(job)) + 1;
  state.generationLast = number;
  const generation = createGeneration({ number, layout, rankNodes, stage: "persisting", nowMs });
  generation.step = job.generation?.step ?? 0;
  generation.leaving = takePlaces(turn, job, generation);
  const { generation: before } = job;
  job.left = before && { generation: before.number, stepReported: before.stepReported };
  job.generation = generation;
  job.prior = { layout: layout.size, rankNodes };
  job.formedMs = nowMs;
  job.faults = [];
  job.kills.clear();
  const writes = [counterWrite(turn), generationWrite(turn, job)];
  if (job.incident !== null) {
    job.incident.generationAfter = number;
    decide(turn, job, `form generation ${number} as ${layout}: ${plan.reason}`);
    writes.push(incidentWrite(job.incident));
  }
  disarm(turn, jobTimers.stage(job));
  disarm(turn, jobTimers.stall(job));
  disarm(turn, jobTimers.leave(job));
  enter(turn, job, "forming", `forming generation ${number} as ${layout}: ${plan.reason}`);
  protect(turn, job);
  persist(turn, writes, { kind: "prepare", jobId: job.record.jobId, generation: number });
}

/** Its number is durable: tell the members. */
export function prepareGeneration(turn: Turn, job: JobState): void {
  const generation = job.generation!;
  for (const nodeId of generation.leaving) releaseNode(turn, nodeId, job.record.jobId);
  generation.leaving = [];
  enterPhase(turn, job, "prepare", turn.state.config.limits.prepareMs);
  mark(turn, job, "prepared");
  sendPhaseAll(turn, job);
}

function sendPhaseAll(turn: Turn, job: JobState): void {
  for (const nodeId of job.generation!.nodeRanks.keys()) sendPhase(turn, job, turn.state.nodes.get(nodeId));
}

/** Repeats to one node what the present phase asks of it. */
export function sendPhase(turn: Turn, job: JobState, node: NodeState | undefined): void {
  if (node === undefined) return;
  const generation = job.generation!;
  if (generation.stage === "prepare") node.heldJobId = job.record.jobId;
  const command = phaseCommand(turn.state.nodes, job, node.nodeId);
  if (command !== null) tell(turn, generation, node.nodeId, command);
}

/** A keeper is found at another address than its senders have been told, since its agent restarted: tells them anew. */
export function repeatToSenders(turn: Turn, job: JobState, keeper: NodeState): void {
  const { stage, keepers, rankNodes } = job.generation!;
  if (stage !== "prepare" || keepers === null) return;
  const senders = new Set((keepers.kept.get(keeper.nodeId) ?? []).map((rank) => rankNodes[rank]!));
  for (const nodeId of senders) sendPhase(turn, job, turn.state.nodes.get(nodeId));
}

export function onRankReady(
  turn: Turn,
  job: JobState,
  node: NodeState,
  report: Report & { kind: "ready" },
): void {
  const generation = job.generation!;
  if (generation.stage !== "prepare") return;
  const { rank, port, pid, held } = report;
  generation.incarnations.set(node.nodeId, node.incarnation);
  generation.states[rank] = held.length > 0 ? held : toldStates(node, rank, generation.layout.toString());
  generation.endpoints[rank] = { rank, nodeId: node.nodeId, host: node.host, port, pid };
  if (!reach(generation, rank)) return;
  mark(turn, job, "ready");
  enterPhase(turn, job, "connect", turn.state.config.limits.connectMs);
  sendPhaseAll(turn, job);
}

export function onRankConnected(turn: Turn, job: JobState, rank: number): void {
  const generation = job.generation!;
  if (generation.stage !== "connect" || !reach(generation, rank)) return;
  mark(turn, job, "connected");
  const choice = planRestore(turn, job);
  if (choice.kind === "none") {
    endJob(turn, job, { phase: "FAILED", code: "CHECKPOINT_CORRUPT", reason: choice.reason });
    return;
  }
  decide(turn, job, `restore ${choice.reason}`);
  enter(turn, job, "forming", `generation ${generation.number} restores ${choice.reason}`);
  enterPhase(turn, job, "restore", turn.state.config.limits.restoreMs);
  sendPhaseAll(turn, job);
}

export function onRankRestored(turn: Turn, job: JobState, report: Report & { kind: "restored" }): void {
  const generation = job.generation!;
  const { rank, state, parts } = report;
  if (generation.stage !== "restore") return;
  const wanted = stateOf(generation.restore!);
  if (!sameState(state, wanted)) {
    const nodeId = generation.rankNodes[rank]!;
    const text = `rank ${rank} on ${nodeId} restored ${stateText(state)}, wanted ${stateText(wanted)}`;
    reportFaults(turn, job, [
      faultOf({ atMs: turn.nowMs, source: "failed", code: "SNAPSHOT_MISSING", rank, nodeId, text }),
    ]);
    return;
  }
  if (generation.reached[rank] === 0) tellSources(turn, job, rank, parts); // a repeat says nothing new
  if (!reach(generation, rank)) return;
  mark(turn, job, "restored");
  generation.step = wanted.step;
  if (job.replicated !== null && compareStates(wanted, job.replicated) < 0) job.replicated = null;
  if (job.incident !== null) job.incident.stepsLost = Math.max(0, job.incident.stepBefore - wanted.step);
  startRunning(turn, job);
  persist(turn, [generationWrite(turn, job)]);
  sendPhaseAll(turn, job);
  if (mustStop(job)) requestStop(turn, generation);
}

/** Sources that did not serve, damaged or gone: what was restored is whole, and people should know why. */
function tellSources(turn: Turn, job: JobState, rank: number, parts: readonly RestoredPart[]): void {
  const nodeId = job.generation!.rankNodes[rank]!;
  for (const { source, bytes, insteadOf } of parts) {
    if (insteadOf === "") continue;
    const text = `rank ${rank} on ${nodeId} restored ${bytes} bytes from ${source}, since others did not serve: ${insteadOf}`;
    if (job.incident !== null) addEvidence(job.incident, turn.nowMs, text);
    log(turn, { level: "warning", type: "checkpoint", jobId: job.record.jobId, nodeId, text });
  }
}

/** A person wants the job to stop, or a member leaves: this generation ends at its next vote. */
export function mustStop(job: JobState): boolean {
  return job.record.stop !== null || job.generation!.draining.size > 0;
}

/** Raised in the next vote; every node is told, so that one broken stream does not matter. */
export function requestStop(turn: Turn, generation: GenerationState): void {
  sendAll(turn, generation, { $case: "requestStop", value: { generation: BigInt(generation.number) } });
}

/**
 * A forming generation is looked at now and then: past its deadline, or with a member whose node has long gone silent,
 * it fails (an agent that dies and comes back says so itself, much sooner). A hung process that never left its old work is found here: it has not become ready, its page stands still.
 */
export function checkForming(turn: Turn, job: JobState): void {
  const generation = job.generation!;
  const overdue = turn.nowMs >= generation.deadlineMs;
  const faults: Fault[] = [];
  for (const [nodeId, ranks] of generation.nodeRanks) {
    const node = turn.state.nodes.get(nodeId);
    if (turn.nowMs - (node?.heardMs ?? 0) > 3 * silenceMs(turn)) {
      const text = `${nodeId} is silent while generation ${generation.number} forms`;
      faults.push(faultOf({ atMs: turn.nowMs, source: "lost", code: "NODE_LOST", nodeId, text }));
    } else if (overdue) {
      const late = ranks.filter((rank) => generation.reached[rank] === 0);
      faults.push(...late.map((rank) => lateFault(turn, generation, rank)));
    }
  }
  if (faults.length > 0) reportFaults(turn, job, faults);
  else armCheck(turn, job);
}

function lateFault(turn: Turn, generation: GenerationState, rank: number): Fault {
  const nodeId = generation.rankNodes[rank]!;
  const doing = { prepare: "ready", connect: "connected", restore: "restored" }[
    generation.stage as "prepare"
  ];
  const text = `rank ${rank} on ${nodeId} was not ${doing} in time for generation ${generation.number}`;
  // In PREPARE a process waits for nobody else, so the late one is the culprit; later it may wait for a peer.
  // One whose node has not heard of the Prepare, or only lately (after a reconnect), is not.
  const toldMs = generation.told.get(nodeId)?.atMs ?? turn.nowMs;
  const heard =
    hasHeard(turn, generation, nodeId) && turn.nowMs - toldMs >= turn.state.config.limits.prepareMs;
  const remedy = generation.stage !== "prepare" ? "ask" : heard ? "kill" : "none";
  const operation = generation.stage;
  return faultOf({
    atMs: turn.nowMs,
    source: "deadline",
    code: "RANK_STALLED",
    rank,
    nodeId,
    text,
    remedy,
    operation,
  });
}

function enterPhase(
  turn: Turn,
  job: JobState,
  stage: "prepare" | "connect" | "restore",
  limitMs: number,
): void {
  const generation = job.generation!;
  generation.stage = stage;
  generation.reached.fill(0);
  generation.reachedCount = 0;
  generation.deadlineMs = turn.nowMs + limitMs;
  armCheck(turn, job);
}

function armCheck(turn: Turn, job: JobState): void {
  const soonMs = turn.nowMs + silenceMs(turn);
  arm(turn, jobTimers.stage(job), Math.min(job.generation!.deadlineMs, soonMs));
}

/** Counts a rank once per phase; true when it was the last. */
function reach(generation: GenerationState, rank: number): boolean {
  if (generation.reached[rank] === 1) return false;
  generation.reached[rank] = 1;
  generation.reachedCount += 1;
  return generation.reachedCount === generation.layout.worldSize;
}

/** What a node's agent told of a rank's snapshots, for agents whose reports do not carry them. */
function toldStates(node: NodeState, rank: number, layout: string): StateName[] {
  return node.held.filter((h) => h.rank === rank && h.layout === layout).map((h) => h.state);
}

/** Generation numbers inside state names must not be given out again, wherever the states came from. */
function newestGenerationKnown(job: JobState): number {
  const known = job.checkpoints.map((entry) => entry.state.generation);
  return Math.max(job.record.generationFloor, job.record.source?.state.generation ?? 0, ...known);
}

/** Gives the members their places; the nodes that lose theirs, or still hold something of the job. */
function takePlaces(turn: Turn, job: JobState, generation: GenerationState): string[] {
  const { jobId } = job.record;
  const leaving: string[] = [];
  for (const node of turn.state.nodes.values()) {
    if (generation.nodeRanks.has(node.nodeId)) {
      node.jobId = jobId;
    } else if (node.jobId === jobId || node.heldJobId === jobId) {
      node.jobId = null;
      leaving.push(node.nodeId);
    }
  }
  observe(turn, "goku_generations_formed_total", 1);
  return leaving;
}

function counterWrite(turn: Turn): DurableWrite {
  const { generationLast, jobOrderLast, leader } = turn.state;
  return {
    key: durableKeys.counter,
    record: { kind: "counter", generationLast, jobOrderLast, term: leader!.term },
  };
}

function generationWrite(turn: Turn, job: JobState): DurableWrite {
  const generation = job.generation!;
  const running = generation.stage === "run";
  return {
    key: durableKeys.generation(job.record.jobId),
    record: {
      kind: "generation",
      jobId: job.record.jobId,
      generation: generation.number,
      term: turn.state.leader!.term,
      layout: generation.layout.size,
      rankNodes: generation.rankNodes,
      stage: running ? "running" : "forming",
      restored: generation.restore === null ? null : stateOf(generation.restore),
      attempts: job.attempts,
      stepHighest: job.stepHighest,
      incident: job.incident?.number ?? null,
      incidentLast: job.incidentLast,
    },
  };
}
