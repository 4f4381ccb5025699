import type { QuarantineRecord } from "./contract.js";
import { durableKeys } from "./contract.js";
import { persist } from "./durable.js";
import { isOver, reconsider } from "./jobs.js";
import { faultOf } from "./judge_fault.js";
import { drain } from "./leave.js";
import { log, reply, type Turn } from "./turn.js";

const REASON = "drained by a person";

/**
 * A person wants a node free: it gets no ranks until a person releases it, and a generation that it is a member of ends at its
 * next vote, with a durable checkpoint, so that nothing is computed twice. Its processes and memory stay till then: unlike a
 * node that is asked to end, it does not go. Asked again, it is drained again: a new leader may not have heard of the first time.
 * One that is quarantined stays that, with the reason, and for good: the drain does not make its fault a planned absence, and
 * neither time nor a boot ends it any more.
 */
export function drainNode(turn: Turn, requestId: string, nodeId: string): void {
  const node = turn.state.nodes.get(nodeId);
  if (node === undefined) {
    const message = `Cannot drain node ${nodeId}: no node of that name has come since this controller leads`;
    reply(turn, requestId, { ok: false, code: "NOT_FOUND", message });
    return;
  }
  const before = turn.state.quarantine.get(nodeId);
  const drained = { reason: REASON, atMs: turn.nowMs, drained: true };
  const record: QuarantineRecord = { kind: "quarantine", nodeId, ...drained, ...before, untilMs: null };
  delete record.machine;
  turn.state.quarantine.set(nodeId, record);
  persist(turn, [{ key: durableKeys.quarantine(nodeId), record }], { kind: "confirm", requestId });
  const text = `${nodeId} is drained, as asked: it gets no ranks until it is released`;
  log(turn, { level: "info", type: "node", nodeId, jobId: node.jobId, text });
  const job = turn.state.jobs.get(node.jobId ?? "");
  const generation = job?.generation;
  const isMember = generation?.nodeRanks.has(nodeId) ?? false;
  if (job === undefined || !isMember || isOver(job) || generation?.finished !== null) {
    reconsider(turn);
    return;
  }
  const what = `${nodeId} is drained, asked to by a person`;
  drain(turn, job, node, {
    untilMs: turn.nowMs + turn.state.config.limits.finalSaveMs,
    fault: faultOf({ atMs: turn.nowMs, source: "leaving", code: "NODE_PREEMPTED", nodeId, text: what }),
    evidence: `${what}: its ranks go on elsewhere`,
    without: nodeId,
  });
}
