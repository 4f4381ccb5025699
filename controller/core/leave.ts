import { newestCheckpoint, newestCommon } from "./choose_restore.js";
import type { StateName } from "./contract.js";
import { requestStop } from "./form.js";
import { addEvidence, decide, mark, openIncident } from "./incident.js";
import { isOver } from "./jobs.js";
import { type Fault, faultOf } from "./judge_fault.js";
import { heldFor, usualStepMs } from "./members.js";
import { outliveFates } from "./outlive.js";
import { programOf } from "./program.js";
import { endedAsAsked, reform, reportFaults } from "./recover.js";
import { countFinished, tryComplete } from "./run.js";
import type { GenerationState, JobState, NodeState } from "./state.js";
import { compareStates, stateText } from "./state_name.js";
import { arm, disarm, isReachable, jobTimers, log, send, type Turn } from "./turn.js";
import type { NodeLeaving } from "./wire.js";

/**
 * A node that was asked to end (eviction, preemption) and says by when it will be gone:
 *   a generation that trains ends at its next vote, with a durable checkpoint, and the job goes on from that without the node;
 *   one that forms is let form and ends the same way: the state that it restores may be nowhere else than in its memory;
 *   where no vote comes in half of the grace (a rank hangs), or the next one is known to come too late to be saved, or
 *   nothing runs, the newest state that all members hold in memory is made durable by their agents alone.
 * It gets no place in any generation planned from then on. The job is not stopped: nobody asked for that.
 */
export function onLeaving(
  turn: Turn,
  node: NodeState,
  { graceMs, reason }: NodeLeaving,
  by: "agent" | "platform",
): void {
  if (node.leaving === null) {
    const text = `${node.nodeId} leaves within ${seconds(graceMs)} (${reason}): it gets no ranks any more`;
    log(turn, { level: "warning", type: "node", nodeId: node.nodeId, jobId: node.jobId, text });
  }
  node.leaving = { untilMs: turn.nowMs + graceMs, reason, by };
  outliveFates(turn);
  const job = node.jobId === null ? undefined : turn.state.jobs.get(node.jobId);
  const generation = job?.generation;
  if (job === undefined || generation == null || isOver(job)) return;
  if (!generation.nodeRanks.has(node.nodeId) || generation.finished !== null) return;
  const { nodeId } = node;
  const { untilMs } = node.leaving;
  const gone = `is gone in ${seconds(untilMs - turn.nowMs)}`;
  const what = `${nodeId} leaves, asked to by ${reason}`;
  const fault = leavingFault(turn, nodeId, what);
  drain(turn, job, node, {
    untilMs,
    fault,
    evidence: `${what}: it ${gone}`,
    without: `${nodeId}, which ${gone}`,
  });
}

/** Ends the generation at its next vote, because a member is to have no part in the next one. */
export function drain(
  turn: Turn,
  job: JobState,
  node: NodeState,
  why: { untilMs: number; fault: Fault; evidence: string; without: string },
): void {
  const generation = job.generation!;
  const { nodeId } = node;
  const { untilMs } = why;
  const isNews = !generation.draining.has(nodeId);
  const incident = openIncident(turn, job, why.fault);
  if (isNews) addEvidence(incident, turn.nowMs, why.evidence);
  generation.draining.set(nodeId, untilMs);
  const leftMs = deadlineMs(generation) - turn.nowMs;
  const patienceMs = voteTooLate(turn, job) === null ? Math.floor(leftMs / 2) : 0;
  arm(turn, jobTimers.leave(job), turn.nowMs + patienceMs);
  if (job.stage === "running" && generation.stage === "run") {
    if (isNews) decide(turn, job, `save at the next step, then go on without ${why.without}`);
    requestStop(turn, generation);
  } else if (isNews && job.stage === "forming") {
    decide(turn, job, `let generation ${generation.number} form: what it restores may be nowhere else`);
  }
  if (generation.rescue !== null) sendRescue(turn, generation, generation.rescue.state, node);
}

/** It is time to save without the ranks, or all of the grace is over, and the generation has not ended yet. */
export function onLeaveTimer(turn: Turn, job: JobState): void {
  const generation = job.generation!;
  if (generation.draining.size === 0 || generation.finished !== null) return;
  if (job.stage !== "running" && job.stage !== "forming") return; // `reform` sees to it
  const endMs = deadlineMs(generation);
  if (turn.nowMs < endMs) {
    const why = voteTooLate(turn, job) ?? "no vote in half of the grace";
    const voted = generation.pages.every((page) => page?.phase === "finished");
    const state = voted ? null : beginRescue(turn, job, generation);
    if (state !== null) {
      decide(turn, job, `${why}: save ${stateText(state)} from memory, without the ranks`);
    }
    arm(turn, jobTimers.leave(job), endMs);
    return;
  }
  const over = [...generation.draining].filter(([, untilMs]) => untilMs <= turn.nowMs);
  const faults = over.map(([nodeId]) => leavingFault(turn, nodeId, `the grace of ${nodeId} is over`));
  reportFaults(turn, job, faults);
}

/**
 * Its ranks ended at the vote that was asked for, and that state is durable: nothing is lost with the nodes that leave.
 * Told from a person's stop by the record alone, since that is durable before any rank hears of it.
 */
