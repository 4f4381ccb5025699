import type { StateMeta, StateName } from "../../checkpoint/state.js";
import { ERRORS, type ErrorCode, GokuError, toGokuError } from "../../job/errors.js";
import type { Job } from "../../job/job.js";
import type { Layout } from "../../job/layout.js";
import type { PackBatch, PackSource, StepPlan } from "../data/pack_batch.js";
import { failpoint, setFailpointScope } from "../failpoints.js";
import { CONTROL } from "../pages.js";
import type { ApplyResult, Trainer } from "../parallel/trainer.js";
import type { VoteResult } from "../parallel/vote.js";
import type { Progress } from "../progress.js";
import type { FromRank, StepMetrics } from "../rank_messages.js";
import { decideStep, isPeriodicSave, type SaveReason, type StepDecision } from "./decide_step.js";
import { ownPacks } from "./own_packs.js";
import type { ReplicaLedger } from "./replica_ledger.js";
import type { SlotBook } from "./slots.js";
import type { SnapshotPages } from "./snapshot_pages.js";

/** The state of the run beside the tensors. */
export interface RunState {
  state: StateName;
  parent: StateName | null;
  /** The state was read from a durable checkpoint, so that it need not be saved again. */
  durable: boolean;
}

/** What this rank was asked from outside; raised in the next vote. */
export interface Requests {
  save: boolean;
  stop: boolean;
}

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
  book: SlotBook;
  replicas: ReplicaLedger;
  run: RunState;
  requests: Requests;
  send: (message: FromRank) => void;
}

/** Packs announced at most, but for those of the step computed and of the next one. */
const ANNOUNCED_PACKS_MAX = 64;
const ANNOUNCED_STEPS_MAX = 3;

/**
 * The training loop of one rank in one generation, from the restored state to the last step or a voted stop. It ends by
 * sending `finished`, or throws: COMM_* when a peer or the agent ended the generation, else what went wrong here.
 *
 * The optimizer writes state n+1 into another slot than the one that n lies in, so that n is a snapshot without a copy. A
 * rank votes for step n+1 only with n whole, and only after the vote may n-1 be overwritten: whenever ranks die, some
 * state is whole on all of them.
 */
export class TrainLoop {
  private readonly options: TrainLoopOptions;
  private readonly own: (number | null)[];
  private decided: Pick<StepDecision, "save" | "saveOwed"> = { save: null, saveOwed: false };
  /** The last seal failed, and that was told. */
  private snapshotsFail = false;
  private saveError: GokuError | null = null;
  /** Called whenever a save is over. */
  private wake: (() => void) | null = null;

  constructor(options: TrainLoopOptions) {
    this.options = options;
    this.own = ownPacks(options.layout, options.rank, options.job.train.packs_per_step);
  }

