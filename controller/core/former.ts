import { programOf } from "./program.js";
import { releaseNode } from "./release.js";
import type { JobState, NodeState } from "./state.js";
import { isReachable, type Turn } from "./turn.js";

/**
 * Nodes that have lost their places in a job's generation. What their memory holds may be the newest there is: they keep it
 * until the generation has done a step, which is then the newest, and till then the job alone may use them.
 */
export function keepsMemory(turn: Turn, job: JobState, node: NodeState): boolean {
  if (programOf(job) !== null || node.heldJobId !== job.record.jobId || node.held.length === 0) return false;
  return node.leaving === null && !turn.state.quarantine.has(node.nodeId);
}

export interface FormerNodes {
  /** Others can read there what they hold. */
  inSight: NodeState[];
  /** The controller cannot reach them: they are lost, or cut off from it alone. Those whose agents ended are not among them. */
  outOfSight: NodeState[];
}

/** Those from which a generation may read. */
export function formerNodes(turn: Turn, job: JobState): FormerNodes {
  const nodes = [...job.generation!.former].flatMap((nodeId) => turn.state.nodes.get(nodeId) ?? []);
  const serving = nodes.filter(
    (node) => node.peerPort > 0 && !job.unreadable.has(node.nodeId) && keepsMemory(turn, job, node),
  );
  const inSight = serving.filter((node) => isReachable(turn, node));
  return { inSight, outOfSight: serving.filter((node) => !inSight.includes(node) && !node.ended) };
}

/**
 * Releases those that need not, or need no longer, keep anything. One that was out of sight and came back without its memory
 * is free, and may work for another job by now.
 */
export function releaseFormer(turn: Turn, job: JobState, isDone: (node: NodeState) => boolean): void {
  const { former } = job.generation!;
  for (const nodeId of [...former]) {
    const node = turn.state.nodes.get(nodeId);
    if (node !== undefined && !isDone(node)) continue;
    former.delete(nodeId);
    if (node?.heldJobId === job.record.jobId) releaseNode(turn, nodeId, job.record.jobId);
  }
}

/** A node without a place in the job comes, or comes back, with something of it; true: it is to keep that for now. */
export function keepFormer(turn: Turn, job: JobState, node: NodeState): boolean {
  const { generation } = job;
  if (generation === null || generation.hasStepped || !keepsMemory(turn, job, node)) return false;
  generation.former.add(node.nodeId);
  return true;
}

/**
 * Members could not read what nodes without a place hold. One that is out of sight was worth one try. With one in sight another
 * reader may have more luck, and the first is avoided; when that fails, too, what is held there is passed over.
 */
export function passOverFormer(turn: Turn, job: JobState, readers: readonly string[]): void {
  const { inSight, outOfSight } = formerNodes(turn, job);
  for (const { nodeId } of outOfSight) job.unreadable.add(nodeId);
  if (outOfSight.length > 0 || inSight.length === 0) return;
  job.unreadTries += 1;
  const names = inSight.map(({ nodeId }) => nodeId).join(", ");
  for (const nodeId of readers) job.unconnected.set(nodeId, `it cannot read what ${names} holds`);
  if (job.unreadTries > 1) for (const { nodeId } of inSight) job.unreadable.add(nodeId);
}
