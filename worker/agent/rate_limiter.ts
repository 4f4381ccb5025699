import type { Job } from "../../job/job.js";

/** Spreads bytes over time: what was let through is paid for before more is. Pure but for what it remembers. */
export class RateLimiter {
  private freeAtMs = 0;

  /** Milliseconds to wait before these bytes may go. `nowMs`: monotonic. */
  delayMs(bytes: number, bytesPerSecond: number, nowMs: number): number {
    const startMs = Math.max(nowMs, this.freeAtMs);
    this.freeAtMs = startMs + (1000 * bytes) / bytesPerSecond;
    return startMs - nowMs;
  }
}

/** A MiB sent and one received take 6 to 8 ms of an agent: for each core so many take about a hundredth of its time. */
const REPLICA_MIB_PER_CORE = 2;

/** What a node with so many cores sends of its ranks' states to other nodes, at most. */
export function replicaBytesPerSecond(checkpoint: Job["checkpoint"], cores: number): number {
  return (checkpoint.replica_mib_per_second ?? REPLICA_MIB_PER_CORE * cores) * 2 ** 20;
}
