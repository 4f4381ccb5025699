import { randomUUID } from "node:crypto";
import * as grpc from "@grpc/grpc-js";
import type { AgentMessage, Command, StateName } from "../../controller/core/contract.js";
import {
  AgentServiceService,
  type Hello,
  type RankProgress,
  type SelfCheckReport,
  type SessionRequest,
  type SessionResponse,
} from "../../gen/goku/v1/agent.pb.js";
import { productVersion } from "../../job/version.js";
import { ReportGatherer } from "../../worker/agent/report_gatherer.js";
import * as messages from "./agent_messages.js";
import { readCommand } from "./read_command.js";

export interface SimulatedAgentOptions {
  /** host:port of the controller. */
  controller: string;
  nodeId: string;
  slots: number;
  /** Address of the machine; nobody connects to it. */
  host: string;
  failureDomain: string;
  /** Last step that the ranks of this world have applied. */
  step: () => number;
  /** Something that `SimulatedFleet.until` may wait for has changed. */
  changed: () => void;
  /** False: ranks do not answer a Prepare yet. */
  answers: () => boolean;
}

export type AgentPhase = "away" | "free" | "prepared" | "forming" | "running" | "failed" | "finished";

type Session = grpc.ClientDuplexStream<SessionRequest, SessionResponse>;
interface SessionClient extends grpc.Client {
  session(): Session;
}

/** Reading what every rank of a large world is told (Connect) costs more than all the rest, and is not what is simulated. */
const SimulatedClient = grpc.makeGenericClientConstructor(
  { session: { ...AgentServiceService.session, responseDeserialize: readCommand } },
  "goku.v1.AgentService",
) as unknown as new (
  address: string,
  credentials: grpc.ChannelCredentials,
  options: grpc.ClientOptions,
) => SessionClient;

const RECONNECT_MS = 300;
/** What a rank wrote before it failed, as an agent passes it on. */
const LAST_LINES = [
  "step 41  loss 0.8131  4.1 s",
  "cannot go on: the communicator was aborted, a member of it has died",
];
const PHASES = ["data", "forward", "backward", "reduce", "vote", "optimizer", "snapshot"];

/**
 * An agent with simulated ranks on a stream of its own to a real controller. Its ranks do at once what they are told, and
 * nothing by themselves: the world's step is given, faults are made from outside. Every rank keeps its last two states.
 */
export class SimulatedAgent {
  readonly nodeId: string;
  readonly #options: SimulatedAgentOptions;
  #incarnation = randomUUID();
  #client: SessionClient | null = null;
  #session: Session | null = null;
  #heartbeat: NodeJS.Timeout | null = null;
  #retry: NodeJS.Timeout | null = null;
  #isUp = false;
  #welcomed = false;
  phase: AgentPhase = "away";
  generation = 0;
  ranks: number[] = [];
  #pids: number[] = [];
  #jobId = "";
  #layout = "";
  #term = 0n;
  #commandId = 0n;
  /** Present while it runs; then the last one. */
  #applied = 0;
  #states: StateName[] = [];
  #heldTold = "";
  #reports = new Map<string, AgentMessage>();
  #checked: SelfCheckReport | undefined;
  readonly #gatherer = new ReportGatherer();
  #gathering: NodeJS.Timeout | null = null;

  constructor(options: SimulatedAgentOptions) {
    this.#options = options;
    this.nodeId = options.nodeId;
  }

  start(): void {
    this.#isUp = true;
    this.#connect();
  }

  /** The machine goes, with its memory; `start` brings it back as another incarnation that holds nothing. */
  lose(): void {
    this.close();
    this.#incarnation = randomUUID();
    this.#checked = undefined;
    this.generation = 0;
    this.ranks = [];
    this.#pids = [];
    this.#jobId = "";
    this.#layout = "";
    this.#term = 0n;
    this.#commandId = 0n;
    this.#states = [];
    this.#reports.clear();
  }

