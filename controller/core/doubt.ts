import type { ErrorCode } from "../../job/errors.js";
import { AVOID_MS } from "./avoid.js";
import { startChecks } from "./self_checks.js";
import type { JobState } from "./state.js";
import { isReachable, type Turn } from "./turn.js";

/** Faults laid to a node in one streak after which it is examined before it is used again. */
const BLAME_COUNT = 2;
/** The same within an hour, in which the job may well have got on. */
const HOURLY_COUNT = 3;
/** One of these is enough: nothing but broken hardware is known to cause it. */
const HARDWARE: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  "COMM_CHECK_FAILED",
  "HARDWARE_FAULT",
  "RANK_CORRUPT",
]);
/** Between tries of a node whose ranks are still leaving. */
const BUSY_RETRY_MS = 250;

/**
 * A fault was laid to a node. Examining takes time that every recovery would pay, and most faults are not the machine's:
 * only one that is blamed again, in the same streak or a third time within an hour, or for what only hardware does, is examined before it is
 * used again.
 */
export function suspectNode(turn: Turn, job: JobState, nodeId: string, code: ErrorCode): void {
  const why = suspicion(turn, job, nodeId, code);
  const health = turn.state.health.get(nodeId);
  if (health === undefined || why === null) return;
  doubt(turn, nodeId, why);
  // One that has passed since is left to the last, and examined when it is free.
  if (blamedOf(turn, job, nodeId) <= HOURLY_COUNT || HARDWARE.has(code))
    health.awaitedUntilMs = turn.nowMs + turn.state.config.limits.selfCheckFaultMs;
}

function suspicion(turn: Turn, job: JobState, nodeId: string, code: ErrorCode): string | null {
  const inRow = job.blame.get(nodeId) ?? 0;
  if (inRow >= BLAME_COUNT) return `${inRow} faults in a row were laid to it`;
  if (HARDWARE.has(code)) return `blamed for ${code}`;
  const hourly = blamedOf(turn, job, nodeId);
  return hourly >= HOURLY_COUNT ? `${hourly} faults within an hour were laid to it` : null;
}

/** Counts a fault that was laid to a node. */
export function countBlame(turn: Turn, job: JobState, nodeId: string): void {
  job.blame.set(nodeId, (job.blame.get(nodeId) ?? 0) + 1);
  const recent = (job.blamedMs.get(nodeId) ?? []).filter((atMs) => turn.nowMs - atMs < AVOID_MS);
  job.blamedMs.set(nodeId, [...recent, turn.nowMs]);
}

/** Why a job does without a node that has passed its self-checks and fails all the same; null: it does not. */
export function unreliable(turn: Turn, job: JobState, nodeId: string): string | null {
  const inRow = job.blame.get(nodeId) ?? 0;
  if (inRow > BLAME_COUNT) return `${inRow} faults in a row without progress`;
  const hourly = blamedOf(turn, job, nodeId);
  return hourly > HOURLY_COUNT ? `${hourly} faults within an hour` : null;
}

/** A person vouches for the node. False: no job did without it. */
export function forgetBlame(turn: Turn, nodeId: string): boolean {
  const jobs = [...turn.state.jobs.values()];
  const counted = jobs.some((job) => unreliable(turn, job, nodeId) !== null);
  for (const job of jobs) {
    job.blame.delete(nodeId);
    job.blamedMs.delete(nodeId);
  }
  return counted;
}

function blamedOf(turn: Turn, job: JobState, nodeId: string): number {
  return (job.blamedMs.get(nodeId) ?? []).filter((atMs) => turn.nowMs - atMs < AVOID_MS).length;
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
