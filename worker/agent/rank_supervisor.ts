import { availableParallelism } from "node:os";
import path from "node:path";
import type { Logger } from "pino";
import type { StateName } from "../../checkpoint/state.js";
import type { Abort, Connect, KillRank, Prepare, RankProgress, Restore } from "../../gen/goku/v1/agent.pb.js";
import { GokuError, toGokuError } from "../../job/errors.js";
import type { FromRank, RestoreSource, ToRank } from "../rank_messages.js";
import type { CheckpointWriter } from "./checkpoint_writer.js";
import type { KeptReplicas } from "./kept_replicas.js";
import type { Report } from "./outbox.js";
import { type Place, readKeepers, readPlace } from "./place.js";
import { planProcesses, threadsPerRank } from "./plan_processes.js";
import { ProcessPool } from "./process_pool.js";
import type { ProcessRecords } from "./process_records.js";
import type { ProcessEnd, RankProcess } from "./rank_process.js";
import type { Replicator } from "./replicator.js";
import {
  chooseSet,
  distinctHeld,
  findHeld,
  type HeldSnapshot,
  newestHeld,
  supersededSets,
  surplusReplicas,
} from "./snapshot_sets.js";
import type { SnapshotStore } from "./snapshot_store.js";
import {
  failureReport,
  readCode,
  readMemorySource,
  readState,
  stepReport,
  wireError,
  wireState,
} from "./wire.js";

export interface RankSupervisorOptions {
  node: string;
  slots: number;
  host: string;
  /** Folder of the processes' pages. */
  pagesFolder: string;
  records: ProcessRecords;
  store: SnapshotStore;
  writer: CheckpointWriter;
  replicator: Replicator;
  kept: KeptReplicas;
  log: Logger;
  report: (report: Report) => void;
  /** A generation begins here: reports about older ones are obsolete. */
  onPrepared: (jobId: string, generation: bigint) => void;
  /** The job is over here. */
  onReleased: (jobId: string) => void;
  onLines: (rank: number | null, lines: string[]) => void;
}

/** A MiB sent and one received take 6 to 8 ms of this agent: for each core so many take about a hundredth of its time. */
const REPLICA_MIB_PER_CORE = 2;

/** Started ahead, so that a dead rank's successor needs no start of a process. */
const SPARES = 1;

/** The rank processes of a node, from one generation to the next, and their snapshot sets. */
export class RankSupervisor {
  private readonly options: RankSupervisorOptions;
  private readonly pool: ProcessPool;
  private readonly exits = new Map<number, Report>();
  private place: Place | null = null;
  /** Newest state of the job that its ranks told to be in two places everywhere. */
  private replicated: StateName | null = null;
  private closing = false;

  constructor(options: RankSupervisorOptions) {
    this.options = options;
    const { pagesFolder, records, slots, onLines } = options;
    this.pool = new ProcessPool({
      pagesFolder,
      records,
      threads: threadsPerRank({ cores: availableParallelism(), ranks: slots }),
      onMessage: (process, message) => this.receive(process, message),
      onLines: (process, lines) => onLines(process.rank, lines),
      onExit: (process) => this.exited(process),
      onEnd: (process, end) => this.ended(process, end),
    });
  }

  /** Of the ranks that run or formed last; 0: none. */
  get generation(): bigint {
    return this.place?.generation ?? 0n;
  }

  /** Progress of the living ranks. */
  progress(): RankProgress[] {
    return this.pool.ranks.map((process) => process.progress());
  }

  /** Whole snapshots of a job on this node, each state of a rank once. */
  held(jobId: string | null): HeldSnapshot[] {
    return jobId === null ? [] : distinctHeld(this.options.store.sets(jobId));
  }

  /** Starts processes that wait for a place. */
  startSpares(count: number): void {
    if (this.closing) return;
    for (let i = this.pool.spares.length; i < count; i++) {
      const process = this.pool.start();
      const { job, dataDigest } = this.place ?? {};
      if (job && dataDigest) process.send({ kind: "warm", job, dataDigest });
    }
  }

  // -------------------------------------------------------------------------------------------------------------------
  // Commands

  /** Places the ranks of a generation; what makes that impossible is reported. */
  prepare(wire: Prepare): void {
    if (wire.generation === this.place?.generation) {
      this.place.keepers = readKeepers(wire); // a repeat: its reports were repeated, too
      return;
    }
    try {
      const place = readPlace(wire, this.options);
      if (this.place && this.place.jobId !== place.jobId) this.forgetJob(this.place.jobId);
      this.place = place;
      this.beginReplicas(place);
      this.exits.clear();
      this.options.onPrepared(place.jobId, place.generation);
      this.placeRanks(place);
    } catch (error) {
      const detail = wireError(toGokuError(error));
      this.options.report({
        $case: "prepareRefused",
        value: { generation: wire.generation, error: detail },
      });
    }
  }

