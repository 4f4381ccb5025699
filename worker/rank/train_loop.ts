import type { StateMeta, StateName } from "../../checkpoint/state.js";
import { ERRORS, type ErrorCode, GokuError, toGokuError } from "../../job/errors.js";
import type { Job } from "../../job/job.js";
import type { Layout } from "../../job/layout.js";
import { type LeftOut, type LeftOutReason, rollBackOf, withLeftOut } from "../../job/left_out.js";
import type { NumbersSeen } from "../../job/spikes.js";
import type { PackBatch, PackSource, StepPlan } from "../data/pack_batch.js";
import { failpoint, setFailpointScope } from "../failpoints.js";
import { CONTROL } from "../pages.js";
import type { StepInput, Trainer } from "../parallel/trainer.js";
import type { VoteResult } from "../parallel/vote.js";
import type { Progress } from "../progress.js";
import type { FromRank, RankRequest, RollBackSteps } from "../rank_messages.js";
import { decideFate, type StepFate } from "./decide_fate.js";
import { decideStep, isPeriodicSave, type SaveReason, type StepDecision } from "./decide_step.js";
import { gaveUp } from "./gave_up.js";
import { judgeNumbers, noteNumbers } from "./judge_numbers.js";
import { announcedSteps, ownPacks } from "./own_packs.js";
import type { ReplicaLedger, ReplicaNews } from "./replica_ledger.js";
import { retryStep, type TriedStep } from "./retry_step.js";
import type { SlotBook } from "./slots.js";
import type { SnapshotPages } from "./snapshot_pages.js";
import type { StateMemory } from "./state_memory.js";
import { type DoneStep, emptyPlan, replayOf, stepMetrics } from "./step_metrics.js";
import { isCompared, type TwinCheck } from "./twin_check.js";

/** The state of the run beside the tensors. */
export interface RunState {
  state: StateName;
  parent: StateName | null;
  /** The state was read from a durable checkpoint, so that it need not be saved again. */
  durable: boolean;
  /** Steps that changed no weight. */
  leftOut: readonly LeftOut[];
  /** What the numbers of the next step are compared with. */
  numbers: NumbersSeen;
}

/** How the loop of a generation ends; `rollBack`: with a step that is none of the run. */
type LoopEnd = NonNullable<StepDecision["end"]> | "rollBack";

type StepTry = TriedStep & { plan: StepPlan; dataSeconds: number };

/** What this rank was asked from outside; raised in the next vote. */
export type Requests = Record<RankRequest, boolean>;

/** Between two signs of life while data is waited for: several in the shortest time after which a rank counts as hung. */
const ALIVE_MS = 250;

/** Why a preview is left out. */
const NO_SLOT = "some rank has no snapshot slot free, since saves or copies to other nodes use them";
const NOT_WHOLE = "some rank could not keep the state in memory";

export interface TrainLoopOptions {
  job: Job;
  layout: Layout;
  rank: number;
  generation: string;
  version: string;
  trainer: Trainer;
  source: PackSource;
  progress: Progress;
  controlPage: Uint8Array;
  pages: SnapshotPages;
  memory: StateMemory;
  book: SlotBook;
  replicas: ReplicaLedger;
  /** Null: no rank holds the same shard. */
  twins: TwinCheck | null;
  run: RunState;
  /** Steps that are not computed, beside those that the state names. */
  rollBacks: readonly RollBackSteps[];
  requests: Requests;
  send: (message: FromRank) => void;
}

/**
 * The training loop of one rank in one generation, from the restored state to the last step, a voted stop or yield. It ends by
 * sending `finished`, or throws: COMM_* when a peer or the agent ended the generation, else what went wrong here.
 *
 * The optimizer writes state n+1 into another slot than the one that n lies in, so that n is a snapshot without a copy; a state on
 * a device is copied to a slot beside the next step. A rank votes for step n+1 only with n whole, and only after the vote may n-1 be
 * overwritten: whenever ranks die, some state is whole on all of them.
 */
