import type { ErrorCode } from "../../job/errors.js";
import type { Event, IncidentRecord, NodeFate } from "./contract.js";
import { persist } from "./durable.js";
import { addEvidence, incidentWrite } from "./incident.js";
import { isOver, reconsider } from "./jobs.js";
import { faultOf } from "./judge_fault.js";
import { onLeaving } from "./leave.js";
import { reportFaults } from "./recover.js";
import type { JobState, NodeState } from "./state.js";
import { log, type Turn } from "./turn.js";

/** An incident that began so long before the platform told why is still explained by it: status takes its time. */
const EXPLAINED_MS = 120_000;
/** A fault that is judged so long after the platform told of an end follows from that. */
const RECALLED_MS = 30_000;
/** A stream that ends so long after it, too; for longer, what was told late of an earlier process would be laid to this one. */
const DOWN_MS = 10_000;

/** Later stages have judged already, or wait for exactly this node. */
const MAY_BE_TOLD: ReadonlySet<JobState["stage"]> = new Set(["running", "forming", "settling"]);

/** What is seen of a node that was ended from outside; its fate says why. */
const CONSEQUENCES: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  "NODE_LOST",
  "NODE_PREEMPTED",
  "RANK_DIED",
  "COMM_PEER_DIED",
]);

/**
 * The platform says what it does to a node's process, or has done. It comes before what agents and peers see, or long
 * after; so it explains the incident that there is, and only where a process is down for certain makes one:
 *   ending  the node leaves, as if its agent had said so;
 *   down    its ranks are dead and its memory is gone: nobody waits for it, and the way back begins at once;
 *   again   another process of it runs already: what it says itself counts.
 */
export function onFate(turn: Turn, { nodeId, fate }: Event & { kind: "nodeFate" }): void {
  const node = turn.state.nodes.get(nodeId);
  log(turn, { level: "warning", type: "node", nodeId, jobId: node?.jobId ?? null, text: fate.text });
  if (node === undefined) return;
  node.fate = { atMs: turn.nowMs, fate, incarnation: node.incarnation, spent: false };
  if (fate.endsAtMs !== null) {
    const graceMs = Math.max(0, fate.endsAtMs - turn.nowMs);
    // What its agent says itself is nearer to the truth: it knows the grace that it was given.
    if (node.leaving === null && node.session !== null)
      onLeaving(turn, node, { graceMs, reason: fate.text }, "platform");
  }
  apply(turn, node, fate);
}

/** A stream has ended: the platform may have told before why it would. */
export function recallFate(turn: Turn, node: NodeState): void {
  const told = recent(turn, node);
  if (told === null || told.incarnation !== node.incarnation) return;
  if (turn.nowMs - told.atMs <= DOWN_MS) apply(turn, node, told.fate);
}

/** A fault has been judged: the platform may have told before what it follows from, also of a process that is back. */
export function explainByFate(turn: Turn, job: JobState): void {
  const node = turn.state.nodes.get(job.incident?.nodeId ?? "");
  const told = node === undefined ? null : recent(turn, node);
  if (told !== null && !told.spent) told.spent = explain(turn, job, node!, told.fate);
}

function recent(turn: Turn, { fate }: NodeState): NodeState["fate"] {
  return fate !== null && turn.nowMs - fate.atMs <= RECALLED_MS ? fate : null;
}

function apply(turn: Turn, node: NodeState, fate: NodeFate): void {
  const isDown = fate.down && fate.endsAtMs === null && node.session === null;
  if (isDown) node.leaving ??= { untilMs: turn.nowMs, reason: fate.text, by: "platform" };
  for (const job of turn.state.jobs.values()) {
    if (isDown && isMember(job, node)) {
      const fault = faultOf({
        atMs: turn.nowMs,
        source: "fate",
        code: fate.code,
        nodeId: node.nodeId,
        text: fate.text,
      });
      if (MAY_BE_TOLD.has(job.stage)) reportFaults(turn, job, [fault]);
    }
    if (explain(turn, job, node, fate) && node.fate !== null) node.fate.spent = true;
  }
  if (isDown) reconsider(turn);
}

function isMember(job: JobState, { nodeId }: NodeState): boolean {
  return !isOver(job) && job.generation !== null && job.generation.nodeRanks.has(nodeId);
}

/** The newest incident that is laid to the node, if any: its headline is the cause, what was seen of it becomes evidence. */
function explain(turn: Turn, job: JobState, node: NodeState, fate: NodeFate): boolean {
  // The end of the present process, there or to come, has nothing to do with what befell an earlier one, or told of it.
  const isOfPresent = fate.down || fate.endsAtMs !== null;
  const incident = job.incidents.findLast(
    ({ nodeId, openedAtMs }) =>
      nodeId === node.nodeId &&
      turn.nowMs - openedAtMs <= EXPLAINED_MS &&
      !(isOfPresent && openedAtMs <= node.joinedMs),
  );
  if (incident === undefined) return false;
  if (incident.what === fate.text || incident.evidence.some(({ text }) => text === fate.text)) return true;
  addEvidence(incident, turn.nowMs, fate.text);
  // A pod that was asked to leave is gone in the end: the first is the cause.
  const isEnd = incident.code === "NODE_PREEMPTED" && fate.code === "NODE_LOST";
  if (CONSEQUENCES.has(incident.code) && !isEnd) rename(incident, fate);
  // An open one is written with the next generation, and when it closes.
  if (incident.closedAtMs !== null) persist(turn, [incidentWrite(incident)]);
  return true;
}

function rename(incident: IncidentRecord, fate: NodeFate): void {
  incident.evidence.unshift({ atMs: incident.openedAtMs, text: incident.what });
  incident.code = fate.code;
  incident.what = fate.text;
  incident.rank = null;
}
