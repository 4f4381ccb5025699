/** One rank of a chain of layouts, forked by layout_chain.test.ts. */
import { readdirSync } from "node:fs";
import path from "node:path";
import { openCheckpoint } from "../../../checkpoint/load.js";
import { commitCheckpoint, saveShard } from "../../../checkpoint/save.js";
import { readSnapshotHeader, snapshotLayout } from "../../../checkpoint/snapshot.js";
import { type StateName, stateKey } from "../../../checkpoint/state.js";
import type { Job } from "../../../job/job.js";
import { Layout } from "../../../job/layout.js";
import { parameterSpecs } from "../../../job/parameters.js";
import { flatUnits } from "../../../job/sharding.js";
import { PAGE_BYTES } from "../../../worker/pages.js";
import { closeGroups, createGroups, type Groups } from "../../../worker/parallel/groups.js";
import { Trainer } from "../../../worker/parallel/trainer.js";
import { Progress } from "../../../worker/progress.js";
import { ReplicaLedger } from "../../../worker/rank/replica_ledger.js";
import { restoreState } from "../../../worker/rank/restore_state.js";
import { SlotBook } from "../../../worker/rank/slots.js";
import { SnapshotPages } from "../../../worker/rank/snapshot_pages.js";
import { stateMemory } from "../../../worker/rank/state_memory.js";
import { TrainLoop } from "../../../worker/rank/train_loop.js";
import { verifyFacts } from "../../../worker/rank/verify_groups.js";
import type { FromRank, RestoreSource, StepMetrics } from "../../../worker/rank_messages.js";
import { PEER_ACCESS } from "../../support/peers.js";
import { type RankPlace, serveRank } from "../../support/rank_process.js";
import { TINY } from "../parallel/fleet.js";
import { syntheticSource } from "../parallel/synthetic_packs.js";

/** A generation: some steps at one layout. */
export interface Leg {
  /** "RxSxU". */
  layout: string;
  /** Where the state comes from that the leg before left; the first one starts from initial values. */
  from: "memory" | "durable";
  /** Its last step. */
  until: number;
}

export interface ChainTask {
  job: Job;
  legs: Leg[];
  /** For pages, slots and the checkpoints. */
  folder: string;
}

/** What this rank trained: the step figures of all its legs. */
export type ChainResult = Pick<StepMetrics, "step" | "loss" | "gradNorm">[];

const SPECS = parameterSpecs(TINY);
const UNITS = flatUnits(SPECS);

class ChainRank {
  private readonly task: ChainTask;
  private readonly place: RankPlace;
  private readonly pages: [Uint8Array, Uint8Array];
  private readonly found: ChainResult = [];

  constructor(task: ChainTask, place: RankPlace) {
    this.task = task;
    this.place = place;
    const page = (name: string) =>
      place.native.pageMap(path.join(task.folder, `${name}.${place.rank}`), PAGE_BYTES);
    this.pages = [page("control"), page("progress")];
  }

  async run(): Promise<ChainResult> {
    const { native, members } = this.place;
    const everyone = await this.connect(1, new Layout({ dp_replicate: 1, dp_shard: members.length, sp: 1 }));
    for (const [i, leg] of this.task.legs.entries()) {
      const layout = Layout.parse(leg.layout);
      if (this.place.rank < layout.worldSize) await this.train(i, leg, layout);
      verifyFacts(native, everyone.world, [{ name: "leg", digest: String(i) }]); // all wait here for the last one
    }
    closeGroups(native, everyone);
    return this.found;
  }

  private connect(generation: number, layout: Layout): Promise<Groups> {
    const { native, rank, members } = this.place;
    return createGroups(native, {
      job: path.basename(this.task.folder),
      generation: BigInt(generation),
      layout,
      rank,
      members: members.slice(0, layout.worldSize),
      abortPage: this.pages[0],
      progressPage: this.pages[1],
      timeoutMs: 60_000,
      transport: "auto",
    });
  }