export class TrainLoop {
  private readonly options: TrainLoopOptions;
  private readonly own: (number | null)[];
  /** Those of the state and of what was told beside it; in the meta of a state from the first step of the generation on. */
  private leftOut: readonly LeftOut[];
  /** Steps in a row of this generation whose numbers were not finite. */
  private badSteps = 0;
  /** Why the last step changed no weight; null: it did. */
  private gaveUpFor: LeftOutReason | null = null;
  /** What the last step has led to; null: no roll-back. */
  private rollsBack: RollBackSteps | null = null;
  private decided: Pick<StepDecision, "save" | "saveOwed"> = { save: null, saveOwed: false };
  /** The last state is one that this generation computed and all ranks made a snapshot of. */
  private isSnapshot = false;
  /** What is to be done with the last state once its slot is sealed; null: nothing is left to be sealed. */
  private owed: Pick<StepDecision, "save" | "preview"> | null = null;
  /** That the present step has waited for snapshots. */
  private snapshotSeconds = 0;
  /** The last seal failed, and that was told. */
  private snapshotsFail = false;
  /** A preview of this state is due, if the next vote finds it whole on every rank. */
  private previewDue: StateName | null = null;
  private saveError: GokuError | null = null;
  /** Called whenever a save is over. */
  private wake: (() => void) | null = null;

  constructor(options: TrainLoopOptions) {
    this.options = options;
    this.own = ownPacks(options.layout, options.rank, options.job.train.packs_per_step);
    const { run, rollBacks } = options;
    const told = rollBacks.map((steps): LeftOut => ({ ...steps, why: "roll_back" }));
    this.leftOut = told.reduce<readonly LeftOut[]>(withLeftOut, run.leftOut);
  }

  async train(): Promise<void> {
    try {
      await this.trainToEnd();
    } catch (error) {
      this.sealOwed(); // all ranks may go on from that state
      throw error;
    }
  }

  private async trainToEnd(): Promise<void> {
    const { job, run } = this.options;
    this.firstSnapshot();
    let end: LoopEnd | null = run.state.step >= job.train.steps ? "steps" : null;
    if (end === null) this.repeatSave();
    while (end === null) end = await this.step(run.state.step + 1);
    await this.finish(end);
  }

  /** A save of this state is over; `error`: it was the final one and cannot be committed. */
  saved(state: StateName, error: { code: ErrorCode; message: string } | null): void {
    this.options.book.unpin(state);
    if (error) this.saveError = new GokuError(error.code, error.message);
    this.wake?.();
  }

  /** The agent ended the generation: a loop that waits for a slot looks up. */
  interrupt(): void {
    this.wake?.();
  }

