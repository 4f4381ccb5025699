import { newestCheckpoint, newestCommon } from "./choose_restore.js";
import type { CheckpointSource, StateName } from "./contract.js";
import { requestStop } from "./form.js";
import { addEvidence, decide, mark, openIncident } from "./incident.js";
import { endJob, isOver } from "./jobs.js";
import { type Fault, faultOf } from "./judge_fault.js";
import { heldFor, usualStepMs } from "./members.js";
import { outliveFates } from "./outlive.js";
import { programOf } from "./program.js";
import { endedAsAsked, reform, reportFaults } from "./recover.js";
import { countFinished, tryComplete } from "./run.js";
import type { GenerationState, JobState, NodeState } from "./state.js";
import { compareStates, stateKey, stateText } from "./state_name.js";
import { arm, disarm, isReachable, jobTimers, log, send, type Turn } from "./turn.js";
import type { NodeLeaving } from "./wire.js";

/**
 * A node that was asked to end (eviction, preemption) and says by when it will be gone:
 *   a generation that trains ends at its next vote, with a durable checkpoint, and the job goes on from that without the node;
 *   one that forms is let form and ends the same way: the state that it restores may be nowhere else than in its memory;
 *   where no vote comes in half of the grace (a rank hangs), or the next one is known to come too late to be saved, or
 *   nothing runs, the newest state that all members hold in memory is made durable by their agents alone.
 * It gets no place in any generation planned from then on. The job is not stopped: nobody asked for that.
 * A person's stop with a grace chooses in the same way what is saved, and by when (`pressToSave`).
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
  pressToSave(turn, job);
  if (job.stage === "running" && generation.stage === "run") {
    if (isNews) decide(turn, job, `save at the next step, then go on without ${why.without}`);
    requestStop(turn, generation);
  } else if (isNews && job.stage === "forming") {
    decide(turn, job, `let generation ${generation.number} form: what it restores may be nowhere else`);
  }
  repeatRescue(turn, generation, node);
}

/**
 * Something must be durable by a certain time: for a vote half of what is left is waited, and not at all where it would come too
 * late. Nothing where neither a member leaves nor a person has asked for a stop.
 */
export function pressToSave(turn: Turn, job: JobState): void {
  const endMs = deadlineMs(job);
  if (endMs === null || isOver(job)) return;
  const leftMs = Math.max(0, endMs - turn.nowMs);
  const patienceMs = voteTooLate(turn, job) === null ? Math.floor(leftMs / 2) : 0;
  arm(turn, jobTimers.leave(job), turn.nowMs + patienceMs);
}

/** It is time to save without the ranks, or all of the grace is over, and the generation has not ended yet. */
export function onLeaveTimer(turn: Turn, job: JobState): void {
  const { generation } = job;
  const endMs = deadlineMs(job);
  if (endMs === null || generation === null || generation.finished !== null) return;
  if (job.stage !== "running" && job.stage !== "forming") return; // `reform` sees to it
  const over = [...generation.draining].filter(([, untilMs]) => untilMs <= turn.nowMs);
  if (over.length > 0) {
    const faults = over.map(([nodeId]) => leavingFault(turn, nodeId, `the grace of ${nodeId} is over`));
    reportFaults(turn, job, faults);
    return;
  }
  if (turn.nowMs < endMs || generation.rescue === null) rescueWithoutVote(turn, job, generation);
  if (turn.nowMs < endMs) {
    arm(turn, jobTimers.leave(job), endMs);
    return;
  }
  if (generation.draining.size > 0) arm(turn, jobTimers.leave(job), goneMs(generation));
  onStopOverdue(turn, job, generation);
}

function rescueWithoutVote(turn: Turn, job: JobState, generation: GenerationState): void {
  const why = voteTooLate(turn, job) ?? noVoteText(job);
  const voted = generation.pages.every((page) => page?.phase === "finished");
  const state = voted ? null : beginRescue(turn, job, generation, why);
  if (state === null) return;
  const text = `${why}: save ${stateText(state)} from memory, without the ranks`;
  decide(turn, job, text);
  if (job.record.stop !== null)
    log(turn, { level: "info", type: "phase", jobId: job.record.jobId, text: `stops: ${text}` });
}

function noVoteText({ record }: JobState): string {
  const { stop } = record;
  return stop !== null && stop.endMs === stop.atMs
    ? "a stop without a grace"
    : "no vote in half of the grace";
}

/**
 * All of a stop's grace is over. The grace chooses what is saved; it throws nothing away: nobody takes the nodes, so what is being
 * made durable is let end, and steps that memory alone holds are waited for. With nothing to lose the job ends, and where memory was
 * saved in time without the step that has ended meanwhile.
 */
