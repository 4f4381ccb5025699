import { decide } from "./incident.js";
import { quarantine } from "./quarantine.js";
import { reform } from "./recover.js";
import type { JobState } from "./state.js";
import { arm, enter, hasHeard, isReachable, jobTimers, type Turn, tell } from "./turn.js";

/** Ends processes that hang, where they can be reached; the job goes on when the last one is gone. */
export function orderKills(turn: Turn, job: JobState, ranks: readonly number[], why: string): void {
  const generation = job.generation!;
  job.kills.clear();
  for (const rank of ranks) {
    const node = turn.state.nodes.get(generation.rankNodes[rank]!);
    if (!isReachable(turn, node) || generation.answered.has(rank)) continue;
    job.kills.set(rank, node.nodeId);
    sendKill(turn, job, rank, why);
  }
  if (job.kills.size === 0) {
    reform(turn, job);
    return;
  }
  const names = [...job.kills].map(([rank, nodeId]) => `rank ${rank} on ${nodeId}`).join(", ");
  decide(turn, job, `kill ${names}, which ${job.kills.size === 1 ? "hangs" : "hang"} (${why})`);
  enter(turn, job, "reaping", `ends ${names} (${why})`);
  arm(turn, jobTimers.stage(job), turn.nowMs + turn.state.config.limits.reapMs);
}

/** A rank that was to be ended has ended, or has shown that it works after all. The last one lets the job go on. */
export function dropKill(turn: Turn, job: JobState, rank: number): void {
  if (job.kills.delete(rank) && job.kills.size === 0) reform(turn, job);
}

export function sendKill(turn: Turn, job: JobState, rank: number, reason: string): void {
  const generation = job.generation!;
  const value = { generation: BigInt(generation.number), rank, reason };
  tell(turn, generation, generation.rankNodes[rank]!, { $case: "killRank", value });
}

/** No new owner of a rank's memory until the old process is gone: what cannot be reaped takes its node with it. */
export function giveUpReaping(turn: Turn, job: JobState): void {
  for (const [rank, nodeId] of job.kills) {
    if (!hasHeard(turn, job.generation!, nodeId)) continue;
    quarantine(turn, nodeId, `rank ${rank} of job ${job.record.job.name} could not be ended`);
  }
  job.kills.clear();
  reform(turn, job);
}