  connect({ generation, members }: Connect): void {
    this.tellRanks({ kind: "connect", generation: String(generation), members });
  }

  restore({ generation, source }: Restore): void {
    if (source?.$case === "snapshot") this.options.kept.keepSafe(readState(source.value.state));
    for (const process of this.pool.ranks) {
      try {
        const from = this.restoreSource(process, source);
        process.send({ kind: "restore", generation: String(generation), source: from });
      } catch (error) {
        this.options.report({
          $case: "rankFailed",
          value: {
            generation,
            rank: process.rank!,
            error: wireError(toGokuError(error)),
            lastLines: process.lastLines,
          },
        });
      }
    }
  }

  run(generation: bigint): void {
    this.tellRanks({ kind: "run", generation: String(generation) });
    for (const process of this.pool.ranks) if (process.stage === "restored") process.stage = "running";
  }

  /** Raised by one rank in its next vote: several would be heard in different votes, and save twice. */
  request(request: "save" | "stop"): void {
    this.pool.ranks[0]?.send({ kind: "request", request });
  }

  abort({ generation, reason }: Abort): void {
    const code = readCode(reason?.code ?? "COMM_ABORTED");
    const peer = reason?.peer ?? null;
    for (const process of this.pool.ranks) {
      process.abort(generation, { peer, code });
      process.send({
        kind: "abort",
        generation: String(generation),
        code,
        message: reason?.message ?? "the controller ended it",
        peer: peer ?? -1,
      });
    }
  }

  /** Ends a rank's process; RankExited follows when it has been reaped, at once when it had gone before. */
  killRank({ generation, rank, reason }: KillRank): void {
    const process = this.pool.ranks.find((one) => one.rank === rank);
    this.options.log.warn({ rank, pid: process?.pid, reason }, "rank is killed");
    if (process) process.kill();
    else if (!this.pool.all.some((one) => one.rank === rank)) {
      this.options.report(this.exits.get(rank) ?? goneReport(generation, rank));
    }
  }

  /** Ends the ranks of a job and frees its snapshots. */
  async release(jobId: string): Promise<void> {
    const { store, writer, onReleased, report } = this.options;
    if (this.place?.jobId === jobId) {
      this.place = null;
      this.replicated = null;
      this.beginReplicas(null);
      this.pool.dismiss(this.pool.ranks);
      await Promise.all([writer.abandon(), this.pool.gone((process) => process.rank !== null)]);
    }
    store.removeJob(jobId);
    onReleased(jobId);
    report({ $case: "nodeReleased", value: { jobId } });
    this.startSpares(SPARES);
  }

  // -------------------------------------------------------------------------------------------------------------------
  // The end

  /** Where each living rank is in its generation. */
  get stages(): RankProcess["stage"][] {
    return this.pool.ranks.map((process) => process.stage);
  }

  /** The newest state that all ranks of this node hold whole; null: none. */
  newestHeld(): StateName | null {
    const { place } = this;
    if (place === null) return null;
    const sets = this.options.store.sets(place.jobId);
    return newestHeld(sets, { ranks: place.ranks, layout: place.layout.toString() });
  }

  /**
   * Makes a state durable from memory, without the ranks: they hang, have left, or would be too late. One that goes on
   * meanwhile keeps the state for a step more; what it overwrites all the same is found out, and the save fails.
   */
  saveHeld(state: StateName): void {
    const { place } = this;
    if (place === null) return;
    const { jobId, job, ranks } = place;
    const generation = String(place.generation);
    const layout = place.layout.toString();
    const sets = this.options.store.sets(jobId);
    for (const rank of ranks) {
      const ownSet = this.pool.ranks.find((process) => process.rank === rank)?.set ?? "";
      const slotPath = findHeld(sets, { state, rank, layout, ownSet })?.path ?? "memory of this node";
      const order = { jobId, job, layout: place.layout, rank, generation, state, slotPath, final: true };
      this.options.writer.save(order, () => {});
    }
  }

  /** Ends all processes and waits until they have gone. */
  async close(): Promise<void> {
    this.closing = true;
    this.beginReplicas(null);
    this.pool.dismiss(this.pool.living);
    await this.pool.gone(() => true);
  }

  // -------------------------------------------------------------------------------------------------------------------
  // Placing

  /** What was sent and kept for an older generation is over. */
  private beginReplicas(place: Place | null): void {
    this.options.replicator.begin();
    this.options.kept.begin(place && { ...place, layout: place.layout.toString(), ranks: place.keeps });
  }

