import type { ErrorCode } from "../../job/errors.js";
import { membersInput } from "./members.js";
import { recommendSpares } from "./recommend_spares.js";
import type { CoreState, JobState } from "./state.js";

/** What takes a node away, or has its ranks given to another, whatever became of it later. */
const LOSSES: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  "NODE_LOST",
  "NODE_PREEMPTED",
  "NODE_OUT_OF_MEMORY",
  "HARDWARE_FAULT",
  "RANK_CORRUPT",
  "RANK_SLOW",
]);

/**
 * Losses and node-hours are those since this controller leads: an earlier one's generations are not on record.
 *
 * For people: "1 wanted, 2 nodes free; 3 nodes lost in 41.0 node-hours call for 1". Null: it trains nowhere yet.
 */
export function sparesText(state: CoreState, job: JobState, nowMs: number): string | null {
  const members = job.generation?.nodeRanks;
  if (members === undefined) return null;
  const { nodes: offered, avoid } = membersInput({ state, nowMs, effects: [] }, job);
  const free = offered.filter(({ nodeId }) => !members.has(nodeId) && !avoid.has(nodeId));
  const nodes = members.size;
  const sinceMs = state.leader?.electedMs ?? nowMs;
  const present = nodes * (nowMs - Math.max(sinceMs, job.formedMs));
  const nodeHours = (job.nodeMs + present) / 3_600_000;
  const losses = job.incidents.filter(
    ({ code, openedAtMs }) => LOSSES.has(code) && openedAtMs >= sinceMs,
  ).length;
  const called = recommendSpares({ losses, nodeHours, nodes });
  const there = `${job.record.job.recovery.spares} wanted, ${count(free.length, "node")} free`;
  if (called === null) return `${there}; no node was lost in ${nodeHours.toFixed(1)} node-hours`;
  return `${there}; ${count(losses, "node")} lost in ${nodeHours.toFixed(1)} node-hours call for ${called}`;
}

function count(value: number, what: string): string {
  return `${value} ${value === 1 ? what : `${what}s`}`;
}
