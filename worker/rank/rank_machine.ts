import { planDigest } from "../../checkpoint/plan.js";
import { snapshotLayout } from "../../checkpoint/snapshot.js";
import type { Recompute } from "../../job/block_memory.js";
import type { Device } from "../../job/device.js";
import { ERRORS, GokuError, toGokuError } from "../../job/errors.js";
import { type Job, modelConfig } from "../../job/job.js";
import { Layout } from "../../job/layout.js";
import { parameterSpecs } from "../../job/parameters.js";
import { flatUnits } from "../../job/sharding.js";
import type { PackSource } from "../data/pack_batch.js";
import { HashTextEncoder, textSettings } from "../data/text_encoder.js";
import type { CommEndpoint, Native } from "../engine/native.js";
import { failpoint, setFailpointScope } from "../failpoints.js";
import { PAGE_BYTES } from "../pages.js";
import { abortGroups, carrierLines, closeGroups, createGroups, type Groups } from "../parallel/groups.js";
import { Trainer } from "../parallel/trainer.js";
import { memberVariables, placeVariables } from "../program/torchrun_environment.js";
import { Progress } from "../progress.js";
import type { FromRank, RollBackSteps, ToRank } from "../rank_messages.js";
import { agreeCodeVersion } from "./agree_code_version.js";
import { agreeRecompute, wantedRecompute } from "./agree_recompute.js";
import { collectiveKey } from "./collective_key.js";
import { FormingBeat } from "./forming_beat.js";
import { ReplicaLedger } from "./replica_ledger.js";
import { type Restored, restoreState } from "./restore_state.js";
import { SLOT_COUNT, SLOT_COUNT_REPLICATED, SlotBook } from "./slots.js";
import { SnapshotPages } from "./snapshot_pages.js";
import { type StateMemory, stateMemory } from "./state_memory.js";
import { type Requests, TrainLoop } from "./train_loop.js";
import { TwinCheck } from "./twin_check.js";
import { verifyFacts, verifyGroups } from "./verify_groups.js";

/**
 * Longest wait in a collective when nobody ends it from outside: the controller finds stalls far earlier. Above the
 * 900 s of a restore, in which ranks wait for the one whose data takes longest to index.
 */
const COLLECTIVE_TIMEOUT_MS = 1_800_000;
/** Raised with each change of which collectives ranks issue to form and to restore: programs of before and after must not meet. */
const COLLECTIVES = 2;

type Prepare = Extract<ToRank, { kind: "prepare" }>;

/** Everything that stays while job, layout and rank stay: made by the first prepare, kept over generations. */
interface Place {
  prepare: Prepare;
  layout: Layout;
  controlPage: Uint8Array;
  progressPage: Uint8Array;
  progress: Progress;
  pages: SnapshotPages;
  memory: StateMemory;
  book: SlotBook;
  replicas: ReplicaLedger;
  /** Of the generation connected last. */
  members: readonly CommEndpoint[];
  /** What computes its states. */
  codeVersion: string;
  /** Made when the groups are connected. */
  trainer: Trainer | null;
  /** Known when the state is restored. */
  restored: (Restored & { rollBacks: RollBackSteps[] }) | null;
}

/** Where in its generation the rank is; `left`: it has failed or was told to leave, and waits for the next one. */
type Stage = "left" | "prepared" | "connected" | "restored" | "running" | "finished";

const NO_REQUESTS: Requests = { save: false, stop: false, yield: false };
const NO_GROUPS: Groups = { world: null, shard: null, replica: null, sequence: null };

export interface RankMachineOptions {
  /** Loads the backend of a device; throws where there is none. */
  native: (device: Device) => Native;
  version: string;
  /** That it was built from; null: not known. */
  revision: string | null;
  /** `digest`: of the index that a state pins, or null for the data as they are now. */
  openSource: (job: Job, digest: string | null) => Promise<PackSource>;
  send: (message: FromRank) => void;
}

