import type { AssignableNode } from "./assign_ranks.js";
import type { MembersInput } from "./plan_members.js";
import type { JobState, NodeState } from "./state.js";
import { isReachable, type Turn } from "./turn.js";

/** Faults laid to a node in one streak after which others are preferred to it. */
const BLAME_COUNT_MAX = 3;

/** Gathers from the state what `planMembers` decides on. */
export function membersInput(turn: Turn, job: JobState): MembersInput {
  const { state, nowMs } = turn;
  const nodes: AssignableNode[] = [];
  let busySlots = 0;
  for (const node of state.nodes.values()) {
    if (!isFit(turn, job, node)) continue;
    if (isOffered(job, node)) {
      const { nodeId, slots, peerPort } = node;
      nodes.push({ nodeId, slots, serves: peerPort > 0, held: heldFor(job, node) });
    } else {
      busySlots += node.slots;
    }
  }
  const givenUp = new Map<string, string>();
  const avoid = new Map<string, string>();
  for (const nodeId of new Set(job.prior?.rankNodes)) {
    const bad = state.quarantine.get(nodeId);
    const leaving = state.nodes.get(nodeId)?.leaving;
    if (leaving) givenUp.set(nodeId, `it leaves: ${leaving.reason}`);
    if (bad !== undefined) givenUp.set(nodeId, bad.reason);
    const faults = job.blame.get(nodeId) ?? 0;
    if (faults >= BLAME_COUNT_MAX) avoid.set(nodeId, `${faults} faults in a row without progress`);
  }
  return {
    nowMs,
    job: job.record.job,
    nodes,
    prior: job.prior,
    aborted: job.generation?.abortSent ?? false,
    replicated: replicatedState(job),
    excludedSnapshots: job.excludedSnapshots,
    givenUp,
    avoid,
    waitSinceMs: job.waitSinceMs,
    nodesChangedMs: state.nodesChangedMs,
    busySlots,
    layoutSettleMs: state.config.limits.layoutSettleMs,
    chooseLayout: state.config.chooseLayout,
  };
}

function isFit(turn: Turn, job: JobState, node: NodeState): boolean {
  const { device } = job.record.job;
  if (device !== "auto" && device !== node.device) return false;
  return isReachable(turn, node) && node.leaving === null && !turn.state.quarantine.has(node.nodeId);
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

/** What the node's memory holds of the job. */
export function heldFor(job: JobState, node: NodeState): AssignableNode["held"] {
  return node.heldJobId === job.record.jobId ? node.held : [];
}
