import type { ErrorCode } from "../../job/errors.js";
import { startChecks } from "./self_checks.js";
import type { JobState } from "./state.js";
import { isReachable, type Turn } from "./turn.js";

/** Faults laid to a node in one streak after which it is examined before it is used again. */
const BLAME_COUNT = 2;
/** One of these is enough: nothing but broken hardware is known to cause it. */
const HARDWARE: ReadonlySet<ErrorCode> = new Set<ErrorCode>(["COMM_CHECK_FAILED", "HARDWARE_FAULT"]);
/** Between tries of a node whose ranks are still leaving. */
const BUSY_RETRY_MS = 250;

/**
 * A fault was laid to a node. Examining takes time that every recovery would pay, and most faults are not the machine's:
 * only one that is blamed again in the same streak, or for what only hardware does, is examined before it is used again.
 */
export function suspectNode(turn: Turn, job: JobState, nodeId: string, code: ErrorCode): void {
  const faults = job.blame.get(nodeId) ?? 0;
  const health = turn.state.health.get(nodeId);
  if (health === undefined || (faults < BLAME_COUNT && !HARDWARE.has(code))) return;
  doubt(
    turn,
    nodeId,
    faults < BLAME_COUNT ? `blamed for ${code}` : `${faults} faults in a row were laid to it`,
  );
  health.awaitedUntilMs = turn.nowMs + turn.state.config.limits.selfCheckFaultMs;
}

/** What is known of it counts no more: it is examined as soon as it is free, and no other job gets it before. */
export function doubt(turn: Turn, nodeId: string, why: string): void {
  const health = turn.state.health.get(nodeId);
  if (health === undefined) return;
  health.state = "due";
  health.why = why;
}

/** What a job waits for before it uses its nodes again: their self-checks, not for ever. Null: nothing. */
export function awaitChecks(turn: Turn, job: JobState): { reason: string; untilMs: number } | null {
  if (job.record.stop !== null) return null; // wants what memory holds saved at once
  const awaited: string[] = [];
  let untilMs = Number.POSITIVE_INFINITY;
  for (const nodeId of new Set(job.prior?.rankNodes)) {
    const health = turn.state.health.get(nodeId);
    const node = turn.state.nodes.get(nodeId);
    if (health === undefined || health.awaitedUntilMs === null || !isReachable(turn, node)) continue;
    if (turn.nowMs >= health.awaitedUntilMs || node.leaving !== null || turn.state.quarantine.has(nodeId)) {
      health.awaitedUntilMs = null;
      continue;
    }
    if (health.run === null) startChecks(turn, node, "use");
    awaited.push(`${nodeId} (${health.why})`);
    untilMs = Math.min(untilMs, health.awaitedUntilMs, turn.nowMs + BUSY_RETRY_MS);
  }
  if (awaited.length === 0) return null;
  return { reason: `examines ${awaited.join(", ")} before it is used again`, untilMs };
}
