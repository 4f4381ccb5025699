import { availableParallelism } from "node:os";
import type { Logger } from "pino";
import type { StateName } from "../../checkpoint/state.js";
import { localFolder } from "../../checkpoint/storage/storage.js";
import type {
  Abort,
  Connect,
  DrawPreview,
  KillRank,
  Prepare,
  RankProgress,
  Restore,
  StepCompleted,
} from "../../gen/goku/v1/agent.pb.js";
import { isCommandJob } from "../../job/command_job.js";
import { toGokuError } from "../../job/errors.js";
import type { FoundDevices } from "../device/find_devices.js";
import type { PeerTls } from "../peer_channel.js";
import type { RankRequest, ToRank } from "../rank_messages.js";
import type { CheckpointWriter } from "./checkpoint_writer.js";
import type { KeptReplicas } from "./kept_replicas.js";
import type { NodeLook } from "./node_metrics.js";
import type { NodeRecord } from "./node_record.js";
import type { Report } from "./outbox.js";
import { type Place, readKeepers, readPlace } from "./place.js";
import { placeRanks } from "./place_ranks.js";
import { threadsPerRank } from "./plan_processes.js";
import type { Previewer } from "./previewer.js";
import { ProcessPool } from "./process_pool.js";
import type { ProcessRecords } from "./process_records.js";
import { WATCH_MS } from "./progress_reader.js";
import type { ProcessEnd, RankProcess } from "./rank_process.js";
import { RankReports } from "./rank_reports.js";
import { RankStates } from "./rank_states.js";
import type { Replicator } from "./replicator.js";
import type { RecordedRun, RunRecord } from "./run_record/run_record.js";
import type { HeldSnapshot } from "./snapshot_sets.js";
import type { SnapshotStore } from "./snapshot_store.js";
import type { StorageProver } from "./storage_prover.js";
import { WarmSpares } from "./warm_spares.js";
import { readCode, readMembers, readMemorySource, readState, wireError, wireLayout } from "./wire.js";

export interface RankSupervisorOptions {
  node: string;
  slots: number;
  host: string;
  /** CUDA devices of this node. */
  gpus: () => FoundDevices;
  /** Certificate of this node, for other nodes; null: plain text. */
  tls: PeerTls | null;
  /** Folder of the processes' pages. */
  pagesFolder: string;
  records: ProcessRecords;
  store: SnapshotStore;
  writer: CheckpointWriter;
  replicator: Replicator;
  kept: KeptReplicas;
  previewer: Previewer;
  prover: StorageProver;
  record: RunRecord;
  log: Logger;
  report: (report: Report) => void;
  /** A generation begins here: reports about older ones are obsolete. */
  onPrepared: (record: Omit<NodeRecord, "replicated">) => void;
  /** The newest state of the job that is known to be in two places everywhere; null: none. */
  replicated: () => StateName | null;
  /** That is a newer one now. */
  onReplicated: (state: StateName) => void;
  /** The job is over here. */
  onReleased: (jobId: string) => void;
  /** Of this node; others that share the machine come and go. */
  memoryBytes: () => number;
  onLines: (rank: number | null, lines: string[]) => void;
}

/** How long a file system may take to remove a file, at the end. */
const CLEAR_MS = 500;

/** Of processes that wait for a command. */
const IDLE_STAGES: ReadonlySet<RankProcess["stage"]> = new Set(["spare", "left", "finished"]);

/** The rank processes of a node, from one generation to the next, and their snapshot sets. */
export class RankSupervisor {
  private readonly options: RankSupervisorOptions;
  private readonly pool: ProcessPool;
  private readonly states: RankStates;
  private readonly reports: RankReports;
  private readonly spares: WarmSpares;
  private place: Place | null = null;
  private readonly watching: NodeJS.Timeout;

  constructor(options: RankSupervisorOptions) {
    this.options = options;
    const { pagesFolder, records, slots, memoryBytes, onLines } = options;
    this.pool = new ProcessPool({
      pagesFolder,
      records,
      threads: threadsPerRank({ cores: availableParallelism(), ranks: slots }),
      onMessage: (process, message) => this.reports.receive(process, message),
      onLines: (process, lines) => onLines(process.rank, lines),
      onExit: (process) => this.exited(process),
      onEnd: (process, end) => this.ended(process, end),
    });
    this.states = new RankStates({ ...options, pool: this.pool });
    this.reports = new RankReports({
      ...options,
      states: this.states,
      place: () => this.place,
      stepped: (replicated) => this.stepped(replicated),
    });
    this.spares = new WarmSpares({ slots, pool: this.pool, memoryBytes });
    this.watching = setInterval(() => {
      for (const process of this.pool.ranks) process.watch();
    }, WATCH_MS);
  }

  /** Of the ranks that run or formed last; 0: none. */
  get generation(): bigint {
    return this.place?.generation ?? 0n;
  }

