import type { StateName } from "../../controller/core/contract.js";
import { sameState } from "../../controller/core/state_name.js";
import type { RankProgress } from "../../gen/goku/v1/agent.pb.js";
import type { ErrorCode } from "../../job/errors.js";
import type { LeftOut } from "../../job/left_out.js";
import type { StepDecision } from "../../worker/rank/decide_step.js";
import { ReplicaLedger } from "../../worker/rank/replica_ledger.js";
import { SLOT_COUNT, SLOT_COUNT_REPLICATED, SlotBook } from "../../worker/rank/slots.js";
import type { Random } from "./random.js";
import type { Scheduler } from "./scheduler.js";
import { type Content, stored } from "./sim_content.js";
import type { SimGroup } from "./sim_group.js";
import type { SimMemory } from "./sim_memory.js";

export type RankPhase =
  | "starting"
  | "idle"
  | "forming"
  | "restore"
  | "data"
  | "forward"
  | "vote"
  | "snapshot"
  | "program"
  | "finished";

/** Where a process keeps its states: the slots of its set, and the real books of them. */
export interface RankPlace {
  memory: SimMemory;
  replicate: boolean;
  book: SlotBook;
  ledger: ReplicaLedger;
}

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
  group: SimGroup | null = null;
  /** Generation that its progress page is about. */
  pageGeneration = 0;
  content: Content | null = null;
  /** Those of its state, with what the run was rolled back over since. */
  leftOut: readonly LeftOut[] = [];
  place: RankPlace | null = null;
  /** State of its last whole snapshot in this generation. */
  sealed: StateName | null = null;
  /** Its state was read from a durable checkpoint, so that it need not be saved again. */
  durable = false;
  decided: Pick<StepDecision, "save" | "saveOwed"> = { save: null, saveOwed: false };
  previewDue: StateName | null = null;
  /** The final save can never be committed. */
  saveError: ErrorCode | null = null;
  /** Called whenever a save is over. */
  onSaved: (() => void) | null = null;
  entered = 0;
  completed = 0;
  /** Heartbeats of the program that it runs. */
  beats = 0;
  /** Of the present step; then the sums over the steps of its generation. */
  computedMs = 0;
  timedSteps = 0;
  timedMs = 0;
  changedMs = 0;
  /** The longest time between two signs of life since it was last taken. */
  #pauseMs = 0;
  /** The last pause of a second or more that is over. */
  #over = { untilMs: 0, ms: 0 };
  readonly #scheduler: Scheduler;
  readonly random: Random;
  #epoch = 0;
  #livesUntilMs = 0;
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

  /** It is given a place: until then it had nothing to do. */
  beginPlace(generation: number): void {
    this.generation = generation;
    this.#showLife();
  }

  /** Drops whatever it was about to do. */
  stopWork(): void {
    this.#epoch += 1;
    this.#parked = [];
  }

  /** Leaves its group, too. */
  turnAway(): void {
    this.stopWork();
    this.group = null;
  }

  enter(phase: RankPhase): void {
    this.phase = phase;
    this.#showLife();
  }

  #showLife(): void {
    const { nowMs } = this.#scheduler;
    const ms = nowMs - this.changedMs;
    this.#pauseMs = Math.max(this.#pauseMs, ms);
    if (ms >= 1_000) this.#over = { untilMs: nowMs, ms };
    this.changedMs = nowMs;
  }

  /** How long it showed no sign of life, until now or until it went on at that time or later. */
  stoodMs(sinceMs: number): number {
    const { untilMs, ms } = this.#over;
    return Math.max(this.#scheduler.nowMs - this.changedMs, untilMs >= sinceMs ? ms : 0);
  }

  /** At the end of a step, which is a sign of life. */
  takePauseMs(): number {
    this.#showLife();
    const pauseMs = this.#pauseMs;
    this.#pauseMs = 0;
    return pauseMs;
  }

  /** Its data comes so late, while it shows twice a second that it waits for it; then it does what it was about to do. */
  awaitData(forMs: number): void {
    this.enter("data");
    this.stopped = true;
    this.#livesUntilMs = this.#scheduler.nowMs + forMs;
    this.#scheduler.after(forMs, () => {
      if (this.phase === "data") this.enter("forward");
      this.goOn();
    });
  }

  goOn(): void {
    if (!this.stopped) return;
    this.stopped = false;
    this.wentOnMs = this.#scheduler.nowMs;
    const parked = this.#parked;
    this.#parked = [];
    for (const run of parked) run();
  }

  /** Between two steps a page shows idle for a moment; that of a rank that stands still shows the same all the time. */
  #pagePhase(): string {
    const between = this.phase === "forward" && !this.stopped && this.random.chance(0.05);
    return between || this.phase === "starting" ? "idle" : this.phase;
  }

  /** For how long its agent has seen no sign of life. */
  get #unchangedMs(): number {
    const stillMs = this.#scheduler.nowMs - this.changedMs;
    return this.#scheduler.nowMs < this.#livesUntilMs ? stillMs % 250 : stillMs;
  }

  /** A stopped process gets no processor time, nor does one without a place; one that forms, or waits for its data, wakes now and then. */
  get #blockedMs(): number {
    const isBlocked = this.stopped || this.group === null;
    return isBlocked && this.#scheduler.nowMs >= this.#livesUntilMs ? this.#unchangedMs : 0;
  }

  /** Same slots as before: its books go on. Else they are made from what the files hold. */
  takePlace(memory: SimMemory, replicate: boolean): RankPlace {
    const old = this.place;
    this.decided = { save: null, saveOwed: false };
    this.previewDue = null;
    this.saveError = null;
    this.onSaved = null;
    this.sealed = null;
    this.durable = false;
    if (old !== null && old.memory === memory && old.replicate === replicate) {
      old.ledger.end();
      return old;
    }
    const book = new SlotBook(this.#files(memory, replicate));
    this.place = { memory, replicate, book, ledger: new ReplicaLedger(book) };
    return this.place;
  }

  #files(memory: SimMemory, replicate: boolean) {
    const slots = memory.slots(this.set).slice(0, replicate ? SLOT_COUNT_REPLICATED : SLOT_COUNT);
    return slots.map((copy) => (copy === null ? null : stored(copy.content.state)));
  }

  /** Takes a free slot to write the next state into. */
  takeSlot(): void {
    const { book, memory } = this.place!;
    memory.spoil(this.set, book.take().index);
  }

  seal(): void {
    const { book, memory } = this.place!;
    memory.seal(this.set, book.live!.index, this.content!);
    book.written(stored(this.content!.state));
    this.sealed = this.content!.state;
  }

  /** The slot of that state, if damage was found in it, holds nothing whole. */
  giveUpDamaged(state: StateName): void {
    const { book, memory, replicate } = this.place!;
    for (const [index, copy] of memory.slots(this.set).entries()) {
      const isRead = copy !== null && sameState(copy.content.state, state);
      if (isRead && copy.damaged.size > 0) memory.spoil(this.set, index);
    }
    book.reread(this.#files(memory, replicate));
  }

  saved(memory: SimMemory, state: StateName, error: ErrorCode | null): void {
    if (!this.alive || this.place?.memory !== memory) return;
    this.place.book.unpin(stored(state));
    this.saveError = error ?? this.saveError;
    this.onSaved?.();
  }

  progress(): RankProgress {
    return {
      rank: this.rank,
      pid: this.pid,
      step: BigInt(this.content?.state.step ?? 0),
      microStep: this.beats,
      phase: this.#pagePhase(),
      layer: this.phase === "forward" ? 1 : -1,
      collectiveEntered: BigInt(this.entered),
      collectiveCompleted: BigInt(this.completed),
      collective: this.entered > 0 ? "all_reduce" : "",
      group: this.entered > 0 ? "world" : "",
      generation: BigInt(this.pageGeneration),
      unchangedMs: BigInt(this.#unchangedMs),
      blockedMs: BigInt(this.#blockedMs),
      times: {
        steps: BigInt(this.timedSteps),
        work: BigInt(100 * this.timedSteps),
        forwardUs: BigInt(Math.floor(300 * this.timedMs)),
        backwardUs: BigInt(Math.floor(700 * this.timedMs)),
        optimizerUs: 0n,
        dataUs: 0n,
        waitUs: 0n,
      },
    };
  }
}
