import type { JobState } from "./state.js";
import { armSooner, log, RECONSIDER_TIMER, type Turn } from "./turn.js";

/** A node without which a job goes on where others can take its ranks. */
export interface Avoided {
  reason: string;
  /** From then on it is as good as any other: whatever it was may have passed. */
  untilMs: number;
}

/** Long enough that a node that comes and goes does not cost a change each time, as short as a first quarantine. */
export const AVOID_MS = 3600 * 1000;

/** Soft: a new leader does not know of it. */
export function avoid(turn: Turn, job: JobState, nodeId: string, reason: string): void {
  const untilMs = turn.nowMs + AVOID_MS;
  job.avoided.set(nodeId, { reason, untilMs });
  armSooner(turn, RECONSIDER_TIMER, untilMs);
}

/** Forgets what is over, and wakes this up for what comes next. */
export function expireAvoided(turn: Turn): void {
  for (const job of turn.state.jobs.values()) {
    for (const [nodeId, { untilMs }] of job.avoided) {
      if (turn.nowMs < untilMs) armSooner(turn, RECONSIDER_TIMER, untilMs);
      else forget(turn, job, nodeId, "its time is over");
    }
  }
}

/** The node is known to be well, or has gone for good: no job avoids it any more. False: none did. */
export function forgive(turn: Turn, nodeId: string, why: string): boolean {
  const jobs = [...turn.state.jobs.values()].filter((job) => job.avoided.has(nodeId));
  for (const job of jobs) forget(turn, job, nodeId, why);
  return jobs.length > 0;
}

function forget(turn: Turn, job: JobState, nodeId: string, why: string): void {
  const { reason } = job.avoided.get(nodeId)!;
  job.avoided.delete(nodeId);
  const { jobId, job: spec } = job.record;
  const text = `${nodeId} is avoided by job ${spec.name} no more (${reason}): ${why}`;
  log(turn, { level: "info", type: "node", jobId, nodeId, text });
}
