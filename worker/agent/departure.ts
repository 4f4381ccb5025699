import type { Logger } from "pino";
import type { NodeLeaving } from "../../gen/goku/v1/agent.pb.js";
import type { CheckpointWriter } from "./checkpoint_writer.js";
import { type LeaveView, planLeave } from "./plan_leave.js";
import type { RankSupervisor } from "./rank_supervisor.js";

export interface DepartureOptions {
  /** What asked for it. */
  reason: string;
  graceMs: number;
  log: Logger;
  writer: CheckpointWriter;
  supervisor: RankSupervisor;
}

/** Between looks at the ranks and the writer. */
const LOOK_MS = 20;
/** For the look whether the last save is committed, at the end of the grace, too. */
const COMMITTED_MS = 500;

/** The last seconds of an agent that was asked to end: what `planLeave` decides is carried out here. */
export class Departure {
  private readonly options: DepartureOptions;
  private readonly begunMs = performance.now();
  private readonly finalsBefore: number;
  private stopAsked = false;
  private heldBegun = false;
  private reasonLast = "";

  constructor(options: DepartureOptions) {
    this.options = options;
    this.finalsBefore = options.writer.finalCount;
  }

  /** What the controller is told, now. */
  get wire(): NodeLeaving {
    const { graceMs, reason } = this.options;
    return { graceMs: BigInt(Math.max(0, Math.round(graceMs - this.passedMs))), reason };
  }

  /** The controller has the ranks end at their next vote. */
  stopOrdered(): void {
    this.stopAsked = true;
  }

  /** The controller has memory saved without the ranks. */
  heldOrdered(): void {
    this.heldBegun = true;
  }

  /** Resolves when there is nothing left to wait for; true: nothing is lost with this node's memory. */
  async depart(sees: { linked: () => boolean; holds: () => boolean }): Promise<boolean> {
    const { log, writer, supervisor, reason, graceMs } = this.options;
    log.info({ reason, graceMs }, "leaves");
    for (;;) {
      const view = this.view(sees);
      const step = planLeave(view);
      if (step.reason !== this.reasonLast) log.info({ next: step.kind, reason: step.reason }, "leaving");
      this.reasonLast = step.reason;
      if (step.kind === "end") {
        const saved = view.holds && (view.finalBegun || view.heldBegun);
        const durable = saved && (await writer.untilLastCommitted(COMMITTED_MS));
        if (view.holds && !durable)
          log.warn(
            "leaves without a durable state of this moment: steps since the last checkpoint may be lost",
          );
        return durable;
      }
      if (step.kind === "askStop") {
        this.stopAsked = true;
        supervisor.request("stop");
      }
      if (step.kind === "saveHeld") this.saveHeld();
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
  }

  private saveHeld(): void {
    const { log, supervisor } = this.options;
    const state = supervisor.newestHeld();
    this.heldBegun = true;
    if (state === null) return;
    log.warn(
      { state },
      "saves what memory holds, without the ranks; nodes that do not leave take no part unless told",
    );
    supervisor.saveHeld(state);
  }

  private view(sees: { linked: () => boolean; holds: () => boolean }): LeaveView {
    const { graceMs, writer, supervisor } = this.options;
    return {
      passedMs: this.passedMs,
      graceMs,
      linked: sees.linked(),
      holds: sees.holds(),
      stages: supervisor.stages,
      stopAsked: this.stopAsked,
      // Ranks that had ended before, too: their state is the newest.
      finalBegun: writer.finalCount > this.finalsBefore || supervisor.stages.includes("finished"),
      heldBegun: this.heldBegun,
      idle: writer.idle,
      saveMs: writer.saveMs,
    };
  }

  private get passedMs(): number {
    return performance.now() - this.begunMs;
  }
}
