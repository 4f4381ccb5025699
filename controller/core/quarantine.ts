import type { QuarantineRecord } from "./contract.js";
import { durableKeys } from "./contract.js";
import { persist } from "./durable.js";
import { log, type Turn } from "./turn.js";

/** A node that failed a self-check is examined again after this long; each time that it fails then doubles it. */
const CHECK_QUARANTINE_MS = 3600 * 1000;
const CHECK_QUARANTINE_MS_MAX = 24 * 3600 * 1000;

/**
 * Gives a node no ranks until a person releases it, also one that was to be examined again some time later, and one that was
 * only drained.
 * @param machine the boot that it ends with, unless a person wants the node free; absent: none
 */
export function quarantine(turn: Turn, nodeId: string, reason: string, machine?: string): void {
  const before = turn.state.quarantine.get(nodeId);
  if (before !== undefined && before.untilMs === null && !before.drained) return;
  const boot = machine === undefined || before?.drained ? {} : { machine };
  put(turn, { kind: "quarantine", nodeId, reason, atMs: turn.nowMs, untilMs: null, drained: false, ...boot });
}

/**
 * Gives a node that failed its self-checks no ranks until it passes them, some time later. One that is quarantined for
 * good, or drained, stays so.
 */
export function quarantineForChecks(turn: Turn, nodeId: string, reason: string): void {
  const before = turn.state.quarantine.get(nodeId);
  if (before !== undefined && before.untilMs === null) return;
  const lastMs = before === undefined ? 0 : before.untilMs! - before.atMs;
  const nextMs = before !== undefined && isExpired(turn, before) ? 2 * lastMs : lastMs;
  const ms = Math.min(CHECK_QUARANTINE_MS_MAX, Math.max(CHECK_QUARANTINE_MS, nextMs));
  const untilMs = turn.nowMs + ms;
  put(turn, { kind: "quarantine", nodeId, reason, atMs: turn.nowMs, untilMs, drained: false });
}

/** The same for a node that computed wrong, where self-checks could say that it is well again; else a person must. */
export function quarantineForWork(turn: Turn, nodeId: string, reason: string): void {
  if (turn.state.health.has(nodeId)) quarantineForChecks(turn, nodeId, reason);
  else quarantine(turn, nodeId, reason);
}

/** Its time is over: the node is to be examined again. */
export function isExpired(turn: Turn, record: QuarantineRecord): boolean {
  return record.untilMs !== null && turn.nowMs >= record.untilMs;
}

function put(turn: Turn, record: QuarantineRecord): void {
  const { nodeId, reason, untilMs, atMs } = record;
  turn.state.quarantine.set(nodeId, record);
  persist(turn, [{ key: durableKeys.quarantine(nodeId), record }]);
  const again =
    untilMs === null ? "" : `; it is examined again in ${Math.round((untilMs - atMs) / 60_000)} minutes`;
  log(turn, { level: "alarm", type: "node", nodeId, text: `${nodeId} is quarantined: ${reason}${again}` });
}
