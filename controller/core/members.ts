import { isCommandJob } from "../../job/command_job.js";
import type { Device } from "../../job/device.js";
import { median } from "../../job/median.js";
import type { AssignableNode } from "./assign_ranks.js";
import { unreliable } from "./doubt.js";
import type { MembersInput } from "./plan_members.js";
import { isGivenUp } from "./roll_back.js";
import { mayServe } from "./self_checks.js";
import type { JobState, NodeState } from "./state.js";
import { isReachable, type Turn } from "./turn.js";

/** Gathers from the state what `planMembers` decides on. */
export function membersInput(turn: Turn, job: JobState): MembersInput {
  const { state, nowMs } = turn;
  const nodes: AssignableNode[] = [];
  let busySlots = 0;
  let lacking = 0;
  const withCuda = new Set<string>();
  const device = deviceOf(job);
  let examined = 0;
  for (const node of state.nodes.values()) {
    if (isExamined(turn, job, node)) examined += 1;
    if (!isFit(turn, job, node)) continue;
    if (device === "cuda" && node.device !== "cuda") {
      lacking += 1;
      continue;
    }
    if (isOffered(job, node)) {
      if (node.device === "cuda") withCuda.add(node.nodeId);
      const { nodeId, slots, peerPort } = node;
      nodes.push({ nodeId, slots, serves: peerPort > 0, held: heldFor(job, node) });
    } else {
      busySlots += node.slots;
    }
  }
  const givenUp = new Map<string, string>();
  const avoid = new Map<string, string>(job.unconnected);
  for (const [nodeId, { reason, untilMs }] of job.avoided) if (nowMs < untilMs) avoid.set(nodeId, reason);
  for (const nodeId of job.generation?.nodeRanks.keys() ?? []) {
    const bad = state.quarantine.get(nodeId);
    const leaving = state.nodes.get(nodeId)?.leaving;
    if (leaving) givenUp.set(nodeId, `it leaves: ${leaving.reason}`);
    if (bad !== undefined) givenUp.set(nodeId, bad.reason);
    const why = unreliable(turn, job, nodeId);
    if (why !== null) avoid.set(nodeId, why);
  }
  return {
    nowMs,
    job: job.record.job,
    nodes,
    device,
    withCuda,
    lacking,
    prior: job.prior,
    aborted: job.generation?.abortSent ?? false,
    replicated: replicatedState(job),
    finished: job.generation?.finished?.state ?? null,
    untrained: isUntrained(job),
    excludedSnapshots: job.excludedSnapshots,
    grows: job.generation?.yielding ?? false,
    givenUp,
    avoid,
    waitSinceMs: job.waitSinceMs,
    ended: endedNodes(turn, job),
    stepHeld: stepHeld(job),
    stepMs: usualStepMs(job),
    nodesChangedMs: state.nodesChangedMs,
    busySlots,
    examined,
    layoutSettleMs: state.config.limits.layoutSettleMs,
    chooseLayout: state.config.chooseLayout,
  };
}

/** Its first generation was still being formed. */
function isUntrained({ restarts, generation }: JobState): boolean {
  return restarts === 0 && generation !== null && generation.stage !== "run" && generation.stage !== "adopt";
}

/** 0: not known. */
export function usualStepMs({ stepTimesMs }: JobState): number {
  return stepTimesMs.length === 0 ? 0 : median(stepTimesMs);
}

/** Or what two of the last three took, where the job has become slower; 0: not known. */
export function presentStepMs(job: JobState): number {
  const recent = job.stepTimesMs.slice(-3);
  return recent.length === 0 ? 0 : Math.max(usualStepMs(job), median(recent));
}

function endedNodes(turn: Turn, { generation }: JobState): Set<string> {
  const members = [...(generation?.nodeRanks.keys() ?? [])];
  return new Set(members.filter((nodeId) => turn.state.nodes.get(nodeId)?.ended));
}

/** How far it has come, as far as a leader knows that may be new: by what ranks told, and what memory holds of it. */
export function furthestStep(turn: Turn, job: JobState): number {
  let step = job.generation?.step ?? 0;
  for (const node of turn.state.nodes.values())
    for (const { state } of heldFor(job, node)) step = Math.max(step, state.step);
  return step;
}

/** The last step after which every rank had a snapshot made. */
function stepHeld({ record, generation }: JobState): number {
  const step = generation?.step ?? 0;
  if (isCommandJob(record.job)) return step;
  return step - (step % record.job.checkpoint.snapshot_every_steps);
}

/** It may be free for the job soon. */
function isExamined(turn: Turn, job: JobState, node: NodeState): boolean {
  const purpose = turn.state.health.get(node.nodeId)?.run?.purpose;
  return purpose === "use" && !mayServe(turn, job, node);
}

/** What it computes on: `auto` is decided by its first generation, so that no recovery changes the numbers. */
function deviceOf({ record, prior }: JobState): Device | "auto" {
  const { device } = record.job;
  return device === "auto" && prior !== null ? prior.device : device;
}

function isFit(turn: Turn, job: JobState, node: NodeState): boolean {
  const isSound = !turn.state.quarantine.has(node.nodeId) && mayServe(turn, job, node);
  return isReachable(turn, node) && node.leaving === null && isSound;
}

/** Free, or this job's already. */
function isOffered(job: JobState, node: NodeState): boolean {
  const { jobId } = job.record;
  if (node.releasing) return false;
  return (
    (node.jobId === null || node.jobId === jobId) && (node.heldJobId === null || node.heldJobId === jobId)
  );
}

/** What an older generation has replicated says nothing once nothing is sent any more. */
function replicatedState({ generation, replicated }: JobState): MembersInput["replicated"] {
  const sends = (generation?.keepers?.kept.size ?? 0) > 0;
  return sends ? replicated : null;
}

/** What the node's memory holds of the job, and is not given up. */
export function heldFor({ record }: JobState, node: NodeState): AssignableNode["held"] {
  if (node.heldJobId !== record.jobId) return [];
  if (record.rollBacks.length === 0) return node.held; // a copy for each of thousands of nodes is half of this decision
  return node.held.filter(({ state }) => !isGivenUp(record.rollBacks, state));
}
