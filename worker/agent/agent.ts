import { randomUUID } from "node:crypto";
import { mkdirSync, rmSync } from "node:fs";
import path from "node:path";
import type { Logger } from "pino";
import type { StateName } from "../../checkpoint/state.js";
import type { Hello, SessionResponse } from "../../gen/goku/v1/agent.pb.js";
import { GokuError } from "../../job/errors.js";
import { productVersion } from "../../job/version.js";
import { CheckpointWriter } from "./checkpoint_writer.js";
import { ControllerLink } from "./controller_link.js";
import { Departure } from "./departure.js";
import { type Fence, type FencedCommand, judgeCommand } from "./fence.js";
import { KeptReplicas } from "./kept_replicas.js";
import { LogForwarder } from "./log_forwarder.js";
import { type NodeRecord, readNodeRecord, writeNodeRecord } from "./node_record.js";
import { Outbox, type Report } from "./outbox.js";
import { pause } from "./pause.js";
import { PeerServer } from "./peer_server.js";
import { endProcesses, ProcessRecords } from "./process_records.js";
import { LogFile } from "./rank_log.js";
import { RankSupervisor } from "./rank_supervisor.js";
import { Replicator } from "./replicator.js";
import { SnapshotStore } from "./snapshot_store.js";
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
  /** How long an agent that is asked to end may take to make its ranks' state durable. */
  graceMs: number;
}