export function goOnElsewhere(turn: Turn, job: JobState, state: StateName): void {
  const generation = job.generation!;
  const left = [...generation.draining.keys()].sort().join(", ");
  const text = `generation ${generation.number} ended by a vote that an earlier leader, or a node alone, asked for`;
  openIncident(turn, job, leavingFault(turn, null, text));
  disarm(turn, jobTimers.stage(job));
  disarm(turn, jobTimers.leave(job));
  endedAsAsked(turn, job);
  mark(turn, job, "aborted");
  const kept =
    programOf(job) === null
      ? `${stateText(state)} is durable: go on from it`
      : "its programs ended: start them";
  decide(turn, job, `${kept}${left === "" ? "" : ` without ${left}`}`);
  reform(turn, job);
}

/** Until when the next generation waits for memory to become durable, and why; null: it need not. */
export function awaitRescue(turn: Turn, job: JobState): { reason: string; untilMs: number } | null {
  const { generation } = job;
  if (generation === null || generation.draining.size === 0 || generation.finished !== null) return null;
  const names = [...generation.draining.keys()].sort().join(", ");
  if (generation.rescue === null) {
    // What memory holds is told by the heartbeats that follow the abort.
    const toldMs = generation.abortedMs + 2 * turn.state.config.limits.heartbeatMs;
    const patienceMs = Math.floor((deadlineMs(generation) - generation.abortedMs) / 2);
    const untilMs = Math.min(toldMs, generation.abortedMs + patienceMs);
    if (turn.nowMs < untilMs) return { reason: `${names} leaves: asks what memory holds`, untilMs };
    beginRescue(turn, job, generation);
  }
  const { rescue } = generation;
  if (rescue === null || turn.nowMs >= rescue.untilMs || isDurable(job, rescue.state)) return null;
  const reason = `${names} leaves: ${stateText(rescue.state)} is saved from memory first`;
  return { reason, untilMs: rescue.untilMs };
}

/** A node that leaves has gone: the final state is durable without its last words. */
export function onLeft(turn: Turn, job: JobState, nodeId: string): void {
  const generation = job.generation!;
  if (job.stage !== "running" || generation.finished === null) return;
  for (const rank of generation.nodeRanks.get(nodeId) ?? []) countFinished(generation, rank);
  tryComplete(turn, job, false);
}

/** Has the agents make the newest state durable that all members hold; null: there is none, or it is durable already. */
function beginRescue(turn: Turn, job: JobState, generation: GenerationState): StateName | null {
  const untilMs = deadlineMs(generation);
  if (turn.nowMs >= untilMs) return null;
  const layout = generation.layout.toString();
  const rankStates = generation.rankNodes.map((nodeId, rank) => {
    const node = turn.state.nodes.get(nodeId);
    if (!isReachable(turn, node)) return [];
    return heldFor(job, node)
      .filter((held) => held.rank === rank && held.layout === layout)
      .map((held) => held.state);
  });
  const state = newestCommon(rankStates, job.excludedSnapshots);
  if (state === null || isDurable(job, state)) return null;
  generation.rescue = { state, untilMs };
  for (const nodeId of generation.nodeRanks.keys()) {
    sendRescue(turn, generation, state, turn.state.nodes.get(nodeId));
  }
  return state;
}

function sendRescue(
  turn: Turn,
  generation: GenerationState,
  state: StateName,
  node: NodeState | undefined,
): void {
  const wire = { generation: BigInt(state.generation), step: BigInt(state.step) };
  const value = { generation: BigInt(generation.number), state: wire };
  send(turn, node, { $case: "saveSnapshot", value });
}

function isDurable(job: JobState, state: StateName): boolean {
  const newest = newestCheckpoint(job.checkpoints, job.excludedCheckpoints);
  return newest !== null && compareStates(newest.state, state) >= 0;
}

function leavingFault(turn: Turn, nodeId: string | null, text: string): Fault {
  return faultOf({ atMs: turn.nowMs, source: "leaving", code: "NODE_PREEMPTED", nodeId, text });
}

/**
 * Why waiting for the next vote is of no use, from how long steps and the last save took; null: there is time for both, or
 * nothing is known yet.
 */
function voteTooLate(turn: Turn, job: JobState): string | null {
  const generation = job.generation!;
  const stepMs = usualStepMs(job);
  if (stepMs === 0 || programOf(job) !== null || generation.stage !== "run") return null;
  const saveMs = 1000 * (job.checkpoints.at(-1)?.seconds ?? 0);
  const voteMs = Math.max(turn.nowMs, Math.max(job.lastStepMs, generation.runMs) + stepMs);
  const endMs = deadlineMs(generation);
  if (voteMs + saveMs <= endMs) return null;
  const takes = `steps take ${seconds(stepMs)}, a save ${seconds(saveMs)}`;
  return `the next vote comes too late to be saved (${takes}, ${seconds(endMs - turn.nowMs)} are left)`;
}

/** When the first of them will be gone. */
function deadlineMs(generation: GenerationState): number {
  return Math.min(...generation.draining.values());
}

function seconds(ms: number): string {
  return `${Math.max(0, ms / 1000).toFixed(1)} s`;
}