/**
 * One rank process: prepare, connect, restore, run, then again for the next generation, in the same process. Commands are
 * carried out one after another. Whatever goes wrong ends the generation for this rank with one `failed`; the process,
 * its weights' memory and its snapshots stay for the next prepare.
 */
export class RankMachine {
  private readonly options: RankMachineOptions;
  /** Of the device of the present place. */
  private backend: Native | null = null;
  private generation = 0n;
  private stage: Stage = "left";
  private place: Place | null = null;
  /** Of the job restored last, or opened ahead for a place in it. */
  private data: { job: Job; source: Promise<PackSource> } | null = null;
  private groups: Groups = { ...NO_GROUPS };
  private loop: TrainLoop | null = null;
  /** Ended when the generation is: a restore that reads from other nodes hears of it. */
  private restoring = new AbortController();
  private running: Promise<void> = Promise.resolve();
  private readonly requests: Requests = { ...NO_REQUESTS };
  private chain: Promise<void> = Promise.resolve();
  private readonly beat = new FormingBeat();

  constructor(options: RankMachineOptions) {
    this.options = options;
  }

  /** Takes a command of the agent; returns at once. Commands of an older generation are dropped. */
  receive(message: ToRank): void {
    switch (message.kind) {
      case "request":
        this.requests[message.request] = true;
        return;
      case "unpin":
        // In its turn: it may be about a pin that a prepare before it brings.
        this.enqueue(async () => this.unpin(message));
        return;
      case "previewRead":
        this.place?.book.unpinPreview(message.state);
        return;
      case "replicated":
        this.place?.replicas.settled(message.state, message.whole);
        return;
      case "warm":
        this.warm(message);
        return;
      case "prepare":
        if (BigInt(message.generation) <= this.generation) return;
        this.generation = BigInt(message.generation);
        this.interrupt();
        this.enqueue(() => this.prepare(message));
        return;
      case "abort":
        if (BigInt(message.generation) >= this.generation) this.interrupt();
        this.enqueue(() => this.abort(message));
        return;
      case "connect":
        this.enqueue(() => this.advance(message.generation, "prepared", () => this.connect(message.members)));
        return;
      case "restore":
        this.enqueue(() => this.advance(message.generation, "connected", () => this.restore(message)));
        return;
      case "run":
        this.enqueue(() => this.advance(message.generation, "restored", () => this.run()));
    }
  }

  private interrupt(): void {
    this.loop?.interrupt();
    this.restoring.abort();
  }

  private unpin({ state, error }: Extract<ToRank, { kind: "unpin" }>): void {
    if (this.loop) this.loop.saved(state, error);
    else this.place?.book.unpin(state);
  }

  private get native(): Native {
    if (this.backend === null)
      throw new GokuError("INTERNAL", "Cannot compute: no prepare has named a device");
    return this.backend;
  }

  /** Loads the backend and opens the data ahead of a restore; what fails is tried again then, and says why. */
  private warm({ job, dataDigest, device }: Extract<ToRank, { kind: "warm" }>): void {
    if (this.place !== null || this.data !== null) return;
    try {
      this.options.native(device);
    } catch {
      // Told by the prepare.
    }
    this.data = { job, source: this.options.openSource(job, dataDigest) };
    this.data.source.catch(() => {});
  }

  /** What is open serves the state that was trained on it; initial values take the data as they are now. */
  private async openData(job: Job, digest: string | null): Promise<PackSource> {
    const kept = this.data;
    const source = await kept?.source.catch(() => null);
    if (source && sameJson(kept?.job, job) && source.digest === digest) return source;
    source?.close().catch((error: unknown) => console.error(error));
    this.data = { job, source: this.options.openSource(job, digest) };
    return this.data.source;
  }

  private enqueue(work: () => Promise<void>): void {
    this.chain = this.chain.then(work);
  }

  /** Carries out one phase of the present generation, if the rank is where that phase begins. */
  private async advance(generation: string, from: Stage, work: () => Promise<void>): Promise<void> {
    if (BigInt(generation) !== this.generation || this.stage !== from) return;
    try {
      await work();
    } catch (error) {
      this.leave(generation, error);
    }
  }