  private async step(step: number): Promise<LoopEnd | null> {
    const { job, trainer, book, memory, replicas, requests, run } = this.options;
    setFailpointScope({ step });
    const begun = performance.now();
    this.snapshotSeconds = 0;
    const isLeftOut = rollBackOf(this.leftOut, step) !== null;
    const { plan, dataSeconds, ...tried } = await (isLeftOut ? this.leaveOut(step) : this.compute(step));
    const { vote, bad } = tried;
    const { leftOut, badSteps } = this;
    const replay = replayOf(tried, run.numbers);
    const fate: StepFate = isLeftOut
      ? { kind: "skip", why: "roll_back" }
      : decideFate({ step, vote, bad, replay, recovery: job.recovery, leftOut, badSteps });
    this.badSteps = bad === null || bad.isTaken ? 0 : badSteps + 1;
    const news = isLeftOut ? { loss: null, gradient: null } : noteNumbers(run.numbers, vote, fate);
    const seen = { step, plan, vote, replay, news, dataSeconds };
    book.voted(vote.snapshotWhole);
    this.replicate(replicas.voted(vote));
    this.tellPreview(vote.snapshotWhole);
    if (vote.snapshotWhole) this.compareTwins();
    if (fate.kind === "rollBack") {
      this.rollsBack = { first: fate.to + 1, last: step };
      const { loss, gradNorm } = vote;
      const applied = { applied: false, lr: 0, loss, gradNorm };
      const stepSeconds = secondsSince(begun);
      this.tell({
        ...seen,
        leftOut: null,
        rollBack: this.rollsBack,
        missed: { snapshotSkipped: false, savePutOff: false },
        applied,
        snapshotSeconds: this.snapshotSeconds,
        stepSeconds,
      });
      return "rollBack";
    }
    const why = fate.kind === "apply" ? null : fate.why;
    if (why !== null && !isLeftOut) this.leftOut = withLeftOut(leftOut, { first: step, last: step, why });
    this.gaveUpFor = why;
    const giveUp = fate.kind === "giveUp";
    const decision = decideStep(job, { ...vote, step, giveUp, before: this.decided });
    this.decided = decision;
    this.isSnapshot = decision.snapshot;
    if (failpoint("optimizer.before") === "flip") memory.flipBit(book.live!.index);
    const counted = { ...vote, finite: fate.kind === "apply" };
    const applied = trainer.apply(step, counted, memory.begin(book.take().index, decision.snapshot));
    failpoint("optimizer.after");
    if (vote.save) requests.save = false;
    // The first step of a generation descends from what was restored; so ancestry leads through every generation.
    if (run.state.generation !== this.options.generation) run.parent = run.state;
    run.state = { generation: this.options.generation, step };
    run.durable = false;
    run.leftOut = this.leftOut;
    if (decision.snapshot) this.snapshot(decision);
    else if (decision.preview !== null) this.preview(decision.preview, false);
    const { snapshotSeconds } = this;
    const stepSeconds = secondsSince(begun);
    const done = { leftOut: why, rollBack: null, missed: decision, applied, snapshotSeconds, stepSeconds };
    this.tell({ ...seen, ...done });
    return decision.end;
  }

  /** Gradients of a step, tried as often as its numbers call for. */
  private async compute(step: number): Promise<StepTry> {
    const { job, layout, source, run } = this.options;
    const begun = performance.now();
    const { plan, packs } = await this.packs(step);
    let dataSeconds = secondsSince(begun);
    const spikesTaken = job.recovery.spike === "apply";
    const tried = await retryStep(
      { step, plan, packs, moved: 0 },
      {
        layout,
        attempt: (input, again) => this.attempt(input, again),
        movedOn: async (input) => {
          const asked = performance.now();
          const moved = await this.movedOn(input);
          dataSeconds += secondsSince(asked);
          return moved;
        },
        judge: (vote) => judgeNumbers(vote, { seen: run.numbers, spikesTaken }),
      },
    );
    source.exclude(step, tried.vote.excluded);
    return { ...tried, plan, dataSeconds };
  }

  /** A step of a roll-back: only its vote is held, without packs. */
  private async leaveOut(step: number): Promise<StepTry> {
    await this.turn();
    const plan = emptyPlan(step);
    const vote = this.attempt({ step, plan, packs: [], moved: 0 }, false);
    return { vote, bad: null, replay: null, first: vote, plan, dataSeconds: 0 };
  }

  /** One try at a step's gradients, and the vote on them. */
  private attempt(input: StepInput, again: boolean): VoteResult {
    const { trainer, book, memory, replicas, requests } = this.options;
    const earlier = again ? trainer.numbers : null;
    const gradients = trainer.computeStep(input);
    this.sealOwed(); // the vote tells whether it is whole
    const spoilt = failpoint("vote.before");
    if (typeof spoilt === "number")
      for (const slot of gradients.packLosses.keys()) gradients.packLosses[slot]! *= spoilt;
    if (spoilt === "flip") memory.flipBit(book.live!.index);
    this.requireState();
    return trainer.vote(input.step, { ...book.flags, ...replicas.flags, ...requests }, earlier);
  }

