/** One rank of a test fleet: trains on synthetic packs, forked by fleet.ts. */
import path from "node:path";
import { STATE_KINDS } from "../../../checkpoint/state.js";
import { tensorBytes } from "../../../job/block_memory.js";
import { toGokuError } from "../../../job/errors.js";
import { Layout } from "../../../job/layout.js";
import { shardPieces } from "../../../job/sharding.js";
import { readFloats, writeFloats } from "../../../worker/engine/tensor.js";
import { PAGE_BYTES } from "../../../worker/pages.js";
import { abortGroups, closeGroups, createGroups, type Groups } from "../../../worker/parallel/groups.js";
import { type StepInput, Trainer } from "../../../worker/parallel/trainer.js";
import { Progress } from "../../../worker/progress.js";
import { ownPacks } from "../../../worker/rank/own_packs.js";
import { ORDINARY_FLAGS } from "../../support/ordinary_flags.js";
import { type RankPlace, serveRank } from "../../support/rank_process.js";
import type { FleetResult, FleetTask } from "./fleet.js";
import { syntheticPack, syntheticPlan } from "./synthetic_packs.js";

class FleetRank {
  private readonly task: FleetTask;
  private readonly place: RankPlace;
  private readonly layout: Layout;
  private readonly pages: [Uint8Array, Uint8Array];
  private groups!: Groups;
  private trainer!: Trainer;
  private again = false;
  private readonly result: FleetResult = {
    votes: [],
    moved: [],
    movedFigures: [],
    figures: null,
    applied: [],
    lrs: [],
    adamStep: 0,
    pieces: [],
    leaks: [],
    peaks: [],
    errorCode: null,
  };

  constructor(task: FleetTask, place: RankPlace) {
    this.task = task;
    this.place = place;
    this.layout = Layout.parse(task.layout);
    const page = (name: string) =>
      place.native.pageMap(path.join(task.folder, `${name}.${place.rank}`), PAGE_BYTES);
    this.pages = [page("control"), page("progress")];
    place.native.threadsSet(task.threads);
  }

  async run(): Promise<FleetResult> {
    const { native, rank } = this.place;
    const { task, layout } = this;
    this.groups = await this.connect(1n);
    this.trainer = new Trainer({
      native,
      job: task.job,
      model: task.model,
      layout,
      rank,
      groups: this.groups,
      progress: new Progress(this.pages[1]),
      emptyText: { length: 2, data: new Float32Array(2 * task.model.text_width).fill(0.5) },
    });
    this.trainer.initialise();
    const baseline = native.memoryStats().liveBytes;
    if (task.movedFirst) this.result.moved = this.computeMoved();
    for (let step = 1; step <= task.steps; step++) {
      if (task.desertion?.step === step) await this.desert(step, baseline);
      this.step(step);
      this.result.leaks.push(native.memoryStats().liveBytes - baseline);
    }
    this.collect();
    this.trainer.close();
    closeGroups(native, this.groups);
    for (const page of this.pages) native.pageUnmap(page);
    return this.result;
  }

  /** Allocator memory of the training state, which these ranks hold in tensors of their own. */
  private get stateBytes(): number {
    return this.trainer.shards.reduce(
      (sum, { range }) => sum + STATE_KINDS.length * tensorBytes(range.length, 4),
      0,
    );
  }

  private connect(generation: bigint): Promise<Groups> {
    const { native, rank, members } = this.place;
    return createGroups(native, {
      job: path.basename(this.task.folder),
      generation,
      layout: this.layout,
      rank,
      members,
      abortPage: this.pages[0],
      progressPage: this.pages[1],
      timeoutMs: 30_000,
      transport: this.task.transport,
    });
  }

