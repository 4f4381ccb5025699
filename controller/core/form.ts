import type { DurableWrite, StateName } from "./contract.js";
import { durableKeys } from "./contract.js";
import { persist } from "./durable.js";
import { beginEffective, effectiveRecord } from "./effective_time.js";
import { askStorage, checkStorage } from "./find_checkpoints.js";
import { keepsMemory, releaseFormer } from "./former.js";
import { addEvidence, decide, incidentWrite, mark } from "./incident.js";
import { endJob } from "./jobs.js";
import { type Fault, faultOf } from "./judge_fault.js";
import { pressToSave } from "./leave.js";
import { phaseCommand, stateOf } from "./phase_commands.js";
import type { MembersPlan } from "./plan_members.js";
import { keepChoice, planRestore } from "./plan_restore.js";
import { giveUpPreview } from "./previews.js";
import { programOf } from "./program.js";
import { protect } from "./protect.js";
import { reportFaults } from "./recover.js";
import { startRunning } from "./run.js";
import { wantsProof } from "./shared_storage.js";
import { createGeneration, type GenerationState, type JobState, type NodeState } from "./state.js";
import { compareStates, sameState, stateText } from "./state_name.js";
import { forgetStragglers } from "./stragglers.js";
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
import { noteDoubt } from "./twins.js";
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
  const { layout, rankNodes, device } = plan;
  const number = Math.max(state.generationLast, newestGenerationKnown(job)) + 1;
  state.generationLast = number;
  const generation = createGeneration({ number, layout, rankNodes, device, stage: "persisting", nowMs });
  generation.step = job.generation?.step ?? 0;
  generation.former = takePlaces(turn, job, generation);
  const { generation: before } = job;
  forgetStragglers(turn, job);
  giveUpPreview(turn, job);
  job.left = before && {
    number: before.number,
    layout: before.layout,
    rankNodes: before.rankNodes,
    stepReported: before.stepReported,
  };
  job.numbers.bad = [];
  job.numbers.rollBack = null;
  if (before !== null) job.restarts += 1;
  job.generation = generation;
  job.prior = { layout: layout.size, rankNodes, device };
  if (before !== null) {
    const sinceMs = Math.max(job.formedMs, state.leader!.electedMs);
    job.nodeMs += before.nodeRanks.size * (nowMs - sinceMs);
  }
  job.formedMs = nowMs;
  beginEffective(job.effective, nowMs);
  job.faults = [];
  job.kills.clear();
  const writes = [counterWrite(turn), generationWrite(turn, job)];
  const what = `generation ${number} as ${layout}${device === "cpu" ? "" : ` on ${device}`}`;
  if (job.incident !== null) {
    job.incident.generationAfter = number;
    decide(turn, job, `form ${what}: ${plan.reason}`);
    writes.push(incidentWrite(job.incident));
  }
  disarm(turn, jobTimers.stage(job));
  disarm(turn, jobTimers.stall(job));
  disarm(turn, jobTimers.leave(job));
  pressToSave(turn, job);
  enter(turn, job, "forming", `forming ${what}: ${plan.reason}`);
  protect(turn, job);
  persist(turn, writes, { kind: "prepare", jobId: job.record.jobId, generation: number });
}

/** Its number is durable: tell the members. */
export function prepareGeneration(turn: Turn, job: JobState): void {
  releaseFormer(turn, job, (node) => !keepsMemory(turn, job, node));
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
  noteEndpoint(generation, node, { rank, port, pid });
  if (!reach(generation, rank)) return;
  mark(turn, job, "ready");
  const nodes = [...generation.nodeRanks.keys()].map((nodeId) => generation.endpoints.get(nodeId)!);
  const proveStorage = wantsProof(job, generation);
  generation.connect = { generation: BigInt(generation.number), nodes, proveStorage };
  enterPhase(turn, job, "connect", turn.state.config.limits.connectMs);
  sendPhaseAll(turn, job);
}

