import type { StateName } from "../../controller/core/contract.js";
import type { RankProgress } from "../../gen/goku/v1/agent.pb.js";
import type { Random } from "./random.js";
import type { Scheduler } from "./scheduler.js";
import type { Content } from "./sim_memory.js";
import type { TrainGroup } from "./train_group.js";

export type RankPhase =
  | "starting"
  | "idle"
  | "forming"
  | "restore"
  | "forward"
  | "vote"
  | "snapshot"
  | "finished";

/** A rank process: alive or not, maybe stopped, maybe beyond even SIGKILL; member of at most one group. */
export class SimRank {
  readonly rank: number;
  readonly pid: number;
  readonly set: string;
  /** Newest generation whose Prepare it was given. */
  generation = 0;
  alive = true;
  stopped = false;
  unkillable = false;
  /** When it last went on after a stop. */
  wentOnMs = Number.NEGATIVE_INFINITY;
  /** SIGKILL was sent while it could not act. */
  killPending = false;
  phase: RankPhase = "starting";
  group: TrainGroup | null = null;
  /** Generation that its progress page is about. */
  pageGeneration = 0;
  content: Content | null = null;
  /** Its last snapshot is whole (true also before the first). */
  snapshotWhole = false;
  /** State of its last whole snapshot in this generation. */
  snapshotState: StateName | null = null;
  entered = 0;
  completed = 0;
  changedMs = 0;
  readonly #scheduler: Scheduler;
  readonly random: Random;
  #epoch = 0;
  #parked: (() => void)[] = [];

  constructor(options: { rank: number; pid: number; layout: string; scheduler: Scheduler; random: Random }) {
    this.rank = options.rank;
    this.pid = options.pid;
    this.set = `${options.layout}/${options.rank}`;
    this.#scheduler = options.scheduler;
    this.random = options.random;
    this.changedMs = options.scheduler.nowMs;
  }

  /** Does something later, unless the process has died or turned to something else; a stopped one does it when it goes on. */
  later(delayMs: number, run: () => void): void {
    const epoch = this.#epoch;
    this.#scheduler.after(delayMs, () => this.#attempt(epoch, run));
  }

  #attempt(epoch: number, run: () => void): void {
    if (!this.alive || this.#epoch !== epoch) return;
    if (this.stopped) this.#parked.push(() => this.#attempt(epoch, run));
    else run();
  }

  /** Drops whatever it was about to do. */
  turnAway(): void {
    this.#epoch += 1;
    this.#parked = [];
    this.group = null;
  }

  enter(phase: RankPhase): void {
    this.phase = phase;
    this.changedMs = this.#scheduler.nowMs;
  }

  goOn(): void {
    if (!this.stopped) return;
    this.stopped = false;
    this.wentOnMs = this.#scheduler.nowMs;
    const parked = this.#parked;
    this.#parked = [];
    for (const run of parked) run();
  }

  /** Between two steps a page shows idle for a moment. */
  #pagePhase(): string {
    const between = this.phase === "forward" && this.random.chance(0.05);
    return between || this.phase === "starting" ? "idle" : this.phase;
  }

  progress(): RankProgress {
    return {
      rank: this.rank,
      pid: this.pid,
      step: BigInt(this.content?.state.step ?? 0),
      microStep: 0,
      phase: this.#pagePhase(),
      layer: this.phase === "forward" ? 1 : -1,
      collectiveEntered: BigInt(this.entered),
      collectiveCompleted: BigInt(this.completed),
      collective: this.entered > 0 ? "all_reduce" : "",
      group: this.entered > 0 ? "world" : "",
      generation: BigInt(this.pageGeneration),
      unchangedMs: BigInt(this.#scheduler.nowMs - this.changedMs),
    };
  }
}
