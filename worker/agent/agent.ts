import { randomUUID } from "node:crypto";
import { mkdirSync, rmSync } from "node:fs";
import path from "node:path";
import type { Logger } from "pino";
import type { StateName } from "../../checkpoint/state.js";
import type { Hello, SessionResponse } from "../../gen/goku/v1/agent.pb.js";
import { GokuError } from "../../job/errors.js";
import { productVersion } from "../../job/version.js";
import type { ClientAccess } from "../../security/client_access.js";
import { type FoundDevices, findDevices } from "../device/find_devices.js";
import { nodeMemoryBytes } from "../node_memory.js";
import type { PeerTls } from "../peer_channel.js";
import { endFamily } from "../program/process_family.js";
import { bootId } from "./boot_id.js";
import { CheckpointWriter } from "./checkpoint_writer.js";
import { ControllerLink } from "./controller_link.js";
import { countAgents } from "./count_agents.js";
import { Departure } from "./departure.js";
import { type Fence, type FencedCommand, judgeCommand } from "./fence.js";
import { JoinedFile } from "./joined_file.js";
import { KeptReplicas } from "./kept_replicas.js";
import { LogForwarder } from "./log_forwarder.js";
import { MetricsServer } from "./metrics_server.js";
import { NodeMetrics } from "./node_metrics.js";
import { EMPTY_RECORD, type NodeRecord, readNodeRecord, writeNodeRecord } from "./node_record.js";
import { Outbox, type Report } from "./outbox.js";
import { pause } from "./pause.js";
import { PeerServer } from "./peer_server.js";
import { Previewer } from "./previewer.js";
import { endProcesses, ProcessRecords } from "./process_records.js";
import { LogFile } from "./rank_log.js";
import { familyMark } from "./rank_process.js";
import { RankSupervisor } from "./rank_supervisor.js";
import { ReadBack } from "./read_back.js";
import { Replicator } from "./replicator.js";
import { RunRecord } from "./run_record/run_record.js";
import { SelfChecker } from "./self_checker.js";
import { NodeWatch } from "./signals/node_watch.js";
import { heldBytes } from "./snapshot_sets.js";
import { SnapshotStore } from "./snapshot_store.js";
import { StorageProver } from "./storage_prover.js";
import { readState, wireError, wireHeld, wireState } from "./wire.js";

export interface AgentOptions {
  /** host:port of the controllers, tried in turn. */
  controllers: readonly string[];
  /** Stable name of the node. */
  node: string;
  /** Ranks this node can hold. */
  slots: number;
  /** Address at which ranks and agents of other nodes reach this one; ranks and the agent listen on it. */
  host: string;
  /** What fails together with this node, for example its rack; empty: nothing else does. */
  failureDomain: string;
  /** Parent of this node's folder of pages and snapshots; in tmpfs. */
  stateDir: string;
  logDir: string;
  /** Where the machine's `dev/kmsg` and `sys` are: `/`, or where a container sees them. */
  hostRoot: string;
  /** How long an agent that is asked to end may take to make its ranks' state durable. */
  graceMs: number;
  /** Where /metrics is served; port 0: any free one. */
  metricsHost: string;
  metricsPort: number;
  /** What one slot's device can do, in 10^12 operations a second of the job's precision; null: not known. */
  peakTflops: number | null;
  /** Shown to controllers; a certificate is also what this node serves other nodes with. */
  access: ClientAccess;
}

/** How long processes of an earlier agent may take to go. */
const ORPHAN_MS = 10_000;
/** A write that hangs does not keep an agent beyond its grace for longer. */
const ABANDON_MS = 500;
/** While there is no controller, so many causes are told at most. */
const DOWN_CAUSES_MAX = 20;
/** Heartbeats never come faster than this, whatever a controller asks. */
const HEARTBEAT_MS_MIN = 50;

/** Reports that a rank has come to an end. */
const ENDINGS: ReadonlySet<Report["$case"]> = new Set(["rankFinished", "rankFailed", "rankExited"]);

/**
 * The agent of one node: obeys the leading controller, reports what its ranks do, and repeats what must not get lost.
 * Training goes on whatever becomes of the controller. RankSupervisor does the work; this is its voice.
 */