  private placeRanks(place: Place): void {
    for (const process of this.pool.ranks) {
      process.abort(place.generation - 1n, { peer: null, code: "COMM_ABORTED" });
    }
    const living = this.pool.living;
    const plan = planProcesses({ ranks: place.ranks, living, sparesKept: SPARES });
    this.pool.dismiss(living.filter((process) => plan.surplus.includes(process.id)));
    for (const { rank, id } of plan.places) {
      const process = id === null ? null : this.pool.find(id)!;
      this.placeRank(place, rank, process ?? this.pool.start());
    }
  }

  private placeRank(place: Place, rank: number, process: RankProcess): void {
    const { store, writer, node, host } = this.options;
    const layout = place.layout.toString();
    const sets = store.sets(place.jobId);
    const found = chooseSet({ sets, process: process.id, rank, layout });
    const set = found?.path ?? store.create(place.jobId, rank, layout);
    // Saves of an older generation may still read the set; whoever was to hear of their end hears no more.
    const pinned = writer.pinned(set, (state) => this.unpin(process, { set, state, error: null }));
    store.own(set, process.id);
    process.rank = rank;
    process.generation = place.generation;
    process.stage = "preparing";
    process.set = set;
    process.send({
      kind: "prepare",
      generation: String(place.generation),
      jobId: place.jobId,
      job: place.job,
      layout: place.layout.size,
      rank,
      localRank: place.ranks.indexOf(rank),
      localWorldSize: place.ranks.length,
      nodeId: node,
      host,
      controlPage: process.controlPath,
      progressPage: process.progressPath,
      snapshotDir: set,
      pinned,
      replicate: place.replicate,
      kept: this.replicated,
      threads: threadsPerRank({ cores: availableParallelism(), ranks: place.ranks.length }),
    });
  }

  private restoreSource(process: RankProcess, source: Restore["source"]): RestoreSource {
    if (source?.$case === "checkpoint") {
      return { kind: "checkpoint", uri: source.value.uri, state: readState(source.value.state) };
    }
    if (source?.$case !== "snapshot") return { kind: "initial" };
    const held = this.options.store.sets(this.place!.jobId).flatMap((set) => set.held);
    return { kind: "snapshot", ...readMemorySource(source.value, held, process.set!) };
  }

  // -------------------------------------------------------------------------------------------------------------------
  // Reports of ranks

  private receive(process: RankProcess, message: FromRank): void {
    if (message.kind === "hello") return;
    if (message.kind === "save") {
      this.save(process, message);
      return;
    }
    // A step that was completed stays so, whatever has begun since: what it left may be restored.
    if (message.kind === "step" && message.rank === 0)
      this.options.report(stepReport(BigInt(message.generation), message.metrics));
    // A process that has been given a newer generation may still say how it left the older one.
    if (process.generation !== this.generation || BigInt(message.generation) !== this.generation) return;
    const { generation } = process;
    const rank = process.rank!;
    const { report } = this.options;
    switch (message.kind) {
      case "ready":
        process.stage = "ready";
        report(this.readyReport(process, message.port));
        return;
      case "connected":
        process.stage = "connected";
        report({ $case: "rankConnected", value: { generation, rank } });
        return;
      case "restored":
        process.stage = "restored";
        this.place!.dataDigest = message.dataDigest;
        report({
          $case: "rankRestored",
          value: {
            generation,
            rank,
            state: wireState(message.state),
            parts: message.parts.map((part) => ({ ...part, bytes: BigInt(part.bytes) })),
          },
        });
        return;
      case "step":
        this.stepped(message.metrics.replicatedStep > 0);
        return;
      case "replicate":
        this.replicate(process, message);
        return;
      case "snapshotFailed": {
        const { code, message: reason } = message;
        this.options.log.error({ rank, code, reason }, "snapshot failed");
        const error = new GokuError(code, `rank ${rank} cannot keep the state in memory: ${reason}`);
        report({
          $case: "checkpointFailed",
          value: { generation, state: wireState(message.state), error: wireError(error) },
        });
        return;
      }
      case "finished": {
        process.stage = "finished";
        const { reason } = message;
        report({
          $case: "rankFinished",
          value: { generation, rank, state: wireState(message.state), reason },
        });
        return;
      }
      case "failed": {
        const ready = process.stage !== "preparing";
        process.stage = "left";
        this.options.log.warn({ rank, code: message.code, reason: message.message }, "rank failed");
        report(failureReport(message, { ready, lastLines: process.lastLines }));
      }
    }
  }

  private readyReport(process: RankProcess, port: number): Report {
    const { jobId, layout } = this.place!;
    const { generation, pid, id } = process;
    const rank = process.rank!;
    this.options.store.disown(id, process.set); // it has left the set of an older place, if it had one
    const heldStates = this.held(jobId)
      .filter((held) => held.rank === rank && held.layout === layout.toString())
      .map((held) => wireState(held.state));
    return { $case: "rankReady", value: { generation, rank, pid, port, heldStates } };
  }

