import { availableParallelism } from "node:os";
import path from "node:path";
import { type StateName, stateKey } from "../../checkpoint/state.js";
import type { Restore } from "../../gen/goku/v1/agent.pb.js";
import { isCommandJob } from "../../job/command_job.js";
import type { GokuError } from "../../job/errors.js";
import type { PeerAccess, PeerTls } from "../peer_channel.js";
import type { FromRank, RestoreSource } from "../rank_messages.js";
import type { CheckpointWriter } from "./checkpoint_writer.js";
import type { KeptReplicas } from "./kept_replicas.js";
import type { Report } from "./outbox.js";
import type { Place } from "./place.js";
import type { ProcessPool } from "./process_pool.js";
import type { RankProcess } from "./rank_process.js";
import { replicaBytesPerSecond } from "./rate_limiter.js";
import type { Replicator } from "./replicator.js";
import {
  chooseSet,
  compareStates,
  distinctHeld,
  findHeld,
  type HeldSnapshot,
  newestHeld,
  supersededSets,
  surplusReplicas,
} from "./snapshot_sets.js";
import type { SnapshotStore } from "./snapshot_store.js";
import { readMemorySource, readState, wireError, wireState } from "./wire.js";

export interface RankStatesOptions {
  pool: ProcessPool;
  store: SnapshotStore;
  writer: CheckpointWriter;
  replicator: Replicator;
  kept: KeptReplicas;
  /** Certificate of this node, for other nodes; null: plain text. */
  tls: PeerTls | null;
  /** The newest state of the job that its ranks told to be in two places everywhere; null: none. Outlives this process. */
  replicated: () => StateName | null;
  /** That is a newer one now. */
  onReplicated: (state: StateName) => void;
  report: (report: Report) => void;
}

/** Where a rank writes its snapshots. */
export interface RankSet {
  path: string;
  /** States in it that saves of an older generation still read. */
  pinned: StateName[];
}

/** The states of this node's ranks: in which set they lie, who keeps copies of them, what becomes durable, what is freed. */
export class RankStates {
  private readonly options: RankStatesOptions;
  private place: Place | null = null;

  constructor(options: RankStatesOptions) {
    this.options = options;
  }

  /** What was sent and kept for an older generation is over. Null: no generation follows. */
  begin(place: Place | null): void {
    this.place = place;
    this.options.replicator.begin();
    this.options.kept.begin(place && { ...place, layout: place.layout.toString(), ranks: place.keeps });
  }

  /** The newest state that ranks told to be in two places everywhere; null: none. */
  get kept(): StateName | null {
    return this.options.replicated();
  }

  /** Whole snapshots of a job on this node, each state of a rank once. */
  held(jobId: string | null): HeldSnapshot[] {
    return jobId === null ? [] : distinctHeld(this.options.store.sets(jobId));
  }

  /** Whole snapshots of the present job, also copies of the same state. */
  heldOf({ jobId }: Place): HeldSnapshot[] {
    return this.options.store.sets(jobId).flatMap((set) => set.held);
  }

  /** What a rank holds here in the layout of its place. */
  heldByRank({ jobId, layout }: Place, rank: number): HeldSnapshot[] {
    return this.held(jobId).filter((held) => held.rank === rank && held.layout === layout.toString());
  }

  /** The newest state that all ranks of this node hold whole; null: none. */
  newestHeld(): StateName | null {
    const { place } = this;
    if (place === null) return null;
    const sets = this.options.store.sets(place.jobId);
    return newestHeld(sets, { ranks: place.ranks, layout: place.layout.toString() });
  }

  /** What nodes of the job show each other. */
  accessOf({ peerSecret }: Place): PeerAccess {
    return { secret: peerSecret, tls: this.options.tls };
  }

  // -------------------------------------------------------------------------------------------------------------------
  // Where they lie

  /** The set that the process takes for its rank: the one with the newest of it that is here, or a new one. */
  take(place: Place, rank: number, process: RankProcess): RankSet {
    const { store, writer } = this.options;
    const layout = place.layout.toString();
    const sets = store.sets(place.jobId);
    const found = chooseSet({ sets, process: process.id, rank, layout });
    const set = found?.path ?? store.create(place.jobId, rank, layout);
    // Saves of an older generation may still read the set; whoever was to hear of their end hears no more.
    const pinned = writer.pinned(set, (state) => this.unpin(process, { set, state, error: null }));
    store.own(set, process.id);
    process.set = set;
    return { path: set, pinned };
  }

  /** The process has left the set of an older place, if it had one. */
  leaveOthers(process: RankProcess): void {
    this.options.store.disown(process.id, process.set);
  }

  /** The process has ended. */
  disown(process: RankProcess): void {
    this.options.store.disown(process.id);
  }