  private async prepare(message: Prepare): Promise<void> {
    await this.running; // the agent has aborted it through the control page
    if (BigInt(message.generation) !== this.generation) return;
    this.dropGroups();
    this.stage = "left";
    Object.assign(this.requests, NO_REQUESTS);
    try {
      this.backend = this.openBackend(message);
      this.place = this.takePlace(message);
      Object.assign(
        process.env,
        placeVariables({ ...message, maxRestarts: message.job.recovery.max_attempts }),
      );
      this.native.threadsSet(message.threads);
      const port = this.native.commListen(message.host);
      this.place.progress.set({ generation: this.generation, phase: "forming", layer: -1 });
      this.beat.begin(this.place.progress);
      this.stage = "prepared";
      this.tell({ kind: "ready", generation: message.generation, rank: message.rank, port });
    } catch (error) {
      this.leave(message.generation, error, message.rank);
    }
  }

  /**
   * A process keeps its device over all places that it has: CUDA looks at the variable once, and what was made with one backend is
   * no other's.
   */
  private openBackend({ gpu, nodeId }: Prepare): Native {
    if (this.place !== null && this.place.prepare.gpu?.visible !== gpu?.visible)
      throw new GokuError(
        "INTERNAL",
        "Cannot take a place on another device: this process has begun to use one",
      );
    if (gpu === null) return this.options.native("cpu");
    process.env.CUDA_VISIBLE_DEVICES = gpu.visible;
    // NCCL wants one rank a device of a host; those that share one rehearse ranks of as many hosts.
    if (gpu.ranks > 1) process.env.NCCL_HOSTID ??= `${nodeId}.${process.pid}`;
    const native = this.options.native("cuda");
    if (native.devices().length > 0) return native;
    throw new GokuError(
      "DEVICE_MISSING",
      `Cannot compute on a GPU: CUDA shows none with CUDA_VISIBLE_DEVICES=${gpu.visible}, see nvidia-smi, or set device: cpu`,
    );
  }

  /** Keeps what fits the new place and makes the rest. */
  private takePlace(message: Prepare): Place {
    setFailpointScope({ rank: message.rank, step: 0 });
    failpoint("prepare.before");
    const old = this.place;
    const same = old !== null && samePlace(old.prepare, message);
    if (same && old.prepare.snapshotDir === message.snapshotDir) {
      old.prepare = message;
      old.book.setPins(message.pinned);
      old.replicas.end();
      return old;
    }
    this.place = null;
    if (old) this.dismiss(old);
    const layout = new Layout(message.layout);
    return {
      ...this.mapPages(message, layout),
      prepare: message,
      layout,
      members: [],
      codeVersion: "",
      trainer: null,
      restored: null,
    };
  }

  /** All pages of a place, or none. */
  private mapPages(message: Prepare, layout: Layout) {
    const { native } = this;
    const undo: (() => void)[] = [];
    const map = (file: string) => {
      const page = native.pageMap(file, PAGE_BYTES);
      undo.push(() => native.pageUnmap(page));
      return page;
    };
    try {
      const controlPage = map(message.controlPage);
      const progressPage = map(message.progressPage);
      const units = flatUnits(parameterSpecs(modelConfig(message.job)));
      const plan = snapshotLayout(units, layout, message.rank);
      const slots = message.replicate ? SLOT_COUNT_REPLICATED : SLOT_COUNT;
      const pages = new SnapshotPages(native, message.snapshotDir, plan, slots);
      undo.push(() => pages.close());
      const memory = stateMemory(native, pages);
      undo.push(() => memory.close());
      const book = new SlotBook(pages.states());
      book.setPins(message.pinned);
      const replicas = new ReplicaLedger(book);
      return {
        controlPage,
        progressPage,
        progress: new Progress(progressPage),
        pages,
        memory,
        book,
        replicas,
      };
    } catch (error) {
      for (const step of undo.reverse()) step();
      throw error;
    }
  }

