import { PHASE, type PhaseName, PROGRESS } from "./pages.js";

/** What the training loop shows; a key left out keeps its value. */
export interface ProgressUpdate {
  generation?: bigint;
  /** Last step applied. */
  step?: number;
  /** Index, within the step, of the pack being computed. */
  microStep?: number;
  phase?: PhaseName;
  /** Block being computed, -1 outside the blocks. */
  layer?: number;
}

/** Of the sums over completed steps, in the order of `Progress.sums`. */
const SUM_OFFSETS = [
  PROGRESS.timedSteps,
  PROGRESS.timedWork,
  PROGRESS.forwardUs,
  PROGRESS.backwardUs,
  PROGRESS.optimizerUs,
  PROGRESS.dataUs,
  PROGRESS.waitUs,
  PROGRESS.waitAllGatherUs,
  PROGRESS.waitReduceScatterUs,
  PROGRESS.waitAllReduceUs,
  PROGRESS.waitAllToAllUs,
  PROGRESS.waitVoteUs,
] as const;

/** What one completed step took on this rank. */
export interface StepTimes {
  /** Multiply-adds of the forward passes of this rank's packs. */
  work: number;
  /** Over these packs, waiting excluded. */
  forwardSeconds: number;
  backwardSeconds: number;
  optimizerSeconds: number;
  /** Waiting for the packs. */
  dataSeconds: number;
  /** Waiting for other ranks. */
  waitSeconds: number;
  /** Of that, by collective. */
  waits: CollectiveWaits;
}

/** Seconds of waiting for other ranks; the vote is the all-reduce at the end of a step. */
export interface CollectiveWaits {
  allGather: number;
  reduceScatter: number;
  allReduce: number;
  allToAll: number;
  vote: number;
}
export type WaitKind = keyof CollectiveWaits;

export function noWaits(): CollectiveWaits {
  return { allGather: 0, reduceScatter: 0, allReduce: 0, allToAll: 0, vote: 0 };
}

/**
 * Writer of the progress page of this rank (layout in pages.ts). A change of step, micro-step, phase or layer, and a sign of
 * life, stamps `changedMs` with the system-wide monotonic clock, so that the agent can tell slow from stuck.
 */
export class Progress {
  private readonly view: DataView;
  /** Of the generation; not rounded, so that what is shown never drifts. */
  private sums = SUM_OFFSETS.map(() => 0);
  private stampedMs = 0n;
  /** Since it was last taken. */
  private pauseMs = 0n;

  constructor(page: Uint8Array) {
    this.view = new DataView(page.buffer, page.byteOffset, page.byteLength);
    this.view.setUint32(PROGRESS.pid, process.pid, true);
    this.view.setInt32(PROGRESS.layer, -1, true);
  }

  set(update: ProgressUpdate): void {
    const { view } = this;
    if (update.generation !== undefined) {
      // First, so that no reader takes the sums of the generation before for those of this one.
      this.sums.fill(0);
      this.showSums();
      view.setBigUint64(PROGRESS.generation, update.generation, true);
    }
    if (update.step !== undefined) view.setBigUint64(PROGRESS.step, BigInt(update.step), true);
    if (update.microStep !== undefined) view.setUint32(PROGRESS.microStep, update.microStep, true);
    if (update.phase !== undefined) view.setUint32(PROGRESS.phase, PHASE[update.phase], true);
    if (update.layer !== undefined) view.setInt32(PROGRESS.layer, update.layer, true);
    this.alive();
  }

  /** Nothing has changed, but the thread that would change it turns. */
  alive(): void {
    const nowMs = process.hrtime.bigint() / 1_000_000n;
    if (this.stampedMs > 0n && nowMs - this.stampedMs > this.pauseMs) this.pauseMs = nowMs - this.stampedMs;
    this.stampedMs = nowMs;
    this.view.setBigUint64(PROGRESS.changedMs, nowMs, true);
  }

  /** The longest time between two stamps since this was last asked. */
  takePauseSeconds(): number {
    const seconds = Number(this.pauseMs) / 1000;
    this.pauseMs = 0n;
    return seconds;
  }

  /** A step is completed: what it took is added to the sums of the generation. */
  stepped(times: StepTimes): void {
    const added = [
      1,
      times.work / 1e6,
      times.forwardSeconds * 1e6,
      times.backwardSeconds * 1e6,
      times.optimizerSeconds * 1e6,
      times.dataSeconds * 1e6,
      times.waitSeconds * 1e6,
      times.waits.allGather * 1e6,
      times.waits.reduceScatter * 1e6,
      times.waits.allReduce * 1e6,
      times.waits.allToAll * 1e6,
      times.waits.vote * 1e6,
    ];
    this.sums = this.sums.map((sum, i) => sum + added[i]!);
    this.showSums();
  }

  /** The state of this step is a whole snapshot. */
  snapshotMade(step: number): void {
    this.view.setBigUint64(PROGRESS.snapshotStep, BigInt(step), true);
    this.view.setBigUint64(PROGRESS.snapshotMs, BigInt(Date.now()), true);
  }

  snapshotFailed(): void {
    const failed = this.view.getBigUint64(PROGRESS.snapshotsFailed, true);
    this.view.setBigUint64(PROGRESS.snapshotsFailed, failed + 1n, true);
  }

  private showSums(): void {
    for (const [i, offset] of SUM_OFFSETS.entries())
      this.view.setBigUint64(offset, BigInt(Math.floor(this.sums[i]!)), true);
  }
}