export class Agent {
  private readonly options: AgentOptions;
  private readonly log: Logger;
  private readonly incarnation = randomUUID();
  private readonly version = productVersion();
  private readonly folder: string;
  private readonly records: ProcessRecords;
  private readonly store: SnapshotStore;
  private readonly writer: CheckpointWriter;
  private readonly readBack: ReadBack;
  private readonly supervisor: RankSupervisor;
  private readonly replicator: Replicator;
  private readonly kept: KeptReplicas;
  private readonly previewer: Previewer;
  private readonly peers: PeerServer;
  private readonly checker: SelfChecker;
  private readonly watch: NodeWatch;
  private readonly runRecord: RunRecord;
  private readonly joinedFile: JoinedFile;
  private readonly metrics: NodeMetrics;
  private readonly metricsServer: MetricsServer;
  private gpus: FoundDevices = { devices: [], why: "it has not been looked for" };
  private peerPort = 0;
  private metricsUrl = "";
  private readonly link: ControllerLink;
  private readonly logFile: LogFile;
  private readonly forwarder: LogForwarder;
  private readonly outbox = new Outbox();
  private record: NodeRecord;
  /** Of this incarnation only: its predecessor's ranks are gone, and with them what its fence protected. */
  private fence: Fence = { term: 0n, commandId: 0n, generation: 0n };
  private termWelcomed = 0n;
  private heldSent: string | null = null;
  /** Why there has been no controller since the last one; each is told once. */
  private readonly downCauses = new Set<string>();
  private heartbeat: NodeJS.Timeout | null = null;
  private closing: Promise<void> | null = null;
  /** Set when it was asked to end, for as long as it still obeys. */
  private departure: Departure | null = null;
  /** The ranks are being ended: no command may start new ones. */
  private leaving = false;

  constructor(options: AgentOptions, log: Logger) {
    this.options = options;
    this.log = log;
    this.folder = path.join(options.stateDir, options.node);
    mkdirSync(this.folder, { recursive: true, mode: 0o700 });
    this.record = readNodeRecord(this.path("node.json"));
    this.joinedFile = new JoinedFile(this.path("joined"));
    this.records = new ProcessRecords(this.path("processes"));
    this.store = new SnapshotStore(this.path("snapshots"));
    this.logFile = new LogFile(options.logDir, `${options.node}.ranks.log`);
    this.forwarder = new LogForwarder((batch) => {
      this.link.send({ $case: "rankLog", value: { generation: this.supervisor.generation, ...batch } });
    });
    this.metrics = this.makeMetrics();
    this.metricsServer = this.makeMetricsServer();
    const { node, peakTflops } = options;
    this.runRecord = new RunRecord({
      node,
      log,
      peakFlops: peakTflops === null ? null : 1e12 * peakTflops,
      failed: () => this.metrics.recordFailed(),
    });
    this.writer = this.makeWriter();
    this.readBack = this.makeReadBack();
    this.replicator = new Replicator(log, undefined, {
      sent: (copy) => this.metrics.replicaSent(copy),
      retried: () => this.metrics.replicaRetried(),
    });
    this.kept = new KeptReplicas(this.store);
    this.previewer = new Previewer({
      scratch: this.path("previews"),
      records: this.records,
      log,
      report: (report) => this.report(report),
      memoryBytes: () => nodeMemoryBytes(countAgents(options.stateDir)),
    });
    this.supervisor = this.makeSupervisor();
    this.peers = new PeerServer({
      store: this.store,
      kept: this.kept,
      tls: peerTls(options.access),
      secret: () => this.record.peerSecret,
      onBadCertificate: (error) => log.error(`the old certificate stays in use: ${error.message}`),
    });
    this.checker = this.makeChecker();
    this.watch = this.makeWatch();
    this.link = new ControllerLink({
      controllers: options.controllers,
      access: options.access,
      hello: () => this.hello(),
      onWelcome: ({ heartbeatIntervalMs }, session) => this.welcomed(heartbeatIntervalMs, session),
      onCommand: (response) => this.command(response),
      onDown: (reason) => this.down(reason),
      ranks: () => this.supervisor.rankCount,
    });
  }

