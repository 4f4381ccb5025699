import { considerChecks } from "./self_checks.js";
import { log, send, type Turn } from "./turn.js";

/** Ends a job's stay on a node: its processes end, its snapshots are freed, and NodeReleased makes the node free. */
export function releaseNode(turn: Turn, nodeId: string, jobId: string): void {
  const node = turn.state.nodes.get(nodeId);
  if (node === undefined) return;
  if (node.jobId === jobId) node.jobId = null;
  if (node.session === null) return;
  node.releasing = true;
  send(turn, node, { $case: "release", value: { jobId } });
}

export function onReleased(turn: Turn, nodeId: string, jobId: string): void {
  const node = turn.state.nodes.get(nodeId);
  if (node === undefined || (node.heldJobId !== null && node.heldJobId !== jobId)) return;
  if (node.jobId === jobId) return;
  node.releasing = false;
  node.heldJobId = null;
  node.held = [];
  node.pages = [];
  turn.state.nodesChangedMs = turn.nowMs;
  log(turn, { level: "info", type: "node", jobId, nodeId, text: `${nodeId} is free again` });
  considerChecks(turn, node);
}