  /**
   * The state that the gradients were computed with is what the optimizer wrote: a bit that turned in memory since then
   * would be in every later state, and no number would tell. Found before the vote, it costs a step: older states are whole.
   */
  private requireState(): void {
    const { pages, memory, book, run, rank } = this.options;
    const live = book.live!;
    const damaged = live.state === null ? 0 : memory.damaged(live.index); // what is no snapshot has no checksums
    if (damaged === 0) return;
    book.reread(pages.states());
    throw new GokuError(
      "RANK_CORRUPT",
      `Cannot go on with step ${run.state.step} of generation ${run.state.generation}: memory of rank ${rank} has changed since it was written, in ${damaged} ${damaged === 1 ? "chunk" : "chunks"} of a MiB; check this machine's memory`,
    );
  }

  private async movedOn(input: StepInput): Promise<StepInput> {
    const { layout, rank, job, progress } = this.options;
    progress.set({ phase: "data", layer: -1 });
    const own = ownPacks(layout, rank, job.train.packs_per_step, 1);
    const packs = await this.loaded(input.step, own);
    this.requireGeneration();
    return { ...input, packs, moved: 1 };
  }

  /** This rank's packs of a step; lets the event loop turn, and looks whether the generation goes on. */
  private async packs(step: number): Promise<{ plan: StepPlan; packs: (PackBatch | null)[] }> {
    const { source, memory, book } = this.options;
    await this.turn();
    if (failpoint("data.before") === "flip") memory.flipBit(book.live!.index);
    this.announce(step);
    const packs = await this.loaded(step, this.own);
    this.requireGeneration();
    return { plan: source.plan(step), packs };
  }

  /** Storage may take its time: a rank whose thread turns meanwhile waits, one whose thread is blocked hangs. */
  private async loaded(step: number, own: readonly (number | null)[]): Promise<(PackBatch | null)[]> {
    const { source, progress } = this.options;
    const alive = setInterval(() => progress.alive(), ALIVE_MS);
    try {
      return await Promise.all(own.map((i) => (i === null ? null : source.pack(step, i))));
    } finally {
      clearInterval(alive);
    }
  }

  private async turn(): Promise<void> {
    this.options.progress.set({ phase: "data", microStep: 0, layer: -1 });
    await new Promise((resolve) => setImmediate(resolve));
    this.requireGeneration();
  }

  private announce(step: number): void {
    const own = this.own.filter((index) => index !== null);
    const last = Math.min(step + announcedSteps(own.length) - 1, this.options.job.train.steps);
    const ahead = Array.from({ length: last - step + 1 }, (_, i) => step + i);
    this.options.source.announce(ahead.flatMap((later) => own.map((index) => ({ step: later, index }))));
  }

  /** Throws COMM_ABORTED when the agent ended this generation: a rank without peers meets no collective that would. */
  private requireGeneration(): void {
    const { controlPage, generation } = this.options;
    const view = new DataView(controlPage.buffer, controlPage.byteOffset, controlPage.byteLength);
    if (view.getBigUint64(CONTROL.abortGeneration, true) < BigInt(generation)) return;
    const peer = view.getInt32(CONTROL.abortPeer, true);
    const reason = view.getUint32(CONTROL.abortReason, true);
    const code = (Object.keys(ERRORS) as ErrorCode[]).find((key) => ERRORS[key].number === reason);
    throw new GokuError(
      "COMM_ABORTED",
      `Cannot go on in generation ${generation}: it was ended from outside${peer >= 0 ? ` because of rank ${peer}` : ""}${code ? ` (${code})` : ""}`,
      { peer: peer >= 0 ? peer : null },
    );
  }