  /** Ends what an earlier incarnation left running, adopts its snapshots, then seeks a controller. */
  async start(): Promise<void> {
    const stuck = await endProcesses(this.records.all(), ORPHAN_MS);
    if (stuck[0]) {
      throw new GokuError(
        "STATE_INVALID",
        `Cannot take over node ${this.options.node}: process ${stuck[0].pid} of its former agent cannot be ended, restart the machine`,
      );
    }
    for (const { pid } of this.records.all()) this.records.remove(pid);
    // Programs that outlived a rank process which was killed together with the agent.
    await endFamily({ mark: familyMark(this.path("pages")), session: null, except: process.pid }, ORPHAN_MS);
    rmSync(this.path("pages"), { recursive: true, force: true });
    mkdirSync(this.path("pages"));
    const { jobId } = this.record;
    this.store.removeOthers(jobId);
    if (jobId === null) this.checker.warm(); // one that holds something of a job is used as it is
    if (jobId !== null) {
      // Booting takes longer than reading memory: both at once.
      this.supervisor.keepWarm();
      for (const damage of await this.store.verify(jobId)) this.log.warn({ damage }, "snapshot dropped");
    }
    this.gpus = await findDevices();
    const { devices, why } = this.gpus;
    this.log.info(
      devices.length > 0 ? { devices: devices.map(({ name }) => name) } : { why },
      devices.length > 0 ? "CUDA devices found" : "no CUDA device",
    );
    this.peerPort = await this.peers.start(this.options.host);
    this.metricsUrl = await this.metricsServer.start();
    this.watch.start();
    this.link.start();
  }

  /**
   * Tells the controller that it leaves, lets the ranks save within the grace, ends them. Snapshots stay for the next
   * incarnation, unless their state is committed: then its memory is of no further use.
   * @param reason what asked for it, for example SIGTERM
   */
  close(reason: string): Promise<void> {
    this.closing ??= this.end(reason);
    return this.closing;
  }

  private async end(reason: string): Promise<void> {
    const { log, writer, supervisor } = this;
    const { graceMs } = this.options;
    const departure = new Departure({ reason, graceMs, log, writer, supervisor });
    this.departure = departure;
    this.link.send({ $case: "nodeLeaving", value: departure.wire });
    const durable = await departure.depart({
      linked: () => this.link.linked,
      holds: () => this.record.jobId !== null,
    });
    this.leaving = true;
    void this.readBack.drop();
    if (this.heartbeat) clearInterval(this.heartbeat);
    this.forwarder.flush();
    await Promise.all([this.supervisor.close(), this.checker.close()]);
    this.watch.close();
    this.peers.close();
    this.metricsServer.close();
    this.link.close();
    this.joinedFile.close();
    const overdue = new AbortController();
    const written = Promise.all([this.writer.abandon(), this.runRecord.close()]);
    await Promise.race([written, pause(ABANDON_MS, overdue.signal)]);
    overdue.abort();
    if (durable) {
      this.store.removeOthers(null);
      this.remember(EMPTY_RECORD);
    }
    await this.logFile.close();
    if (this.record.jobId === null) rmSync(this.folder, { recursive: true, force: true });
  }

  private makeMetrics(): NodeMetrics {
    const { slots, peakTflops } = this.options;
    return new NodeMetrics({
      slots,
      peakFlops: peakTflops === null ? null : 1e12 * peakTflops,
      look: () => {
        const { jobId } = this.record;
        const sets = jobId === null ? [] : this.store.sets(jobId);
        const bytesOf = (replica: boolean) => heldBytes(sets.filter((set) => set.replica === replica));
        const memory = { ownBytes: bytesOf(false), replicaBytes: bytesOf(true) };
        const { certificateExpiryMs } = this.peers;
        const own = { linked: this.link.linked, gpus: this.watch.gpus, certificateExpiryMs };
        return { ...this.supervisor.look(), ...memory, ...own };
      },
    });
  }

  private makeMetricsServer(): MetricsServer {
    const { metricsHost, metricsPort, host, access } = this.options;
    return new MetricsServer({
      host: metricsHost,
      port: metricsPort,
      nodeHost: host,
      tls: peerTls(access),
      metrics: this.metrics,
      onBadCertificate: (error) => this.log.error(`the old certificate stays in use: ${error.message}`),
      onError: ({ message }) => this.log.error(`metrics cannot be read at present: ${message}`),
    });
  }