  private async train(index: number, leg: Leg, layout: Layout): Promise<void> {
    const { native, rank } = this.place;
    const job = { ...this.task.job, train: { ...this.task.job.train, steps: leg.until } };
    const generation = String(index + 2);
    const groups = await this.connect(index + 2, layout);
    const pages = new SnapshotPages(native, this.slots(index, rank), snapshotLayout(UNITS, layout, rank));
    const memory = stateMemory(native, pages);
    const book = new SlotBook(pages.states());
    const progress = new Progress(this.pages[1]);
    const emptyText = { length: 2, data: new Float32Array(2 * TINY.text_width).fill(0.5) };
    const common = { native, job, model: TINY, layout, rank };
    const trainer = new Trainer({ ...common, groups, progress, state: memory.tensors(0), emptyText });
    const { packs_per_step: packsPerStep } = job.train;
    const source = syntheticSource({ model: TINY, packsPerStep, digest: "chain" });
    const restored = await restoreState(
      {
        ...{
          ...common,
          trainer,
          pages,
          memory,
          book,
          jobId: "chain",
          access: PEER_ACCESS,
          peerOf: () => null,
        },
        ...{ openData: async () => source, signal: new AbortController().signal, groups },
      },
      await this.restoreFrom(index),
    );
    book.restoredTo(restored.run.state);
    const replicas = new ReplicaLedger(book);
    replicas.begin(false, null);
    const send = (message: FromRank) => {
      if (message.kind === "step") this.found.push(message.metrics);
      if (message.kind !== "save") return;
      const { state, slotPath } = message;
      this.save(slotPath, layout, generation)
        .then(() => loop.saved(state, null))
        .catch((error: Error) => loop.saved(state, { code: "STORAGE_FAILED", message: String(error.stack) }));
    };
    const loop = new TrainLoop({
      ...{
        job,
        layout,
        rank,
        generation,
        version: "chain",
        trainer,
        source,
        progress,
        pages,
        memory,
        book,
        replicas,
        twins: null,
      },
      ...{ controlPage: this.pages[0], run: restored.run, rollBacks: [], send },
      requests: { save: false, stop: false, yield: false },
    });
    await loop.train();
    trainer.close();
    memory.close();
    pages.close();
    closeGroups(native, groups);
  }

  /** As agents save: every rank's part; whose is the first waits for all, and commits. */
  private async save(slotPath: string, layout: Layout, generation: string): Promise<void> {
    const { rank } = this.place;
    const common = { uri: this.uri, units: UNITS, layout, generation };
    const { meta } = readSnapshotHeader(slotPath)!;
    await saveShard({ ...common, slotPath, rank });
    if (rank === 0) await commitCheckpoint({ ...common, meta, waitMs: 60_000 });
  }

  private async restoreFrom(index: number): Promise<RestoreSource> {
    const before = this.task.legs[index - 1];
    if (before === undefined) return { kind: "initial" };
    const uri = `${this.uri}/checkpoint-${before.until}`;
    const { state } = (await openCheckpoint(uri)).meta;
    if (this.task.legs[index]!.from === "durable") return { kind: "checkpoint", uri, state };
    const layout = Layout.parse(before.layout);
    const ranks = Array.from({ length: layout.worldSize }, (_, rank) => rank);
    const files = ranks.map((rank) => ({ rank, path: this.slotOf(state, this.slots(index - 1, rank)) }));
    return { kind: "snapshot", state, layout: layout.size, files, places: [], durable: null };
  }

  private slotOf(state: StateName, folder: string): string {
    const files = readdirSync(folder).map((name) => path.join(folder, name));
    const found = files.find((file) => {
      const header = readSnapshotHeader(file);
      return header !== null && stateKey(header.meta.state) === stateKey(state);
    });
    if (found === undefined) throw new Error(`no slot of ${folder} holds step ${state.step}`);
    return found;
  }

  private slots(leg: number, rank: number): string {
    return path.join(this.task.folder, `leg-${leg}`, String(rank));
  }

  private get uri(): string {
    return `file://${this.task.folder}/run`;
  }
}

serveRank<ChainTask, ChainResult>((task, place) => new ChainRank(task, place).run());