  /** Ranks that have a place on this node in that generation. */
  get rankCount(): number {
    return this.place?.ranks.length ?? 0;
  }

  /** Why the node must be left in peace; null: no rank works here, though some may wait for their next generation. */
  get busy(): string | null {
    const working = this.pool.ranks.filter(({ stage }) => !IDLE_STAGES.has(stage));
    return working.length === 0 ? null : `${working.length} of its ranks work`;
  }

  /** Progress of the living ranks. */
  progress(): RankProgress[] {
    return this.pool.ranks.map((process) => process.progress());
  }

  /** World rank of a process of this node, also of one that has just ended; null: it is none of the ranks'. */
  rankOf(pid: number): number | null {
    const living = this.pool.all.find((process) => process.isProcess(pid));
    if (living !== undefined) return living.rank;
    return this.reports.endedRank(pid);
  }

  /** What a scrape shows of the ranks. */
  look(): Pick<NodeLook, "job" | "ranks"> {
    const ranks = this.pool.ranks.map((process) => ({ page: process.progress(), unsent: process.unsent }));
    return { job: this.place?.job.name ?? "", ranks };
  }

  /** Whole snapshots of a job on this node, each state of a rank once. */
  held(jobId: string | null): HeldSnapshot[] {
    return this.states.held(jobId);
  }