  /** A restored state that is not whole yet (initial values, a checkpoint, another process's snapshot) is sealed. */
  private firstSnapshot(): void {
    const { book, pages, run } = this.options;
    const found = book.find(run.state);
    if (found !== null && found === book.live) return;
    // One of that name in another slot is of another restore, and may differ in its meta.
    if (found !== null) pages.spoil(pages.slotPath(found.index));
    this.snapshot({ save: null, preview: null });
    this.sealOwed();
  }

  /** A durable save of the restored state that a fault may have cut off is begun again; one that is there costs nothing. */
  private repeatSave(): void {
    const { job, run } = this.options;
    if (run.durable || !isPeriodicSave(job, run.state.step)) return;
    this.decided = { save: "periodic", saveOwed: false };
    this.save("periodic");
  }

  /** The state is to be a snapshot: at once where it lies in its slot, else when its copy is there, before the next vote. */
  private snapshot(then: Pick<StepDecision, "save" | "preview">): void {
    const { memory, book } = this.options;
    this.owed = then;
    this.timed(() => memory.copyStart(book.live!.index));
    if (!memory.copying) this.sealOwed();
  }

  private sealOwed(): void {
    const { owed } = this;
    if (owed === null) return;
    this.owed = null;
    this.timed(() => {
      const sealed = this.seal();
      if (sealed && owed.save !== null) this.save(owed.save);
      if (owed.preview !== null) this.preview(owed.preview, sealed);
    });
  }

  private timed(work: () => void): void {
    const begun = performance.now();
    work();
    this.snapshotSeconds += secondsSince(begun);
  }

  /** Makes the live slot a snapshot. When that fails, the vote hears of it and training goes on. */
  private seal(): boolean {
    const { book, rank, generation, run, progress, send } = this.options;
    try {
      this.sealLive();
      this.snapshotsFail = false;
      return true;
    } catch (thrown) {
      book.failed();
      progress.snapshotFailed();
      const { code, message } = toGokuError(thrown);
      process.stderr.write(`snapshot of step ${run.state.step} failed: ${message}\n`);
      if (!this.snapshotsFail)
        send({ kind: "snapshotFailed", generation, rank, state: run.state, code, message });
      this.snapshotsFail = true;
      return false;
    }
  }

  private sealLive(): void {
    const { pages, memory, book, rank, run, progress } = this.options;
    progress.set({ phase: "snapshot" });
    memory.copied(book.live!.index);
    pages.seal(book.live!.index, { meta: this.meta(), rank });
    book.written(run.state);
    progress.snapshotMade(run.state.step);
  }

  private save(reason: SaveReason): void {
    const { book, pages, run, rank, generation, send } = this.options;
    const slot = book.pin(run.state);
    if (slot === null) return;
    send({ kind: "save", generation, rank, state: run.state, slotPath: pages.slotPath(slot.index), reason });
  }

  /** Every rank whose shard is read pins it; whether all have it whole is known with the next vote. */
  private preview(due: "draw" | "noSlot", sealed: boolean): void {
    const { book, layout, run, rank } = this.options;
    if (layout.coordinates(rank).replica !== 0) return;
    if (sealed) {
      book.pinPreview(run.state);
      this.previewDue = run.state;
      return;
    }
    if (due === "noSlot") book.previewLeftOut();
    this.sendPreview(run.state, due === "noSlot" ? NO_SLOT : NOT_WHOLE);
  }

  /** The last state is whole on every rank, so that all twins have its checksums. */
  private compareTwins(): void {
    const { twins, job, book, pages, run, rank, generation, send } = this.options;
    if (twins === null || !this.isSnapshot || !isCompared(run.state.step, job.checkpoint)) return;
    const { equalStep } = twins;
    const difference = twins.compare(run.state.step, pages.checksums(book.find(run.state)!.index));
    // One of them speaks for all.
    if (difference === null || difference.ranks[0] !== rank) return;
    send({ kind: "twinsDiffer", generation, rank, state: run.state, difference, equalStep });
  }