function onStopOverdue(turn: Turn, job: JobState, generation: GenerationState): void {
  if (generation.rescue !== null && isDurable(job, generation.rescue.state)) {
    endAsSaved(turn, job, generation.rescue.why);
    return;
  }
  const durable = newestDurable(job);
  const step = durable?.state.step ?? 0;
  const saving = generation.rescue !== null;
  const ends = generation.pages.some((page) => page?.phase === "finished");
  const ahead = generation.step - step;
  // Before it runs, memory and storage may hold more than anybody has heard of; its vote comes, or the way back, which asks.
  if (generation.stage !== "run" && !saving) return;
  if (!saving && !ends && ahead <= 0) {
    const kept = durable === null ? "nothing is durable" : `durable at ${durable.uri}`;
    const reason = `stopped as asked at step ${step}: ${kept}; the step after it was not done within the grace`;
    endJob(turn, job, { phase: "STOPPED", code: null, reason }, step);
    return;
  }
  const what = saving
    ? `${stateText(generation.rescue!.state)} is still being made durable`
    : ends
      ? "the last state is still being made durable"
      : "no state of them is whole in the memory of all members";
  const text = `stops: the grace is over, and to end now would give up ${Math.max(ahead, 1)} steps; ${what}, which is waited for`;
  log(turn, { level: "warning", type: "phase", jobId: job.record.jobId, text });
}

/**
 * What a stop saved from memory is durable, and the ranks have not ended by a vote: the job ends there. True: it does.
 * Ranks that have voted meanwhile hold a newer state, whose save follows.
 */
export function endWhereSaved(turn: Turn, job: JobState): boolean {
  const { generation, record } = job;
  if (record.stop === null || generation?.rescue == null || generation.finished !== null) return false;
  const { state, why } = generation.rescue;
  if (!isDurable(job, state)) return false;
  const hasVoted = generation.pages.some((page) => page?.phase === "finished");
  // Where its ranks have ended meanwhile, the way back saves what memory holds of the steps after it.
  if (hasVoted || generation.step > state.step) return false;
  endAsSaved(turn, job, why);
  return true;
}