  /** Has processes wait for the places that this node may get; not before it has been examined. */
  keepWarm(): void {
    if (this.place === null || this.place.stepped) this.spares.keep(this.place);
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
      const { node, slots, gpus } = this.options;
      const place = readPlace(wire, { node, slots, gpus: gpus() });
      if (this.place && this.place.jobId !== place.jobId) this.forgetJob(this.place.jobId);
      this.place = place;
      this.options.previewer.end();
      void this.options.prover.end();
      this.states.begin(place);
      this.options.record.begin(recordedRun(place, wire.recentSteps));
      this.reports.begin();
      this.options.onPrepared(place);
      this.placeRanks(place);
    } catch (error) {
      const detail = wireError(toGokuError(error));
      this.options.report({
        $case: "prepareRefused",
        value: { generation: wire.generation, error: detail },
      });
    }
  }

  connect({ generation, nodes, proveStorage }: Connect): void {
    this.tellRanks({ kind: "connect", generation: String(generation), members: readMembers(nodes) });
    if (proveStorage)
      this.proveStorage(
        generation,
        nodes.map(({ nodeId }) => nodeId),
      );
  }

  /** Beside what the ranks do; a repeat of the Connect begins nothing new. */
  private proveStorage(generation: bigint, nodes: readonly string[]): void {
    const { place } = this;
    const { node, prover, report } = this.options;
    if (place === null || place.generation !== generation || place.isProven || isCommandJob(place.job))
      return;
    const folder = localFolder(place.job.checkpoint.uri);
    if (folder === null) return;
    place.isProven = true;
    const others = nodes.filter((other) => other !== node);
    prover.begin({ jobId: place.jobId, generation, node, others, folder }, ({ written, missing, error }) => {
      const value = { generation, written, missingNodeIds: missing, error: error ?? "" };
      report({ $case: "storageProof", value });
    });
  }

  restore({ generation, source, rollBacks: told }: Restore): void {
    const rollBacks = told.map(({ first, last }) => ({ first: Number(first), last: Number(last) }));
    if (source?.$case === "snapshot") this.states.restoring(readState(source.value.state));
    for (const process of this.pool.ranks) {
      try {
        const from = this.states.sourceOf(process, source);
        process.send({ kind: "restore", generation: String(generation), source: from, rollBacks });
      } catch (error) {
        this.options.report({
          $case: "rankFailed",
          value: {
            generation,
            rank: process.rank!,
            error: wireError(toGokuError(error)),
            lastLines: process.lastLines,
            others: [],
          },
        });
      }
    }
  }

  run(generation: bigint): void {
    this.tellRanks({ kind: "run", generation: String(generation) });
    for (const process of this.pool.ranks) if (process.stage === "restored") process.stage = "running";
  }

  /**
   * Raised by one rank in its next vote: several would be heard in different votes, and save twice. Programs of their own
   * do not vote: each is asked.
   */
  request(request: RankRequest): void {
    const { place } = this;
    if (request !== "save") this.options.previewer.end(); // nothing waits for it
    const asked = place !== null && isCommandJob(place.job) ? this.pool.ranks : this.pool.ranks.slice(0, 1);
    for (const process of asked) process.send({ kind: "request", request });
  }

  abort({ generation, reason }: Abort): void {
    this.options.previewer.end();
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

  /** Draws from the snapshots of this node, and of those at the places told. */
  drawPreview({ generation, state, places }: DrawPreview): void {
    const { place } = this;
    if (place === null || isCommandJob(place.job)) return;
    const { job, jobId, layout } = place;
    const from = { state, layout: wireLayout(layout), places, durable: undefined };
    const source = readMemorySource(from, this.states.heldOf(place), "");
    this.options.previewer.draw({ job, jobId, generation, source, peers: this.states.accessOf(place) });
  }

  /** Its pins end on every rank of this node. */
  releasePreview(state: StateName): void {
    this.tellRanks({ kind: "previewRead", state });
  }

  /** Ends a rank's process; RankExited follows when it has been reaped, at once when it had gone before. */
  killRank({ generation, rank, reason }: KillRank): void {
    const process = this.pool.ranks.find((one) => one.rank === rank);
    this.options.log.warn({ rank, pid: process?.pid, reason }, "rank is killed");
    if (process)
      this.endHung(process, generation).catch((error: unknown) => this.options.log.error(error, "kill"));
    else if (!this.pool.all.some((one) => one.rank === rank)) this.reports.repeatEnd(generation, rank);
  }

  /** Tells what it was doing, since nobody can ask it afterwards; unless it has moved on meanwhile. */
  private async endHung(process: RankProcess, generation: bigint): Promise<void> {
    if (process.condemned) return;
    process.condemned = true;
    const { rank } = process;
    const lines = await process.inspect();
    process.condemned = false;
    if (process.generation > generation || rank === null) return;
    if (lines.length > 0) this.options.report({ $case: "rankInspected", value: { generation, rank, lines } });
    process.kill();
  }

  /** Ends the ranks of a job and frees its snapshots. */
  async release(jobId: string): Promise<void> {
    const { store, writer, onReleased, report } = this.options;
    if (this.place?.jobId === jobId) {
      this.place = null;
      this.options.previewer.end();
      void this.options.prover.end();
      this.states.begin(null);
      this.options.record.begin(null);
      this.pool.dismiss(this.pool.ranks);
      await Promise.all([writer.abandon(), this.pool.gone((process) => process.rank !== null)]);
    }
    store.removeJob(jobId);
    onReleased(jobId);
    report({ $case: "nodeReleased", value: { jobId } });
    this.keepWarm();
  }

  // -------------------------------------------------------------------------------------------------------------------
  // The end

  /** Where each living rank is in its generation. */
  get stages(): RankProcess["stage"][] {
    return this.pool.ranks.map((process) => process.stage);
  }

  /** The newest state that all ranks of this node hold whole; null: none. */
  newestHeld(): StateName | null {
    return this.states.newestHeld();
  }

  /** Makes a state durable from memory, without the ranks. */
  saveHeld(state: StateName): void {
    this.states.saveHeld(state);
  }

  /** Ends all processes and waits until they have gone. */
  async close(): Promise<void> {
    clearInterval(this.watching);
    this.spares.close();
    this.states.begin(null);
    this.pool.dismiss(this.pool.living);
    const { previewer, prover } = this.options;
    const cleared = Promise.race([prover.end(), new Promise((done) => setTimeout(done, CLEAR_MS).unref())]);
    await Promise.all([this.pool.gone(() => true), previewer.close(), cleared]);
  }

  // -------------------------------------------------------------------------------------------------------------------
  // Processes

  private placeRanks(place: Place): void {
    const { node, host, gpus, memoryBytes } = this.options;
    const { pool, states, spares } = this;
    const sparesKept = spares.count(place);
    spares.pause();
    placeRanks(place, { node, host, gpus: gpus().devices, pool, states, memoryBytes, sparesKept });
  }

  private stepped(replicated: boolean): void {
    const isFirst = this.place?.stepped === false;
    this.states.stepped(replicated);
    if (isFirst) this.keepWarm();
  }

  /** A process has gone: those of its generation on this node leave their collectives at once, naming it. */
  private exited(process: RankProcess): void {
    this.states.disown(process);
    if (process.rank === null || process.dismissed || process.generation !== this.generation) return;
    this.options.previewer.end(); // the recovery has the node to itself
    for (const other of this.pool.ranks) {
      other.abort(process.generation, { peer: process.rank, code: "RANK_DIED" });
    }
  }

  private ended(process: RankProcess, end: ProcessEnd): void {
    this.reports.ended(process, end);
    if (process.rank === null && !process.dismissed) this.spares.ended();
  }

  /** Another job takes the node: the controller decided, and has fenced its command. */
  private forgetJob(jobId: string): void {
    this.pool.dismiss(this.pool.ranks);
    this.options.writer.abandon().catch((error: unknown) => this.options.log.error(error, "abandon"));
    this.options.store.removeJob(jobId);
  }

  private tellRanks(message: ToRank): void {
    for (const process of this.pool.ranks) process.send(message);
  }
}

/** What the record of the run needs where rank 0 is here; a program of its own keeps its own. */
function recordedRun(
  { job, jobId, generation, layout, ranks }: Place,
  recent: readonly StepCompleted[],
): RecordedRun | null {
  if (!ranks.includes(0) || isCommandJob(job)) return null;
  return { jobId, uri: job.checkpoint.uri, generation, worldSize: layout.worldSize, recent };
}