  private tellPreview(snapshotWhole: boolean): void {
    const state = this.previewDue;
    this.previewDue = null;
    if (state === null) return;
    if (!snapshotWhole) this.options.book.unpinPreview(state);
    this.sendPreview(state, snapshotWhole ? null : NOT_WHOLE);
  }

  private sendPreview(state: StateName, skipped: string | null): void {
    const { rank, generation, send } = this.options;
    if (rank === 0) send({ kind: "preview", generation, rank, state, skipped });
  }

  private replicate({ confirmed, copy }: ReplicaNews): void {
    const { book, pages, replicas, rank, generation, send } = this.options;
    if (confirmed !== null) send({ kind: "confirmed", generation, rank, state: confirmed });
    if (copy === null) return;
    const slotPath = pages.slotPath(book.find(copy)!.index);
    send({ kind: "replicate", generation, rank, state: copy, kept: replicas.kept, slotPath });
  }

  /**
   * Waits until the final state is durable everywhere (of a yield: whole in memory), then says so. Throws when it cannot be
   * sealed or committed.
   */
  private async finish(reason: LoopEnd): Promise<void> {
    const { job, book, memory, run, progress, rank, generation, send } = this.options;
    if (reason === "rollBack") {
      // The groups stay until the next generation: some rank may not have read the whole vote yet.
      const { code, message } = this.rolledBack();
      send({ kind: "failed", generation, rank, code, message, peer: -1, operation: "" });
      return;
    }
    this.sealOwed();
    progress.set({ phase: "finished" });
    if (!run.durable && book.find(run.state) === null) {
      memory.copyStart(book.live!.index);
      this.sealLive();
      progress.set({ phase: "finished" });
    }
    if (!run.durable && reason !== "yield") {
      this.save("final");
      while (book.find(run.state)!.pins > 0) await this.slotFreed();
      if (this.saveError) throw this.saveError;
    }
    if (reason === "bad")
      throw gaveUp({ job, step: run.state.step, why: this.gaveUpFor!, count: this.badSteps });
    send({ kind: "finished", generation, rank, state: run.state, reason });
  }

  private rolledBack(): GokuError {
    const { first, last } = this.rollsBack!;
    const left = first === last ? `step ${last} is` : `steps ${first} to ${last} are`;
    return new GokuError(
      "ROLLED_BACK",
      `Cannot go on from step ${last}: data or weights make its numbers bad; the run goes back to step ${first - 1}, and ${left} left out`,
    );
  }

  private async slotFreed(): Promise<void> {
    this.requireGeneration();
    await new Promise<void>((resolve) => {
      this.wake = resolve;
    });
    this.wake = null;
    this.requireGeneration();
  }

  private meta(): StateMeta {
    const { job, layout, trainer, source, run, version } = this.options;
    return {
      state: run.state,
      parent: run.parent,
      job,
      layout: layout.size,
      adamStep: trainer.adamStep,
      dataDigest: source.digest,
      codec: source.codec,
      exclusions: source.exclusions,
      leftOut: run.leftOut,
      numbers: run.numbers,
      version,
    };
  }

  private tell(done: DoneStep): void {
    const { trainer, progress, replicas, rank, generation, send } = this.options;
    const { figures } = trainer;
    progress.set({ phase: "idle" });
    const pauseSeconds = progress.takePauseSeconds();
    // The pace of a rank is judged by steps that it has computed and applied, or at least tried to.
    if (done.leftOut !== "roll_back")
      progress.stepped({ ...figures, dataSeconds: done.dataSeconds, waitSeconds: figures.commWaitSeconds });
    const metrics = stepMetrics(done, { figures, pauseSeconds, replicatedStep: replicas.step });
    send({ kind: "step", generation, rank, metrics });
  }
}

function secondsSince(milliseconds: number): number {
  return (performance.now() - milliseconds) / 1000;
}