/** How long processes of an earlier agent may take to go. */
const ORPHAN_MS = 10_000;
/** A write that hangs does not keep an agent beyond its grace for longer. */
const ABANDON_MS = 500;
/** Heartbeats never come faster than this, whatever a controller asks. */
const HEARTBEAT_MS_MIN = 50;

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
  private readonly supervisor: RankSupervisor;
  private readonly replicator: Replicator;
  private readonly kept: KeptReplicas;
  private readonly peers: PeerServer;
  private peerPort = 0;
  private readonly link: ControllerLink;
  private readonly logFile: LogFile;
  private readonly forwarder: LogForwarder;
  private readonly outbox = new Outbox();
  private record: NodeRecord;
  /** Of this incarnation only: its predecessor's ranks are gone, and with them what its fence protected. */
  private fence: Fence = { term: 0n, commandId: 0n, generation: 0n };
  private termWelcomed = 0n;
  private heldSent: string | null = null;
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
    this.records = new ProcessRecords(this.path("processes"));
    this.store = new SnapshotStore(this.path("snapshots"));
    this.logFile = new LogFile(options.logDir, `${options.node}.ranks.log`);
    this.forwarder = new LogForwarder((batch) => {
      this.link.send({ $case: "rankLog", value: { generation: this.supervisor.generation, ...batch } });
    });
    this.writer = this.makeWriter();
    this.replicator = new Replicator(log);
    this.kept = new KeptReplicas(this.store);
    this.peers = new PeerServer(this.store, this.kept);
    this.supervisor = this.makeSupervisor();
    this.link = new ControllerLink({
      controllers: options.controllers,
      hello: () => this.hello(),
      onWelcome: ({ heartbeatIntervalMs }, session) => this.welcomed(heartbeatIntervalMs, session),
      onCommand: (response) => this.command(response),
      onDown: (reason) => this.down(reason),
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
    rmSync(this.path("pages"), { recursive: true, force: true });
    mkdirSync(this.path("pages"));
    const { jobId } = this.record;
    this.store.removeOthers(jobId);
    if (jobId !== null) {
      // Booting takes longer than reading memory: both at once.
      const own = this.store.sets(jobId).filter((set) => !set.replica);
      this.supervisor.startSpares(new Set(own.map((set) => set.rank)).size);
      for (const damage of await this.store.verify(jobId)) this.log.warn({ damage }, "snapshot dropped");
    }
    this.peerPort = await this.peers.start(this.options.host);
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
    if (this.heartbeat) clearInterval(this.heartbeat);
    this.forwarder.flush();
    await this.supervisor.close();
    this.peers.close();
    this.link.close();
    const overdue = new AbortController();
    await Promise.race([this.writer.abandon(), pause(ABANDON_MS, overdue.signal)]);
    overdue.abort();
    if (durable) {
      this.store.removeOthers(null);
      this.remember({ jobId: null, generation: 0n });
    }
    await this.logFile.close();
    if (this.record.jobId === null) rmSync(this.folder, { recursive: true, force: true });
  }

  private makeWriter(): CheckpointWriter {
    return new CheckpointWriter({
      settled: () => this.outbox.saveSettled(),
      retried: ({ state, error, waitMs }) => {
        const { step } = state;
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
    });
  }

  private makeSupervisor(): RankSupervisor {
    const { node, slots, host } = this.options;
    return new RankSupervisor({
      node,
      slots,
      host,
      pagesFolder: this.path("pages"),
      records: this.records,
      store: this.store,
      writer: this.writer,
      replicator: this.replicator,
      kept: this.kept,
      log: this.log,
      report: (report) => this.report(report),
      onPrepared: (jobId, generation) => {
        this.outbox.prepared();
        this.remember({ jobId, generation });
      },
      onReleased: (jobId) => {
        this.outbox.forgetJob();
        if (this.record.jobId === jobId) this.remember({ jobId: null, generation: 0n });
      },
      onLines: (rank, lines) => {
        this.logFile.write(rank === null ? "spare" : `rank ${rank}`, lines);
        if (rank !== null) this.forwarder.add(rank, lines);
      },
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
      device: "cpu",
      version: this.version,
      jobId: this.record.jobId ?? "",
      generation: this.record.generation,
      ranks: this.supervisor.progress(),
      heldStates: this.supervisor.held(this.record.jobId).map(wireHeld),
      term: this.fence.term,
      leaving: this.departure?.wire,
      failureDomain,
      peerPort: this.peerPort,
    };
  }

  private welcomed(heartbeatMs: number, { term, address }: { term: bigint; address: string }): boolean {
    if (term < this.fence.term) {
      const obeyed = Number(this.fence.term);
      this.log.warn(
        { controller: address, term: Number(term), obeyed },
        "controller of an older term refused; restart this agent if the controllers' store was replaced",
      );
      return false;
    }
    this.log.info({ controller: address, term: Number(term) }, "controller found");
    for (const report of this.outbox.repeat(performance.now(), term > this.termWelcomed))
      this.link.send(report);
    this.termWelcomed = term;
    if (this.heartbeat) clearInterval(this.heartbeat);
    this.heartbeat = setInterval(() => this.beat(), Math.max(HEARTBEAT_MS_MIN, heartbeatMs));
    this.beat();
    return true;
  }

  private down(reason: string): void {
    if (this.heartbeat) clearInterval(this.heartbeat);
    this.heartbeat = null;
    this.log.debug({ reason }, "no controller");
  }

  private beat(): void {
    const { generation } = this.supervisor;
    const ranks = this.supervisor.progress();
    const { term, commandId } = this.fence;
    this.link.send({
      $case: "heartbeat",
      value: { generation, ranks, ...this.heldChange(), term, commandId },
    });
  }

  /** The list of snapshots when it differs from what was sent last. */
  private heldChange() {
    const held = this.supervisor.held(this.record.jobId);
    const text = held
      .map((one) => `${one.layout} ${one.rank} ${one.state.generation}-${one.state.step}`)
      .join();
    const changed = text !== this.heldSent;
    this.heldSent = text;
    return { heldStates: changed ? held.map(wireHeld) : [], heldStatesChanged: changed };
  }

  /** Sends a report, and keeps it as long as it must not get lost. The inventory goes before what relies on it. */
  private report(report: Report): void {
    if (report.$case === "rankReady") this.beat();
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
      case "prepare":
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
        this.supervisor.abort(message.value);
        break;
      case "requestSave":
        this.supervisor.request("save");
        break;
      case "requestStop":
        this.departure?.stopOrdered();
        this.supervisor.request("stop");
        break;
      case "saveSnapshot":
        this.saveHeld(readState(message.value.state));
        break;
      case "killRank":
        this.supervisor.killRank(message.value);
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
    case "saveSnapshot":
    case "killRank":
      return { scope: "within", generation: message.value.generation };
    default:
      return { scope: "none", generation: 0n };
  }
}