  private dismiss(place: Place): void {
    this.beat.end();
    place.trainer?.close();
    place.memory.close();
    place.pages.close();
    this.native.pageUnmap(place.controlPage);
    this.native.pageUnmap(place.progressPage);
  }

  private async connect(members: CommEndpoint[]): Promise<void> {
    const place = this.present();
    const { native } = this;
    const { prepare, layout } = place;
    failpoint("connect.before");
    place.members = members;
    Object.assign(process.env, memberVariables(members, prepare.nodeId));
    this.groups = await createGroups(native, {
      job: collectiveKey(prepare.jobId, prepare.peers.secret),
      generation: this.generation,
      layout,
      rank: prepare.rank,
      members,
      abortPage: place.controlPage,
      progressPage: place.progressPage,
      timeoutMs: COLLECTIVE_TIMEOUT_MS,
      transport: "auto",
    });
    for (const line of carrierLines(native, this.groups, { layout, rank: prepare.rank }))
      process.stderr.write(`${line}\n`);
    const model = modelConfig(prepare.job);
    verifyGroups(native, this.groups, { layout, rank: prepare.rank }, [
      { name: "job", digest: JSON.stringify(prepare.job) },
      { name: "write plan", digest: planDigest(flatUnits(parameterSpecs(model)), layout) },
      { name: "product version", digest: `${this.options.version}, collectives ${COLLECTIVES}` },
    ]);
    place.codeVersion = agreeCodeVersion(native, this.groups.world, this.options);
    if (place.trainer) place.trainer.setGroups(this.groups);
    else place.trainer = this.makeTrainer(place);
    place.trainer.recompute = this.agreeRecompute(place);
    this.stage = "connected";
    this.tell({ kind: "connected", generation: prepare.generation, rank: prepare.rank });
  }

  /** Anew in each generation: who joins may have less memory. */
  private agreeRecompute({ prepare, pages, book }: Place): Recompute {
    if (prepare.job.recompute !== "auto") return prepare.job.recompute;
    const { native } = this;
    const node = { snapshotBytes: pages.slotBytes, slotCount: book.slots.length };
    const own = wantedRecompute(prepare, node);
    if (own.recompute === "full") process.stderr.write(`recompute auto: full, since ${own.reason}\n`);
    return agreeRecompute(native, this.groups.world, own.recompute);
  }

  private makeTrainer({ prepare, layout, progress, memory }: Place): Trainer {
    const { job } = prepare;
    const model = modelConfig(job);
    return new Trainer({
      native: this.native,
      job,
      model,
      layout,
      rank: prepare.rank,
      groups: this.groups,
      progress,
      state: memory.tensors(0), // a restore chooses the slot
      emptyText: new HashTextEncoder(textSettings(job, model)).encode(""),
    });
  }

  private async restore({ source: from, rollBacks }: Extract<ToRank, { kind: "restore" }>): Promise<void> {
    const place = this.present();
    const { generation, rank, job } = place.prepare;
    const begun = performance.now();
    place.progress.set({ phase: "restore" });
    this.restoring = new AbortController();
    failpoint("restore.before");
    const options = {
      native: this.native,
      model: modelConfig(job),
      layout: place.layout,
      rank,
      trainer: place.trainer!,
      openData: (digest: string | null) => this.openData(job, digest),
      pages: place.pages,
      memory: place.memory,
      book: place.book,
      jobId: place.prepare.jobId,
      access: place.prepare.peers,
      peerOf: (nodeId: string) => place.members.find((member) => member.nodeId === nodeId)?.rank ?? null,
      signal: this.restoring.signal,
      groups: this.groups,
    };
    const restored = await restoreState(options, from).catch((error: unknown) => {
      place.book.reread(place.pages.states()); // the slot may have been found damaged
      throw error;
    });
    const { parts } = restored;
    const { state } = restored.run;
    const dataDigest = restored.source.digest;
    // whoever restores a state has found the data that it names; initial values name none
    if (from.kind === "initial")
      verifyFacts(this.native, this.groups.world, [{ name: "data", digest: dataDigest }]);
    place.restored = { ...restored, rollBacks };
    place.book.restoredTo(state);
    place.replicas.begin(place.prepare.replicate, place.prepare.kept);
    place.progress.set({ step: state.step, phase: "idle" });
    this.stage = "restored";
    const seconds = (performance.now() - begun) / 1000;
    this.tell({ kind: "restored", generation, rank, state, dataDigest, parts, seconds });
  }