  close(): void {
    this.#isUp = false;
    this.#drop();
    if (this.#retry) clearTimeout(this.#retry);
  }

  /** Its living ranks miss a peer. */
  peerDied(peer: number): void {
    if (this.phase !== "running") return;
    this.#stopAt(this.#options.step());
    this.phase = "failed";
    for (const rank of this.ranks) this.#fail(rank, peer);
    this.#options.changed();
  }

  /** One of its processes ends; the others of the node miss it. */
  kill(rank: number): void {
    const at = this.ranks.indexOf(rank);
    if (this.phase !== "running" || at < 0) return;
    this.#stopAt(this.#options.step());
    this.phase = "failed";
    const pid = this.#pids[at]!;
    this.#pids[at] = pid + 100_000;
    const { generation } = this;
    this.#report(`exited/${rank}`, messages.exited({ generation, rank, pid, signal: "SIGKILL" }));
    for (const other of this.ranks) if (other !== rank) this.#fail(other, rank);
    this.#options.changed();
  }

  /** The world has applied another step: rank 0's agent tells. */
  stepped(step: number): void {
    if (this.phase !== "running" || this.ranks[0] !== 0 || step <= this.#applied) return;
    this.#applied = step;
    this.#send(messages.step(this.generation, step, { stepSeconds: 1, replicatedStep: 0 }));
  }

  /** The last step is done and durable at `uri`. */
  finish(step: number, uri: string): void {
    if (this.phase !== "running") return;
    this.stepped(step);
    this.#stopAt(step);
    this.phase = "finished";
    const { generation } = this;
    const state = { generation, step };
    if (this.ranks[0] === 0) this.#report("saved", messages.committed(generation, state, uri));
    for (const rank of this.ranks) {
      this.#report(`finished/${rank}`, messages.finished({ generation, rank }, state, "steps"));
    }
    this.#options.changed();
  }

  /** Ranks that were told to prepare become ready, where `answers` held them back. */
  answer(): void {
    if (this.phase !== "prepared") return;
    this.phase = "forming";
    const { generation } = this;
    this.#tellHeld();
    for (const [at, rank] of this.ranks.entries()) {
      const sender = { generation, rank, pid: this.#pids[at]! };
      this.#report(`ready/${rank}`, messages.ready(sender, this.#states));
    }
  }

  #fail(rank: number, peer: number): void {
    const { generation } = this;
    const failure = { code: "COMM_PEER_DIED", peer, operation: "all_gather of shard.0" };
    this.#report(`failed/${rank}`, messages.failed({ generation, rank }, failure, LAST_LINES));
  }

  #stopAt(step: number): void {
    this.#states = this.#statesAt(step);
    this.#applied = step;
  }

  /** Two slots: the last state and the one before. */
  #statesAt(step: number): StateName[] {
    const { generation } = this;
    const first = this.#states[0];
    const before = first !== undefined && first.generation < generation ? [first] : [];
    const own = [step, step - 1].filter((each) => each > 0).map((each) => ({ generation, step: each }));
    return step > (first?.step ?? 0) ? [...own, ...before].slice(0, 2) : [...before, ...own].slice(0, 2);
  }

  // The stream -------------------------------------------------------------------------------------------------------