function noteEndpoint(
  generation: GenerationState,
  { nodeId, host }: NodeState,
  { rank, port, pid }: { rank: number; port: number; pid: number },
): void {
  const ranks = generation.nodeRanks.get(nodeId)!;
  let endpoints = generation.endpoints.get(nodeId);
  if (endpoints === undefined) {
    endpoints = { nodeId, host, ranks, ports: ranks.map(() => 0), pids: ranks.map(() => 0) };
    generation.endpoints.set(nodeId, endpoints);
  }
  endpoints.host = host;
  const at = ranks.indexOf(rank);
  endpoints.ports[at] = port;
  endpoints.pids[at] = pid;
}

export function onRankConnected(turn: Turn, job: JobState, rank: number): void {
  const generation = job.generation!;
  if (generation.stage !== "connect" || !reach(generation, rank)) return;
  mark(turn, job, "connected");
  for (const nodeId of generation.nodeRanks.keys()) job.unconnected.delete(nodeId);
  chooseSource(turn, job);
}

/** All are connected: what they restore, once it is known what there is. */
export function chooseSource(turn: Turn, job: JobState): void {
  const generation = job.generation!;
  const choice = planRestore(turn, job);
  if (choice.kind !== "snapshot" && askStorage(turn, job)) {
    const { connectMs, storageMs } = turn.state.config.limits;
    generation.deadlineMs = turn.nowMs + (choice.kind === "checkpoint" ? storageMs : connectMs);
    armCheck(turn, job);
    return;
  }
  if (choice.kind === "none") {
    endJob(turn, job, { phase: "FAILED", code: "CHECKPOINT_CORRUPT", reason: choice.reason });
    return;
  }
  keepChoice(job, choice);
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
  noteDoubt(turn, job, wanted);
  if (job.replicated !== null && !isReplicatedStill(generation, wanted, job.replicated))
    job.replicated = null;
  if (job.incident !== null && programOf(job) === null)
    job.incident.stepsLost = Math.max(0, job.incident.stepBefore - wanted.step);
  startRunning(turn, job);
  persist(turn, [generationWrite(turn, job)]);
  sendPhaseAll(turn, job);
  if (mustStop(job)) requestStop(turn, generation);
}

