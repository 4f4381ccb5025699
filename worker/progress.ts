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

/**
 * Writer of the progress page of this rank (layout in pages.ts). A change of step, micro-step, phase or layer
 * stamps `changedMs` with the system-wide monotonic clock, so that the agent can tell slow from stuck.
 */
export class Progress {
  private readonly view: DataView;

  constructor(page: Uint8Array) {
    this.view = new DataView(page.buffer, page.byteOffset, page.byteLength);
    this.view.setUint32(PROGRESS.pid, process.pid, true);
    this.view.setInt32(PROGRESS.layer, -1, true);
  }

  set(update: ProgressUpdate): void {
    const { view } = this;
    if (update.generation !== undefined) view.setBigUint64(PROGRESS.generation, update.generation, true);
    if (update.step !== undefined) view.setBigUint64(PROGRESS.step, BigInt(update.step), true);
    if (update.microStep !== undefined) view.setUint32(PROGRESS.microStep, update.microStep, true);
    if (update.phase !== undefined) view.setUint32(PROGRESS.phase, PHASE[update.phase], true);
    if (update.layer !== undefined) view.setInt32(PROGRESS.layer, update.layer, true);
    view.setBigUint64(PROGRESS.changedMs, process.hrtime.bigint() / 1_000_000n, true);
  }
}