  #connect(): void {
    const { controller } = this.#options;
    const client = new SimulatedClient(controller, grpc.credentials.createInsecure(), {
      "grpc.use_local_subchannel_pool": 1, // a connection of its own, as every node has
      "grpc.keepalive_time_ms": 10_000,
      "grpc.keepalive_timeout_ms": 10_000,
      "grpc.max_receive_message_length": 64 * 2 ** 20,
      "grpc.initial_reconnect_backoff_ms": 200,
      "grpc.max_reconnect_backoff_ms": 1_000,
    });
    const session = client.session();
    this.#client = client;
    this.#session = session;
    session.on("data", (response: SessionResponse) => {
      if (this.#session === session) this.#receive(response);
    });
    const lost = () => this.#lost(session);
    for (const event of ["error", "end", "close"]) session.on(event, lost);
    session.write({ message: { $case: "hello", value: this.#hello() } });
  }

  #lost(session: Session): void {
    if (this.#session !== session) return;
    this.#drop();
    if (!this.#isUp) return;
    this.#retry = setTimeout(() => this.#connect(), RECONNECT_MS * (0.5 + Math.random()));
  }

  #drop(): void {
    const { phase } = this;
    if (phase === "free") this.phase = "away";
    const session = this.#session;
    this.#session = null;
    this.#welcomed = false;
    this.#write(this.#gatherer.take());
    if (this.#heartbeat) clearInterval(this.#heartbeat);
    this.#heartbeat = null;
    if (session !== null) {
      session.removeAllListeners();
      session.on("error", () => {}); // echoes of the end
      session.cancel();
    }
    this.#client?.close();
    this.#client = null;
    this.#options.changed();
  }

  get welcomed(): boolean {
    return this.#welcomed;
  }

  #report(key: string, message: AgentMessage): void {
    this.#reports.set(key, message);
    this.#send(message);
  }

  #send(message: AgentMessage): void {
    if (!this.#welcomed) return;
    const nowMs = performance.now();
    this.#write(this.#gatherer.add(message, { nowMs, ranks: this.ranks.length }));
    const { dueMs } = this.#gatherer;
    if (dueMs !== null)
      this.#gathering ??= setTimeout(() => this.#write(this.#gatherer.take()), dueMs - nowMs);
  }

  #write(reports: AgentMessage[]): void {
    if (this.#gathering && this.#gatherer.dueMs === null) {
      clearTimeout(this.#gathering);
      this.#gathering = null;
    }
    const [first] = reports;
    if (first === undefined) return;
    const all = { reports: reports.map((message) => ({ message })) };
    this.#session?.write({ message: reports.length === 1 ? first : { $case: "reports", value: all } });
  }

  #hello(): Hello {
    const { nodeId, slots, failureDomain } = this.#options;
    this.#heldTold = this.#heldText();
    return {
      nodeId,
      incarnation: this.#incarnation,
      slots,
      host: this.#options.host,
      device: "cpu",
      devices: [],
      version: productVersion(),
      jobId: this.#jobId,
      generation: BigInt(this.generation),
      ranks: this.#pages(),
      heldStates: this.#held(),
      term: this.#term,
      leaving: undefined,
      failureDomain,
      bootId: "",
      metricsUrl: "",
      peerPort: 7_100,
      selfCheck: this.#checked,
      unwatched: [],
    };
  }

  #beat(): void {
    if (this.phase === "running") this.#stopAt(this.#options.step());
    this.#sendHeartbeat();
  }

  #tellHeld(): void {
    if (this.#heldText() !== this.#heldTold) this.#sendHeartbeat();
  }

  #sendHeartbeat(): void {
    const text = this.#heldText();
    const heldStatesChanged = text !== this.#heldTold;
    this.#heldTold = text;
    this.#send({
      $case: "heartbeat",
      value: {
        generation: BigInt(this.generation),
        ranks: this.#pages(),
        heldStates: heldStatesChanged ? this.#held() : [],
        heldStatesChanged,
        term: this.#term,
        commandId: this.#commandId,
        counterRates: [],
      },
    });
  }

  #heldText(): string {
    return `${this.ranks} ${this.#states.map((state) => `${state.generation}-${state.step}`)}`;
  }

  #held(): Hello["heldStates"] {
    const { ranks } = this;
    const layout = this.#layout;
    const held = ranks.flatMap((rank) => this.#states.map((state) => ({ state, rank, layout })));
    return messages.heldStates(held);
  }

  #pages(): RankProgress[] {
    const isRunning = this.phase === "running";
    const entered = 1_000 * this.#applied + (Math.floor(performance.now()) % 1_000);
    return this.ranks.map((rank, at) => ({
      rank,
      pid: this.#pids[at]!,
      step: BigInt(this.#applied),
      microStep: rank % 4,
      phase: isRunning ? PHASES[entered % PHASES.length]! : "idle",
      layer: isRunning ? entered % 28 : -1,
      collectiveEntered: BigInt(isRunning ? entered : 0),
      collectiveCompleted: BigInt(isRunning ? entered - (rank % 2) : 0),
      collective: isRunning ? "all_gather" : "",
      group: isRunning ? "shard.0" : "",
      unchangedMs: 12n,
      blockedMs: 0n,
      generation: BigInt(this.generation),
      times: {
        steps: BigInt(this.#applied),
        work: BigInt(1e9 * this.#applied),
        forwardUs: BigInt(150_000 * this.#applied),
        backwardUs: BigInt(300_000 * this.#applied),
        optimizerUs: BigInt(20_000 * this.#applied),
        dataUs: BigInt(1_000 * this.#applied),
        waitUs: BigInt(29_000 * this.#applied),
      },
    }));
  }

  // Commands ---------------------------------------------------------------------------------------------------------

  #receive({ term, commandId, message }: SessionResponse): void {
    if (message === undefined || term < this.#term) return;
    if (message.$case === "refused") {
      this.#lost(this.#session!);
      return;
    }
    this.#term = term;
    this.#commandId = commandId;
    if (message.$case === "welcome") {
      this.#welcome(message.value.heartbeatIntervalMs);
      return;
    }
    if (this.#welcomed) this.#obey(message);
  }

  #welcome(heartbeatMs: number): void {
    this.#welcomed = true;
    if (this.phase === "away") this.phase = "free";
    for (const report of this.#reports.values()) this.#send(report);
    // As in life, nodes beat at different moments.
    this.#heartbeat = setTimeout(() => {
      this.#beat();
      this.#heartbeat = setInterval(() => this.#beat(), heartbeatMs);
    }, Math.random() * heartbeatMs);
    this.#options.changed();
  }

  #obey(command: Command): void {
    if (command.$case === "prepare") {
      this.#prepare(command.value);
      return;
    }
    if (command.$case === "selfCheck") {
      this.#selfCheck(command.value);
      return;
    }
    if (command.$case === "release") {
      this.#release(command.value.jobId);
      return;
    }
    if (!("generation" in command.value) || Number(command.value.generation) !== this.generation) return;
    const { generation } = this;
    switch (command.$case) {
      case "connect":
        for (const rank of this.ranks)
          this.#report(`connected/${rank}`, messages.connected({ generation, rank }));
        return;
      case "restore":
        this.#restore(command.value.source);
        return;
      case "run":
        if (this.phase === "forming") this.phase = "running";
        this.#options.changed();
        return;
      default:
        return;
    }
  }

  /** It finds nothing wrong, at once. */
  #selfCheck({ checkId, checks }: Extract<Command, { $case: "selfCheck" }>["value"]): void {
    this.#send(messages.checkBegun(checkId, Date.now()));
    const common = {
      ok: true,
      value: 100,
      unit: "GB/s",
      detail: "as it should be",
      seconds: 0.1,
      device: undefined,
    };
    const results = checks.map((name) => ({ name, ...common }));
    this.#checked = { checkId, results, busy: "" };
    this.#send({ $case: "selfCheckReport", value: this.#checked });
  }

  #prepare(value: Extract<Command, { $case: "prepare" }>["value"]): void {
    const generation = Number(value.generation);
    if (generation <= this.generation) return;
    const { dpReplicate, dpShard, sp } = value.layout!;
    const layout = `${dpReplicate}x${dpShard}x${sp}`;
    if (layout !== this.#layout || String(value.ranks) !== String(this.ranks)) {
      this.#states = [];
      this.#pids = value.ranks.map((rank) => 100_000 + rank);
    }
    this.generation = generation;
    this.ranks = value.ranks;
    this.#layout = layout;
    this.#jobId = value.jobId;
    this.#reports.clear();
    this.phase = "prepared";
    if (this.#options.answers()) this.answer();
    this.#options.changed();
  }

  #restore(source: Extract<Command, { $case: "restore" }>["value"]["source"]): void {
    const { generation } = this;
    const state =
      source === undefined || source.$case === "initial"
        ? { generation: 0, step: 0 }
        : messages.plain(source.value.state!);
    this.#applied = state.step;
    this.#states = state.step === 0 ? [] : [state];
    for (const rank of this.ranks) {
      this.#report(`restored/${rank}`, messages.restored({ generation, rank }, state));
    }
  }

  #release(jobId: string): void {
    if (jobId !== this.#jobId) return;
    this.generation = 0;
    this.ranks = [];
    this.#states = [];
    this.#jobId = "";
    this.#reports.clear();
    this.phase = "free";
    this.#report("released", { $case: "nodeReleased", value: { jobId } });
    this.#options.changed();
  }
}