  private save(process: RankProcess, message: Extract<FromRank, { kind: "save" }>): void {
    const { place } = this;
    const set = path.dirname(message.slotPath);
    const unpin = (error: GokuError | null) => this.unpin(process, { set, state: message.state, error });
    // Of a generation that is over: its pins went with the prepare of the next one, which saves again what is due.
    if (place === null || BigInt(message.generation) !== place.generation) return;
    const { jobId, job, layout } = place;
    const { rank, generation, state, slotPath, reason } = message;
    const final = reason === "final";
    this.options.writer.save({ jobId, job, layout, rank, generation, state, slotPath, final }, unpin);
  }

  /** A rank with a twin in another failure domain has its copy there already. */
  private replicate(process: RankProcess, message: Extract<FromRank, { kind: "replicate" }>): void {
    const { jobId, job, layout, generation, keepers } = this.place!;
    const { rank, state, kept, slotPath } = message;
    if (kept !== null) {
      this.replicated = kept;
      this.options.kept.keepSafe(kept);
    }
    const settled = (whole: boolean) => process.send({ kind: "replicated", state, whole });
    const keeper = keepers.get(rank);
    if (keeper === undefined) {
      settled(true);
      return;
    }
    const mibPerSecond =
      job.checkpoint.replica_mib_per_second ?? REPLICA_MIB_PER_CORE * availableParallelism();
    const bytesPerSecond = mibPerSecond * 2 ** 20;
    const order = { jobId, generation, layout, rank, state, kept, slotPath, keeper, bytesPerSecond };
    this.options.replicator.send(order, settled);
  }

  /** A process that has left the set for another one has forgotten its pins. */
  private unpin(
    process: RankProcess,
    { set, state, error }: { set: string; state: StateName; error: GokuError | null },
  ): void {
    if (process.set !== set) return;
    const reason = error && { code: error.code, message: error.message };
    process.send({ kind: "unpin", state, error: reason });
  }

  /**
   * Frees what is of no use any more: once a step is completed, every rank of the world has its state in its present set, in
   * this layout; older copies in this layout may still be wanted until this generation has copies of its own.
   */
  private stepped(replicated: boolean): void {
    const { place } = this;
    if (place === null) return;
    const covered = replicated || !place.replicate;
    if (place.stepped && (place.replicated || !covered)) return;
    if (!place.stepped) this.startSpares(SPARES);
    place.stepped = true;
    place.replicated = covered;
    const { store } = this.options;
    const sets = store.sets(place.jobId);
    const layout = place.layout.toString();
    const running = this.pool.ranks.flatMap((process) => process.set ?? []);
    const surplus = [
      ...supersededSets({ sets, running, stepCompleted: true }),
      ...surplusReplicas(sets, { ranks: place.keeps, layout }),
    ];
    for (const set of sets)
      if (surplus.includes(set.path) && (covered || set.layout !== layout)) store.remove(set.path);
  }

  // -------------------------------------------------------------------------------------------------------------------
  // Processes

  /** A process has gone: those of its generation on this node leave their collectives at once, naming it. */
  private exited(process: RankProcess): void {
    this.options.store.disown(process.id);
    if (process.rank === null || process.dismissed || process.generation !== this.generation) return;
    for (const other of this.pool.ranks) {
      other.abort(process.generation, { peer: process.rank, code: "RANK_DIED" });
    }
  }

  private ended(process: RankProcess, end: ProcessEnd): void {
    const { rank, pid, generation, dismissed, lastLines } = process;
    const level = dismissed ? "debug" : "warn";
    this.options.log[level]({ rank, pid, ...end, lastLines: lastLines.slice(-3) }, "rank process ended");
    if (rank === null || dismissed || generation !== this.generation) return;
    const progress = process.progress();
    const report: Report = {
      $case: "rankExited",
      value: { generation, rank, pid, ...end, lastLines, progress },
    };
    this.exits.set(rank, report);
    this.options.report(report);
  }

  /** Another job takes the node: the controller decided, and has fenced its command. */
  private forgetJob(jobId: string): void {
    this.replicated = null;
    this.pool.dismiss(this.pool.ranks);
    this.options.writer.abandon().catch((error: unknown) => this.options.log.error(error, "abandon"));
    this.options.store.removeJob(jobId);
  }

  private tellRanks(message: ToRank): void {
    for (const process of this.pool.ranks) process.send(message);
  }
}

/** The process had gone before anybody knew of it. */
function goneReport(generation: bigint, rank: number): Report {
  const end = { pid: 0, exitCode: -1, signal: "", lastLines: [], progress: undefined };
  return { $case: "rankExited", value: { generation, rank, ...end } };
}
