import { isCommandJob } from "../../job/command_job.js";
import type { Place } from "./place.js";
import { warmCount } from "./plan_processes.js";
import type { ProcessPool } from "./process_pool.js";

export interface WarmSparesOptions {
  slots: number;
  pool: ProcessPool;
  /** Of this node; others that share the machine come and go. */
  memoryBytes: () => number;
}

/** A spare that ended by itself is missed for so long: one that always does must not keep the node busy with starts. */
const REPLACE_MS = 5_000;

/**
 * Processes started ahead, addon loaded and thread pools made, so that a place in a generation needs no start of a process.
 * Only one of them has the job's data open, too: its index is as large in every process.
 */
export class WarmSpares {
  private readonly options: WarmSparesOptions;
  private place: Place | null = null;
  private replacing: NodeJS.Timeout | null = null;
  /** Before the node has been examined nothing is started that would disturb its checks. */
  private wanted = false;
  private closed = false;

  constructor(options: WarmSparesOptions) {
    this.options = options;
  }

  /** How many wait while the node has this place. */
  count(place: Place | null): number {
    const { slots, memoryBytes } = this.options;
    return warmCount({ slots, ranks: place?.ranks.length ?? 0, memoryBytes: memoryBytes() });
  }

  /** Starts what is missing, from now on also for what ends by itself. */
  keep(place: Place | null): void {
    this.place = place;
    this.wanted = true;
    if (this.closed) return;
    const { pool } = this.options;
    for (let i = pool.spares.length, count = this.count(place); i < count; i++) pool.start();
    this.openData();
  }

  /** One has ended. */
  ended(): void {
    if (!this.wanted || this.closed) return;
    this.replacing ??= setTimeout(() => {
      this.replacing = null;
      this.keep(this.place);
    }, REPLACE_MS);
  }

  /** The node works, or will: nothing is started until keep() is called again. */
  pause(): void {
    this.wanted = false;
    if (this.replacing !== null) clearTimeout(this.replacing);
    this.replacing = null;
  }

  close(): void {
    this.closed = true;
    this.pause();
  }

  private openData(): void {
    const { spares } = this.options.pool;
    if (this.place === null) return;
    const { job, dataDigest, device } = this.place;
    if (dataDigest === null || isCommandJob(job) || spares.some((process) => process.knowsData)) return;
    const [first] = spares;
    if (first === undefined) return;
    first.knowsData = true;
    first.send({ kind: "warm", job, dataDigest, device });
  }
}