/** Copies of what is given up are overwritten, and those of another layout are freed once a step in the new one is done. */
function isReplicatedStill(generation: GenerationState, restored: StateName, replicated: StateName): boolean {
  const { restore, layout } = generation;
  if (compareStates(restored, replicated) < 0) return false;
  return restore?.kind === "snapshot" && restore.memory.layout.toString() === layout.toString();
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
 * A forming generation is looked at now and then: past its deadline, with a member whose node has long gone silent, or with
 * a rank that hangs, it fails (an agent that dies and comes back says so itself, much sooner). A hung process that never left its old work is found here: it has not become ready, its page stands still.
 */
export function checkForming(turn: Turn, job: JobState): void {
  const generation = job.generation!;
  const overdue = turn.nowMs >= generation.deadlineMs;
  const faults: Fault[] = [];
  const late: number[] = [];
  for (const [nodeId, ranks] of generation.nodeRanks) {
    const node = turn.state.nodes.get(nodeId);
    if (turn.nowMs - (node?.heardMs ?? 0) > 3 * silenceMs(turn)) {
      const text = `${nodeId} is silent while generation ${generation.number} forms`;
      faults.push(faultOf({ atMs: turn.nowMs, source: "lost", code: "NODE_LOST", nodeId, text }));
    } else if (overdue) {
      late.push(...ranks.filter((rank) => generation.reached[rank] === 0));
    } else {
      const still = ranks.filter((rank) => hangs(turn, job, rank));
      faults.push(...still.map((rank) => stillFault(turn, generation, rank)));
    }
  }
  faults.push(...lateFaults(turn, generation, late));
  if (faults.length > 0) reportFaults(turn, job, faults);
  else if (!checkStorage(turn, job, overdue)) armCheck(turn, job);
}

/** One that computes without a beat is given longer than one whose thread is stopped, or sleeps. */
function hangs(turn: Turn, job: JobState, rank: number): boolean {
  const generation = job.generation!;
  const { stillMs, blockedMs } = turn.state.config.limits;
  if (generation.stage === "prepare")
    return programOf(job) === null && preparesNothing(turn, generation, rank);
  const isBlocked = (generation.pages[rank]?.blockedMs ?? 0) >= blockedMs;
  return isStill(turn, generation, rank, isBlocked ? blockedMs : stillMs);
}

/**
 * A rank of ours waits for nobody between Prepare and ready, unless a device's driver makes it. Its page is of the work before, and tells only
 * for how long its thread has been stopped or asleep since it was given its place.
 */
function preparesNothing(turn: Turn, generation: GenerationState, rank: number): boolean {
  const nodeId = generation.rankNodes[rank]!;
  if (generation.device === "cuda" || generation.reached[rank] === 1) return false;
  const node = turn.state.nodes.get(nodeId);
  // What it told before it had heard of its place was of the time before.
  if (node === undefined || node.heardCommand === null || !hasHeard(turn, generation, nodeId)) return false;
  const page = node.pages.find((one) => one.rank === rank);
  return page !== undefined && page.blockedMs >= turn.state.config.limits.blockedMs;
}

/**
 * A rank beats while it forms, whatever it waits for but other ranks in a collective: its page tells that. Reading a large
 * state may take as long as its deadline allows; being stopped, or blocked, is seen long before.
 */
function isStill(turn: Turn, generation: GenerationState, rank: number, forMs: number): boolean {
  const page = generation.pages[rank];
  if (page == null || generation.stage === "prepare" || generation.reached[rank] === 1) return false;
  return !waits(generation, rank) && turn.nowMs - generation.changedMs[rank]! > forMs;
}

/** For other ranks, in a collective. */
function waits(generation: GenerationState, rank: number): boolean {
  const page = generation.pages[rank];
  return page != null && page.entered > page.completed;
}

/**
 * Of late ranks those that do not beat are whom the others wait for; where all beat, or none, those that are in no collective
 * are, such as one that reads what others wait for. Where all are in one, or none is, any may be at fault.
 */
function lateFaults(turn: Turn, generation: GenerationState, late: readonly number[]): Fault[] {
  const still = late.filter((rank) => isStill(turn, generation, rank, 3 * silenceMs(turn)));
  const named = still.length > 0 && still.length < late.length;
  if (named) return still.map((rank) => stillFault(turn, generation, rank));
  const free = late.filter((rank) => !waits(generation, rank));
  return (free.length > 0 ? free : late).map((rank) => lateFault(turn, generation, rank));
}

function stillFault(turn: Turn, generation: GenerationState, rank: number): Fault {
  const nodeId = generation.rankNodes[rank]!;
  const seconds = ((turn.nowMs - generation.changedMs[rank]!) / 1000).toFixed(0);
  const { stage: operation, number } = generation;
  const text = `rank ${rank} on ${nodeId} has shown no sign of life for ${seconds} s (${operation} of generation ${number})`;
  return faultOf({
    atMs: turn.nowMs,
    source: "stall",
    code: "RANK_STALLED",
    rank,
    nodeId,
    text,
    remedy: "kill",
    operation,
  });
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
  const soonMs = turn.nowMs + turn.state.config.limits.heartbeatMs;
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
function takePlaces(turn: Turn, job: JobState, generation: GenerationState): Set<string> {
  const { jobId } = job.record;
  const former = new Set<string>();
  for (const node of turn.state.nodes.values()) {
    if (generation.nodeRanks.has(node.nodeId)) {
      node.jobId = jobId;
    } else if (node.jobId === jobId || node.heldJobId === jobId) {
      node.jobId = null;
      former.add(node.nodeId);
    }
  }
  observe(turn, "goku_generations_formed_total", 1);
  return former;
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
      device: generation.device,
      stage: running ? "running" : "forming",
      restored: generation.restore === null ? null : stateOf(generation.restore),
      attempts: job.attempts,
      restarts: job.restarts,
      stepHighest: job.stepHighest,
      incident: job.incident?.number ?? null,
      incidentLast: job.incidentLast,
      effective: effectiveRecord(job.effective),
    },
  };
}