  /** Where a process finds the state that it is told to restore. */
  sourceOf(process: RankProcess, source: Restore["source"]): RestoreSource {
    if (source?.$case === "checkpoint") {
      return { kind: "checkpoint", uri: source.value.uri, state: readState(source.value.state) };
    }
    if (source?.$case !== "snapshot") return { kind: "initial" };
    return { kind: "snapshot", ...readMemorySource(source.value, this.heldOf(this.place!), process.set!) };
  }

  /**
   * This state is about to be restored. Of what this node keeps for others the state that is in two places stays all the same,
   * since of the restored one nobody may have a second copy yet; where that is not known here, or the run has gone back
   * before it, the restored one.
   */
  restoring(state: StateName): void {
    const replicated = this.kept;
    const isKnown = replicated !== null && compareStates(replicated, state) <= 0;
    this.options.kept.keepSafe(isKnown ? replicated : state);
  }

  /**
   * Frees what is of no use any more: once a step is completed, every rank of the world has its state in its present set, in
   * this layout; older copies in this layout may still be wanted until this generation has copies of its own.
   */
  stepped(isReplicated: boolean): void {
    const { place } = this;
    if (place === null) return;
    const covered = isReplicated || !place.replicate;
    if (place.stepped && (place.replicated || !covered)) return;
    place.stepped = true;
    place.replicated = covered;
    const { store, pool } = this.options;
    const sets = store.sets(place.jobId);
    const layout = place.layout.toString();
    const running = pool.ranks.flatMap((process) => process.set ?? []);
    const surplus = [
      ...supersededSets({ sets, running, stepCompleted: true }),
      ...surplusReplicas(sets, { ranks: place.keeps, layout }),
    ];
    for (const set of sets)
      if (surplus.includes(set.path) && (covered || set.layout !== layout)) store.remove(set.path);
  }

  // -------------------------------------------------------------------------------------------------------------------
  // Copies and durable saves

  /** A rank's state is due: it becomes durable. */
  save(process: RankProcess, message: Extract<FromRank, { kind: "save" }>): void {
    const { place } = this;
    const set = path.dirname(message.slotPath);
    const unpin = (error: GokuError | null) => this.unpin(process, { set, state: message.state, error });
    // Of a generation that is over: its pins went with the prepare of the next one, which saves again what is due.
    if (place === null || isCommandJob(place.job) || BigInt(message.generation) !== place.generation) return;
    const { jobId, job, layout } = place;
    const { rank, generation, state, slotPath, reason } = message;
    const final = reason === "final";
    this.options.writer.save({ jobId, job, layout, rank, generation, state, slotPath, final }, unpin);
  }

  /**
   * Makes a state durable from memory, without the ranks: they hang, have left, or would be too late. One that goes on
   * meanwhile keeps the state for a step more; what it overwrites all the same is found out, and the save fails.
   */
  saveHeld(state: StateName): void {
    const { place } = this;
    if (place === null || isCommandJob(place.job)) return;
    const { store, pool, writer } = this.options;
    const { jobId, job, ranks } = place;
    const generation = String(place.generation);
    const layout = place.layout.toString();
    const sets = store.sets(jobId);
    for (const rank of ranks) {
      const ownSet = pool.ranks.find((process) => process.rank === rank)?.set ?? "";
      const slotPath = findHeld(sets, { state, rank, layout, ownSet })?.path ?? "memory of this node";
      const order = { jobId, job, layout: place.layout, rank, generation, state, slotPath, final: true };
      writer.save(order, () => {});
    }
  }

  /** Ranks of the next generation, also new ones, are told of it: nothing may take its place before another state is in two places. */
  confirmed(state: StateName): void {
    this.options.kept.keepSafe(state);
    const known = this.kept;
    if (known === null || stateKey(known) !== stateKey(state)) this.options.onReplicated(state); // each rank tells it
  }

  /** A rank with a twin in another failure domain has its copy there already. */
  replicate(process: RankProcess, message: Extract<FromRank, { kind: "replicate" }>): void {
    const { place } = this;
    if (place === null || isCommandJob(place.job)) return; // a program of its own keeps no states
    const { jobId, job, layout, generation, keepers } = place;
    const { rank, state, kept, slotPath } = message;
    const settled = (whole: boolean) => process.send({ kind: "replicated", state, whole });
    const keeper = keepers.get(rank);
    if (keeper === undefined) {
      settled(true);
      return;
    }
    const access = this.accessOf(place);
    const bytesPerSecond = replicaBytesPerSecond(job.checkpoint, availableParallelism());
    const order = { jobId, generation, layout, rank, state, kept, slotPath, keeper, access, bytesPerSecond };
    const failing = (error: GokuError) =>
      this.options.report({
        $case: "replicaFailed",
        value: {
          generation,
          rank,
          state: wireState(state),
          keeperNodeId: keeper.nodeId,
          error: wireError(error),
        },
      });
    this.options.replicator.send(order, { settled, failing });
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
}