function endAsSaved(turn: Turn, job: JobState, why: string): void {
  const { uri, state } = newestDurable(job)!;
  const { step } = state;
  const reason = `stopped as asked at step ${step}: saved from memory without the ranks (${why}), durable at ${uri}`;
  endJob(turn, job, { phase: "STOPPED", code: null, reason }, step);
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

/**
 * Until when the next generation waits for memory to become durable, and why; null: it need not.
 * @param isLast there will be none: a job that is to stop cannot form one any more, however much time is left
 */
export function awaitRescue(
  turn: Turn,
  job: JobState,
  isLast = false,
): { reason: string; untilMs: number } | null {
  const { generation } = job;
  if (generation === null || generation.finished !== null) return null;
  const isLeft = generation.draining.size > 0;
  if (!isLeft && !isLast && !isShortOfTime(turn, job)) return null;
  const names = [...generation.draining.keys()].sort().join(", ");
  const who = isLeft ? `${names} leaves` : "a stop is asked for";
  // A job that ends for good saves what has been finished since, too.
  const isNewer =
    job.record.stop !== null && generation.rescue !== null && isDurable(job, generation.rescue.state);
  if (generation.rescue === null || isNewer) {
    const isHeard = (nodeId: string) => isReachable(turn, turn.state.nodes.get(nodeId));
    if (isLast && ![...generation.nodeRanks.keys()].every(isHeard)) return null; // no state is whole without all
    // What memory holds is told by the heartbeats that follow the abort.
    const toldMs = generation.abortedMs + 2 * turn.state.config.limits.heartbeatMs;
    const leftMs = isLeft ? goneMs(generation) - generation.abortedMs : Number.POSITIVE_INFINITY;
    const untilMs = Math.min(toldMs, generation.abortedMs + Math.floor(leftMs / 2));
    if (turn.nowMs < untilMs) return { reason: `${who}: asks what memory holds`, untilMs };
    beginRescue(turn, job, generation, "no ranks train");
  }
  const { rescue } = generation;
  if (rescue === null || turn.nowMs >= rescue.untilMs || isDurable(job, rescue.state)) return null;
  const reason = `${who}: ${stateText(rescue.state)} is saved from memory first`;
  return { reason, untilMs: rescue.untilMs };
}

/** A stop is short of time, and what it saved from memory is durable: no generation is formed for the step after it. True: the job ends. */
export function endShortOfTime(turn: Turn, job: JobState): boolean {
  const rescue = job.generation?.rescue;
  if (job.record.stop === null || rescue == null || job.generation!.finished !== null) return false;
  if (!isShortOfTime(turn, job) || !isDurable(job, rescue.state)) return false;
  endAsSaved(turn, job, rescue.why);
  return true;
}

/** Half of a stop's grace has passed: to form a generation for the sake of its vote is of no use any more. */
function isShortOfTime(turn: Turn, { record }: JobState): boolean {
  const { stop } = record;
  return stop?.endMs != null && turn.nowMs >= (stop.atMs + stop.endMs) / 2;
}

/** A node that leaves has gone: the final state is durable without its last words. */
export function onLeft(turn: Turn, job: JobState, nodeId: string): void {
  const generation = job.generation!;
  if (job.stage !== "running" || generation.finished === null) return;
  for (const rank of generation.nodeRanks.get(nodeId) ?? []) countFinished(generation, rank);
  tryComplete(turn, job, false);
}

/** Has the agents make the newest state durable that all members hold; null: there is none, or it is durable already. */
function beginRescue(turn: Turn, job: JobState, generation: GenerationState, why: string): StateName | null {
  const isLeft = generation.draining.size > 0;
  // Nobody takes the nodes of a job that is stopped.
  const untilMs = isLeft ? goneMs(generation) : turn.nowMs + turn.state.config.limits.finalSaveMs;
  if (turn.nowMs >= untilMs) return null;
  const layout = generation.layout.toString();
  const rankStates = generation.rankNodes.map((nodeId, rank) => {
    const node = turn.state.nodes.get(nodeId);
    if (!isReachable(turn, node)) return [];
    return heldFor(job, node)
      .filter((held) => held.rank === rank && held.layout === layout)
      .map((held) => held.state);
  });
  // A state whose checkpoint stands there damaged cannot be written once more: the one before it can.
  const damaged = job.checkpoints.flatMap((entry) => (entry.unusable === null ? [] : stateKey(entry.state)));
  const state = newestCommon(rankStates, new Set([...job.excludedSnapshots, ...damaged]));
  if (state === null || isDurable(job, state)) return null;
  generation.rescue = { state, why, untilMs };
  for (const nodeId of generation.nodeRanks.keys()) {
    repeatRescue(turn, generation, turn.state.nodes.get(nodeId));
  }
  return state;
}

/** Has an agent save its part of what is saved from memory, if anything is; one that has begun goes on. */
export function repeatRescue(turn: Turn, generation: GenerationState, node: NodeState | undefined): void {
  if (generation.rescue === null) return;
  const { state } = generation.rescue;
  const wire = { generation: BigInt(state.generation), step: BigInt(state.step) };
  const value = { generation: BigInt(generation.number), state: wire };
  send(turn, node, { $case: "saveSnapshot", value });
}

function isDurable(job: JobState, state: StateName): boolean {
  const newest = newestCheckpoint(job.checkpoints, job.excludedCheckpoints);
  return newest !== null && compareStates(newest.state, state) >= 0;
}

/** What a job that ends now can be resumed from; null: nothing. */
function newestDurable(job: JobState): CheckpointSource | null {
  return newestCheckpoint(job.checkpoints, job.excludedCheckpoints) ?? job.record.source;
}

function leavingFault(turn: Turn, nodeId: string | null, text: string): Fault {
  return faultOf({ atMs: turn.nowMs, source: "leaving", code: "NODE_PREEMPTED", nodeId, text });
}

/**
 * Why waiting for the next vote is of no use, from how long steps and the last save took; null: there is time for both, or
 * nothing is known yet.
 */
function voteTooLate(turn: Turn, job: JobState): string | null {
  const { generation } = job;
  const stepMs = usualStepMs(job);
  if (stepMs === 0 || programOf(job) !== null || generation?.stage !== "run") return null;
  const known = job.checkpoints.findLast(({ seconds: took }) => took > 0);
  // Where that is not known, half of the grace is kept for it anyway.
  const saveMs = 1000 * (known?.seconds ?? 0);
  const voteMs = Math.max(turn.nowMs, Math.max(job.lastStepMs, generation.runMs) + stepMs);
  const endMs = deadlineMs(job)!;
  if (voteMs + saveMs <= endMs) return null;
  // Of a stop neither is durable in time then, and two saves would be made: that of the vote holds more.
  if (generation.draining.size === 0 && turn.nowMs + saveMs > endMs) return null;
  const takes = `steps take ${seconds(stepMs)}, a save ${known === undefined ? "is not known to" : seconds(saveMs)}`;
  return `the next vote comes too late to be saved (${takes}, ${seconds(endMs - turn.nowMs)} are left)`;
}

/** By when all is to be durable: a member is gone then, or a person's stop is to be over; null: by no time. */
function deadlineMs({ generation, record }: JobState): number | null {
  const stopMs = record.stop?.endMs ?? Number.POSITIVE_INFINITY;
  const endMs = Math.min(stopMs, generation === null ? stopMs : goneMs(generation));
  return Number.isFinite(endMs) ? endMs : null;
}

/** When the first of those that leave will be gone; infinite: none leaves. */
function goneMs({ draining }: GenerationState): number {
  return Math.min(...draining.values());
}

function seconds(ms: number): string {
  return `${Math.max(0, ms / 1000).toFixed(1)} s`;
}