  private makeWriter(): CheckpointWriter {
    return new CheckpointWriter({
      settled: ({ job, generation, state, rank }) => {
        this.outbox.saveSettled();
        this.readBack.begin({ uri: job.checkpoint.uri, generation, state, rank });
      },
      retried: ({ state, error, waitMs }) => {
        const { step } = state;
        this.metrics.saveRetried();
        this.log.warn({ step, code: error.code, reason: error.message, waitMs }, "save is tried again");
      },
      committed: ({ generation, state, uri, bytes, seconds }) => {
        this.log.info({ uri, seconds }, "checkpoint committed");
        this.report({
          $case: "checkpointCommitted",
          value: {
            generation: BigInt(generation),
            state: wireState(state),
            uri,
            bytes: BigInt(bytes),
            seconds,
          },
        });
      },
      failed: ({ generation, state, error }) => {
        this.log.error({ code: error.code, reason: error.message }, "checkpoint failed");
        this.report({
          $case: "checkpointFailed",
          value: { generation: BigInt(generation), state: wireState(state), error: wireError(error) },
        });
      },
      retentionEnded: ({ generation, state, error }) => {
        if (error !== null)
          this.log.warn({ code: error.code, reason: error.message }, "old checkpoints cannot be removed");
        const told = error === null ? undefined : wireError(error);
        this.report({
          $case: "retentionEnded",
          value: { generation: BigInt(generation), state: wireState(state), error: told },
        });
      },
    });
  }

  private makeReadBack(): ReadBack {
    return new ReadBack({
      busy: () => !this.writer.idle,
      failed: ({ step }, { code, message }) =>
        this.log.warn({ step, code, reason: message }, "checkpoint cannot be read back"),
      read: ({ generation, state, uri, writers, writerCount, damage }) => {
        if (damage === null) this.log.info({ uri, parts: writers }, "checkpoint read back");
        else this.log.error({ uri, reason: damage }, "checkpoint damaged");
        this.report({
          $case: "checkpointRead",
          value: {
            generation: BigInt(generation),
            state: wireState(state),
            uri,
            writers,
            writerCount,
            damage: damage ?? "",
          },
        });
      },
    });
  }

  private makeSupervisor(): RankSupervisor {
    const { node, slots, host, access, stateDir } = this.options;
    return new RankSupervisor({
      node,
      slots,
      host,
      gpus: () => this.gpus,
      tls: peerTls(access),
      pagesFolder: this.path("pages"),
      records: this.records,
      store: this.store,
      writer: this.writer,
      replicator: this.replicator,
      kept: this.kept,
      previewer: this.previewer,
      prover: new StorageProver(this.log),
      record: this.runRecord,
      log: this.log,
      memoryBytes: () => nodeMemoryBytes(countAgents(stateDir)),
      report: (report) => this.report(report),
      onPrepared: ({ jobId, generation, peerSecret }) => {
        if (this.record.jobId !== jobId) this.outbox.forgetJob(); // its checkpoints are none of this one's
        this.outbox.prepared();
        void this.readBack.drop();
        this.watch.begin();
        const replicated = this.record.jobId === jobId ? this.record.replicated : null;
        this.remember({ jobId, generation, peerSecret, replicated });
      },
      replicated: () => this.record.replicated,
      onReplicated: (replicated) => {
        try {
          this.remember({ ...this.record, replicated });
        } catch (error) {
          this.log.warn(error, "node record"); // of no use but to a process that comes after this one
        }
      },
      onReleased: (jobId) => {
        if (this.record.jobId !== jobId) return; // an older job's: what is told of the present one still holds
        this.outbox.forgetJob();
        void this.readBack.drop();
        this.remember(EMPTY_RECORD);
      },
      onLines: (rank, lines) => {
        this.logFile.write(rank === null ? "spare" : `rank ${rank}`, lines);
        if (rank === null) return;
        this.forwarder.add(rank, lines);
        this.watch.take(rank, lines);
      },
    });
  }

