import { availableParallelism } from "node:os";
import { STATE_KINDS } from "../../checkpoint/state.js";
import { replicaBytesPerSecond } from "../../worker/agent/rate_limiter.js";
import type { Candidate, JobPlan } from "./plan_job.js";

/** What keeping the training state costs. */
export interface CheckpointFigures {
  /** Data of one durable checkpoint; its manifests come on top, well below a hundredth. */
  durableBytes: number;
  /** With those that are kept, and the one that is being written. */
  storageBytes: number;
  /** Shared memory of a node: slots, and copies kept for others. */
  slotBytes: number;
  slotCount: number;
  sharedBytes: number;
  /** What a node sends for one state to be in two places; 0: nothing is sent. */
  sentBytes: number;
  /** At the rate the job allows; null: that is 2 MiB/s for each core of a node whose cores are not known. */
  transferSeconds: number | null;
  /** What a lost node may cost at most: the state in two places is as old as the transfer after the next one is long. */
  lostSecondsMax: number | null;
}

export function checkpointFigures(plan: JobPlan, { snapshots }: Candidate): CheckpointFigures {
  const { checkpoint } = plan.job;
  const durableBytes = 4 * STATE_KINDS.length * plan.parameters;
  const { slotBytes, slotCount, ownBytes, keptBytes, sentBytes } = snapshots;
  const known = plan.cluster.device === "cpu" || checkpoint.replica_mib_per_second !== null;
  const rate = replicaBytesPerSecond(checkpoint, availableParallelism());
  const transferSeconds = known ? sentBytes / rate : null;
  return {
    durableBytes,
    storageBytes: durableBytes * (checkpoint.keep_last + 1),
    slotBytes,
    slotCount,
    sharedBytes: ownBytes + keptBytes,
    sentBytes,
    transferSeconds,
    lostSecondsMax: transferSeconds === null ? null : 2 * transferSeconds,
  };
}