  async train(): Promise<void> {
    const { job, run } = this.options;
    this.firstSnapshot();
    let end: "steps" | "stop" | null = run.state.step >= job.train.steps ? "steps" : null;
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

  private async step(step: number): Promise<"steps" | "stop" | null> {
    const { job, trainer, source, book, pages, replicas, requests, run } = this.options;
    setFailpointScope({ step });
    const begun = performance.now();
    const { plan, packs } = await this.packs(step);
    const dataSeconds = secondsSince(begun);
    const gradients = trainer.computeStep({ step, plan, packs });
    if (failpoint("vote.before") === "nan") gradients.packLosses.fill(Number.NaN);
    const asked = { ...requests };
    const vote = trainer.vote(step, { ...book.flags, ...replicas.flags, ...asked });
    source.exclude(step, vote.excluded);
    book.voted(vote.snapshotWhole);
    this.replicate(replicas.voted(vote));
    const decision = decideStep(job, { ...vote, before: this.decided });
    this.decided = decision;
    failpoint("optimizer.before");
    const applied = trainer.apply(step, vote, pages.begin(book.take().index, decision.snapshot));
    failpoint("optimizer.after");
    if (vote.save) requests.save = false;
    // The first step of a generation descends from what was restored; so ancestry leads through every generation.
    if (run.state.generation !== this.options.generation) run.parent = run.state;
    run.state = { generation: this.options.generation, step };
    run.durable = false;
    const sealing = performance.now();
    if (decision.snapshot && this.seal() && decision.save !== null) this.save(decision.save);
    const snapshotSeconds = secondsSince(sealing);
    this.tell({ step, plan, vote, applied, dataSeconds, snapshotSeconds, stepSeconds: secondsSince(begun) });
    return decision.end;
  }

  /** This rank's packs of a step; lets the event loop turn, and looks whether the generation goes on. */
  private async packs(step: number): Promise<{ plan: StepPlan; packs: (PackBatch | null)[] }> {
    const { source, progress } = this.options;
    progress.set({ phase: "data", microStep: 0, layer: -1 });
    await new Promise((resolve) => setImmediate(resolve));
    this.requireGeneration();
    failpoint("data.before");
    this.announce(step);
    const packs = await Promise.all(this.own.map((i) => (i === null ? null : source.pack(step, i))));
    this.requireGeneration();
    return { plan: source.plan(step), packs };
  }

  private announce(step: number): void {
    const own = this.own.filter((index) => index !== null);
    const steps = Math.max(2, Math.min(ANNOUNCED_STEPS_MAX, Math.floor(ANNOUNCED_PACKS_MAX / own.length)));
    const last = Math.min(step + steps - 1, this.options.job.train.steps);
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
    pages.sum(book.live!.index);
    this.seal();
  }

  /** A durable save of the restored state that a fault may have cut off is begun again; one that is there costs nothing. */
  private repeatSave(): void {
    const { job, run } = this.options;
    if (run.durable || !isPeriodicSave(job, run.state.step)) return;
    this.decided = { save: "periodic", saveOwed: false };
    this.save("periodic");
  }

  /** Makes the live slot a snapshot. When that fails, the vote hears of it and training goes on. */
  private seal(): boolean {
    const { book, rank, generation, run, send } = this.options;
    try {
      this.sealLive();
      this.snapshotsFail = false;
      return true;
    } catch (thrown) {
      book.failed();
      const { code, message } = toGokuError(thrown);
      process.stderr.write(`snapshot of step ${run.state.step} failed: ${message}\n`);
      if (!this.snapshotsFail)
        send({ kind: "snapshotFailed", generation, rank, state: run.state, code, message });
      this.snapshotsFail = true;
      return false;
    }
  }

  private sealLive(): void {
    const { pages, book, rank, run, progress } = this.options;
    progress.set({ phase: "snapshot" });
    pages.seal(book.live!.index, { meta: this.meta(), rank });
    book.written(run.state);
  }

  private save(reason: SaveReason): void {
    const { book, pages, run, rank, generation, send } = this.options;
    const slot = book.pin(run.state);
    if (slot === null) return;
    send({ kind: "save", generation, rank, state: run.state, slotPath: pages.slotPath(slot.index), reason });
  }

  private replicate(state: StateName | null): void {
    const { book, pages, replicas, rank, generation, send } = this.options;
    if (state === null) return;
    const slotPath = pages.slotPath(book.find(state)!.index);
    send({ kind: "replicate", generation, rank, state, kept: replicas.kept, slotPath });
  }

  /** Waits until the final state is durable everywhere, then says so. Throws when it cannot be sealed or committed. */
  private async finish(reason: "steps" | "stop"): Promise<void> {
    const { book, pages, run, progress, rank, generation, send } = this.options;
    progress.set({ phase: "finished" });
    if (!run.durable) {
      if (book.find(run.state) === null) {
        pages.sum(book.live!.index);
        this.sealLive();
        progress.set({ phase: "finished" });
      }
      this.save("final");
      while (book.find(run.state)!.pins > 0) await this.slotFreed();
      if (this.saveError) throw this.saveError;
    }
    send({ kind: "finished", generation, rank, state: run.state, reason });
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
      version,
    };
  }

  private tell(done: {
    step: number;
    plan: StepPlan;
    vote: VoteResult;
    applied: ApplyResult;
    dataSeconds: number;
    snapshotSeconds: number;
    stepSeconds: number;
  }): void {
    const { trainer, progress, replicas, rank, generation, send } = this.options;
    const { step, plan, vote, applied } = done;
    const { computeSeconds, commWaitSeconds, memoryPeakBytes } = trainer.figures;
    progress.set({ phase: "idle" });
    const metrics: StepMetrics = {
      step,
      loss: applied.loss,
      gradNorm: applied.gradNorm,
      lr: applied.lr,
      applied: applied.applied,
      tokens: plan.tokens,
      images: plan.images,
      videos: plan.videos,
      stepSeconds: done.stepSeconds,
      computeSeconds,
      commWaitSeconds,
      dataWaitSeconds: done.dataSeconds,
      snapshotSeconds: done.snapshotSeconds,
      memoryPeakBytes,
      packFill: plan.fill,
      unreadable: vote.excluded.length,
      replicatedStep: replicas.step,
    };
    send({ kind: "step", generation, rank, metrics });
  }
}

function secondsSince(milliseconds: number): number {
  return (performance.now() - milliseconds) / 1000;
}