  private makeChecker(): SelfChecker {
    return new SelfChecker({
      host: this.options.host,
      stateDir: this.folder,
      records: this.records,
      log: this.log,
      peerPort: () => this.peerPort,
      devices: () => this.gpus.devices,
      busy: () => this.supervisor.busy,
      begun: (value) => this.link.send({ $case: "selfCheckBegun", value }),
      report: (value) => {
        this.link.send({ $case: "selfCheckReport", value });
        if (value.busy === "" && value.results.every(({ ok }) => ok)) this.supervisor.keepWarm();
      },
    });
  }

  private makeWatch(): NodeWatch {
    return new NodeWatch({
      hostRoot: this.options.hostRoot,
      log: this.log,
      rankOf: (pid) => this.supervisor.rankOf(pid),
      found: (signals) => {
        const { generation } = this.supervisor;
        this.report({ $case: "nodeSignals", value: { generation, signals } });
      },
      grew: (counter, by) => this.metrics.hardwareErrors(counter, by),
    });
  }

  private hello(): Hello {
    const { node, slots, host, failureDomain } = this.options;
    this.heldSent = null;
    return {
      nodeId: node,
      incarnation: this.incarnation,
      slots,
      host,
      device: this.gpus.devices.length > 0 ? "cuda" : "cpu",
      devices: this.gpus.devices.map(({ name, memoryBytes }) => ({ name, memoryBytes: BigInt(memoryBytes) })),
      version: this.version,
      jobId: this.record.jobId ?? "",
      generation: this.record.generation,
      ranks: this.supervisor.progress(),
      heldStates: this.supervisor.held(this.record.jobId).map(wireHeld),
      term: this.fence.term,
      leaving: this.departure?.wire,
      failureDomain,
      bootId: bootId(),
      peerPort: this.peerPort,
      metricsUrl: this.metricsUrl,
      selfCheck: this.checker.last,
      unwatched: this.watch.unwatched,
    };
  }

  private welcomed(heartbeatMs: number, { term, address }: { term: bigint; address: string }): boolean {
    if (this.leaving) return false; // its processes are ending, the link is next
    if (term < this.fence.term) {
      const obeyed = Number(this.fence.term);
      this.log.warn(
        { controller: address, term: Number(term), obeyed },
        "controller of an older term refused; restart this agent if the controllers' store was replaced",
      );
      return false;
    }
    this.log.info({ controller: address, term: Number(term) }, "controller found");
    this.downCauses.clear();
    this.joinedFile.joined();
    for (const report of this.outbox.repeat(performance.now(), term > this.termWelcomed))
      this.link.send(report);
    this.termWelcomed = term;
    if (this.heartbeat) clearInterval(this.heartbeat);
    if (this.leaving) return true; // a stream that came up in its last moments
    this.heartbeat = setInterval(() => this.beat(), Math.max(HEARTBEAT_MS_MIN, heartbeatMs));
    this.beat();
    return true;
  }