  private step(step: number): void {
    const { task, trainer, result } = this;
    this.compute(step);
    const own = task.flags.find((entry) => entry.rank === this.place.rank && entry.step === step);
    const flags = { ...ORDINARY_FLAGS, ...own?.flags };
    let vote = trainer.vote(step, flags);
    if (!vote.numbersFinite) {
      this.again = true;
      this.compute(step);
      vote = trainer.vote(step, flags, trainer.numbers);
      this.again = false;
    }
    const { applied, lr } = trainer.apply(step, vote);
    result.peaks.push(trainer.figures.memoryPeakBytes - this.stateBytes);
    result.votes.push(vote);
    result.applied.push(applied);
    result.lrs.push(lr);
  }

  /** Losses of the first step's packs at home, and on the next data rank. */
  private computeMoved(): number[][] {
    return [0, 1].map((moved) => {
      this.trainer.computeStep(this.input(1, moved));
      const { packLosses } = this.trainer.vote(1, ORDINARY_FLAGS);
      this.result.movedFigures.push({ ...this.trainer.figures });
      return packLosses;
    });
  }

  private compute(step: number): void {
    this.trainer.computeStep(this.input(step, 0));
  }

  private input(step: number, moved: number): StepInput {
    const { task, layout } = this;
    const count = task.job.train.packs_per_step;
    const batches = Array.from({ length: count }, (_, i) => this.batch((step - 1) * count + i));
    const own = ownPacks(layout, this.place.rank, count, moved);
    const packs = own.map((i) => (i === null ? null : batches[i]!));
    return { step, plan: syntheticPlan(step, batches), packs, moved };
  }

  private batch(packIndex: number) {
    const { task } = this;
    const batch = syntheticPack(task.model, packIndex, task.job.train.packs_per_step, task.pack);
    if (task.poisonedPack === packIndex && !(task.poisonedOnce && this.again)) batch.data[3] = Number.NaN;
    const { rank, sample } = task.unreadableAt ?? {};
    const unreadable = [...task.unreadable, ...(rank === this.place.rank ? [sample] : [])];
    batch.weights = batch.samples.map((name) => (unreadable.includes(name) ? 0 : 1));
    return batch;
  }

  /** One rank leaves in mid-step; everyone then restores what it held before the step and forms generation 2. */
  private async desert(step: number, baseline: number): Promise<void> {
    const { native, rank } = this.place;
    const { trainer } = this;
    const tensors = trainer.shards.flatMap((shard) => STATE_KINDS.map((kind) => shard[kind]));
    const saved = tensors.map((tensor) => readFloats(native, tensor));
    if (rank === this.task.desertion!.rank) {
      abortGroups(native, this.groups);
    } else {
      try {
        this.compute(step);
        trainer.vote(step, ORDINARY_FLAGS);
      } catch (error) {
        this.result.errorCode = toGokuError(error).code;
      }
      this.result.leaks.push(native.memoryStats().liveBytes - baseline);
    }
    closeGroups(native, this.groups);
    for (const [i, tensor] of tensors.entries()) writeFloats(native, tensor, 0, saved[i]!);
    trainer.restored();
    this.groups = await this.connect(2n);
    trainer.setGroups(this.groups);
  }

  private collect(): void {
    const { native, rank } = this.place;
    const { trainer, layout, result } = this;
    result.adamStep = trainer.adamStep;
    result.figures = { ...trainer.figures };
    if (layout.coordinates(rank).replica > 0) return;
    const shards = new Map(trainer.shards.map((shard) => [shard.unit.name, shard]));
    const pieces = shardPieces(
      trainer.shards.map(({ unit }) => unit),
      layout,
      rank,
    );
    for (const { parameter, start, length, unit, shardOffset } of pieces) {
      for (const kind of ["model", "ema"] as const) {
        const values = readFloats(native, shards.get(unit)![kind], shardOffset, length);
        result.pieces.push({ name: `${kind}/${parameter}`, start, values });
      }
    }
  }
}

serveRank<FleetTask, FleetResult>((task, place) => new FleetRank(task, place).run());