  /** Null: no rank holds the same shard. */
  private twins(layout: Layout, { job, rank }: Prepare): TwinCheck | null {
    const comm = this.groups?.replica ?? null;
    if (comm === null) return null;
    const units = flatUnits(parameterSpecs(modelConfig(job)));
    return new TwinCheck({ native: this.native, comm, layout, rank, units });
  }

  /** Starts training and returns: the loop goes on beside the commands. */
  private async run(): Promise<void> {
    const place = this.present();
    const { prepare, layout, progress, controlPage, pages, memory, book, replicas, trainer, restored } =
      place;
    const loop = new TrainLoop({
      job: prepare.job,
      layout,
      rank: prepare.rank,
      generation: prepare.generation,
      version: place.codeVersion,
      trainer: trainer!,
      progress,
      controlPage,
      pages,
      memory,
      book,
      replicas,
      twins: this.twins(layout, prepare),
      run: restored!.run,
      rollBacks: restored!.rollBacks,
      source: restored!.source,
      requests: this.requests,
      send: (message) => this.tell(message),
    });
    this.stage = "running";
    this.loop = loop;
    this.beat.end();
    this.running = loop
      .train()
      .then(() => {
        this.stage = "finished";
      })
      .catch((error: unknown) => this.leave(prepare.generation, error))
      .finally(() => {
        this.loop = null;
      });
  }

  /** The agent has set the abort word; whoever was in a collective or in the loop has left by it. */
  private async abort(message: Extract<ToRank, { kind: "abort" }>): Promise<void> {
    if (BigInt(message.generation) < this.generation) return;
    await this.running;
    if (this.stage === "left" || this.place === null) return;
    const reason = `Cannot go on in generation ${this.generation}: ${message.message}`;
    const peer = message.peer >= 0 ? message.peer : null;
    this.leave(this.place.prepare.generation, new GokuError("COMM_ABORTED", reason, { peer }));
  }

  /** Ends the generation for this rank and says why; the process waits for the next one. */
  private leave(generation: string, error: unknown, rank = this.place?.prepare.rank ?? -1): void {
    const { code, message, peer, operation } = toGokuError(error);
    if (!ERRORS[code].retriable || code === "INTERNAL") process.stderr.write(`${(error as Error).stack}\n`);
    // Told before the others are freed, so that the cause is known before what follows from it.
    this.tell({
      kind: "failed",
      generation,
      rank,
      code,
      message,
      peer: peer ?? -1,
      operation,
    });
    if (this.backend !== null) abortGroups(this.backend, this.groups);
    this.dropGroups();
    this.stage = "left";
    this.beat.end();
    this.place?.progress.set({ phase: "idle", layer: -1 });
  }

  private dropGroups(): void {
    if (this.backend !== null) closeGroups(this.backend, this.groups);
    this.groups = { ...NO_GROUPS };
  }

  private present(): Place {
    if (this.place === null) throw new GokuError("INTERNAL", "Cannot go on: this process holds no rank");
    return this.place;
  }

  private tell(message: FromRank): void {
    this.options.send(message);
  }
}

/** Same job, rank, layout and pages: trainer and slots of the older generation serve the newer. */
function samePlace(a: Prepare, b: Prepare): boolean {
  return (
    a.jobId === b.jobId &&
    a.rank === b.rank &&
    a.controlPage === b.controlPage &&
    a.progressPage === b.progressPage &&
    a.replicate === b.replicate &&
    sameJson(a.layout, b.layout) &&
    sameJson(a.job, b.job)
  );
}

function sameJson(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}