  private down(reason: string): void {
    if (this.heartbeat) clearInterval(this.heartbeat);
    this.heartbeat = null;
    this.joinedFile.lost();
    const cause = reason.replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, "");
    const isNew = !this.downCauses.has(cause) && this.downCauses.size < DOWN_CAUSES_MAX;
    if (isNew) this.downCauses.add(cause);
    this.log[isNew ? "warn" : "debug"]({ reason }, "no controller");
  }

  private beat(): void {
    const { generation } = this.supervisor;
    const ranks = this.supervisor.progress();
    const { term, commandId } = this.fence;
    this.link.send({
      $case: "heartbeat",
      value: {
        generation,
        ranks,
        ...this.heldChange(),
        term,
        commandId,
        counterRates: this.watch.rates,
      },
    });
  }

  /** The list of snapshots when it differs from what was sent last. */
  private heldChange() {
    const text = this.heldText();
    const changed = text !== this.heldSent;
    this.heldSent = text;
    const held = changed ? this.supervisor.held(this.record.jobId) : [];
    return { heldStates: held.map(wireHeld), heldStatesChanged: changed };
  }

  private heldText(): string {
    return this.supervisor
      .held(this.record.jobId)
      .map((one) => `${one.layout} ${one.rank} ${one.state.generation}-${one.state.step}`)
      .join();
  }

  /** Sends a report, and keeps it as long as it must not get lost. The inventory goes before what relies on it. */
  private report(report: Report): void {
    if (report.$case === "rankReady" && this.heldText() !== this.heldSent) this.beat();
    // After the end of its ranks a job may soon be over, and with it the place for their last words.
    if (ENDINGS.has(report.$case)) {
      this.forwarder.flush();
      this.watch.lookAtKernel(); // what it says of the end goes before it
    }
    this.outbox.add(report, performance.now(), this.link.send(report));
  }

  private command({ message, term, commandId }: SessionResponse): void {
    if (message === undefined || this.leaving) return;
    const fenced: FencedCommand = { term, commandId, ...scopeOf(message) };
    const verdict = judgeCommand(this.fence, fenced);
    const about = {
      command: message.$case,
      commandId: Number(commandId),
      generation: Number(fenced.generation),
    };
    if (verdict.kind === "ignore") {
      this.log.info({ ...about, reason: verdict.reason }, "command ignored");
      return;
    }
    this.log.info(about, "command");
    this.fence = verdict.fence;
    this.obey(message);
  }

  private obey(message: Command): void {
    switch (message.$case) {
      case "selfCheck":
        this.checker.start(message.value);
        break;
      case "selfCheckConnect":
        this.checker.connect(message.value);
        break;
      case "prepare":
        this.checker.cancel("ranks get a place here");
        this.supervisor.prepare(message.value);
        break;
      case "connect":
        this.supervisor.connect(message.value);
        break;
      case "restore":
        this.supervisor.restore(message.value);
        break;
      case "run":
        this.supervisor.run(message.value.generation);
        break;
      case "abort":
        void this.readBack.drop(); // what follows may read what is there, in a hurry
        this.supervisor.abort(message.value);
        break;
      case "requestSave":
        this.supervisor.request("save");
        break;
      case "requestStop":
        this.departure?.stopOrdered();
        this.supervisor.request("stop");
        break;
      case "requestYield":
        this.supervisor.request("yield");
        break;
      case "drawPreview":
        this.outbox.previewAnswered(message.value.state!);
        this.supervisor.drawPreview(message.value);
        break;
      case "releasePreview":
        this.outbox.previewAnswered(message.value.state!);
        this.supervisor.releasePreview(readState(message.value.state));
        break;
      case "saveSnapshot":
        this.saveHeld(readState(message.value.state));
        break;
      case "killRank":
        this.supervisor.killRank(message.value);
        break;
      case "tellProgress":
        this.beat();
        break;
      case "rankScores":
        this.metrics.told(message.value);
        break;
      case "release":
        this.supervisor
          .release(message.value.jobId)
          .catch((error: unknown) => this.log.error(error, "release"));
        break;
      default: // Welcome and Refused are the link's business.
    }
  }

  private saveHeld(state: StateName): void {
    this.departure?.heldOrdered();
    this.supervisor.saveHeld(state);
  }

  private remember(record: NodeRecord): void {
    this.record = record;
    writeNodeRecord(this.path("node.json"), record);
  }

  private path(name: string): string {
    return path.join(this.folder, name);
  }
}

type Command = NonNullable<SessionResponse["message"]>;

/** What other nodes are served with; null: this node has no certificate. */
function peerTls({ ca, cert, key }: ClientAccess): PeerTls | null {
  return ca === null || cert === null || key === null ? null : { ca, cert, key };
}

/** What a command is fenced by. */
function scopeOf(message: Command): Pick<FencedCommand, "scope" | "generation"> {
  switch (message.$case) {
    case "prepare":
      return { scope: "prepare", generation: message.value.generation };
    case "abort":
      return { scope: "until", generation: message.value.generation };
    case "connect":
    case "restore":
    case "run":
    case "requestSave":
    case "requestStop":
    case "requestYield":
    case "saveSnapshot":
    case "drawPreview":
    case "releasePreview":
    case "killRank":
    case "rankScores":
    case "tellProgress":
      return { scope: "within", generation: message.value.generation };
    default:
      return { scope: "none", generation: 0n };
  }
}
