import type { AgentMessage, Command, StateName } from "../../controller/core/contract.js";
import type { Hello } from "../../gen/goku/v1/agent.pb.js";
import type { ErrorCode } from "../../job/errors.js";
import { type Fence, type FencedCommand, judgeCommand } from "../../worker/agent/fence.js";
import { Outbox, type Report } from "../../worker/agent/outbox.js";
import { planLeave } from "../../worker/agent/plan_leave.js";
import * as messages from "../support/agent_messages.js";
import type { Random } from "./random.js";
import { SimChecker } from "./sim_checker.js";
import type { Content } from "./sim_content.js";
import { type AgentLink, type CommandFrame, SIM_VERSION } from "./sim_controller.js";
import type { SimNode } from "./sim_node.js";
import { SimPreviewer } from "./sim_previewer.js";
import { SimProver } from "./sim_prover.js";
import type { SimRank } from "./sim_rank.js";
import { SimReplicator } from "./sim_replicator.js";
import { SimSupervisor } from "./sim_supervisor.js";
import { SimWatch } from "./sim_watch.js";
import type { SimWorld } from "./sim_world.js";
import { SimWriter } from "./sim_writer.js";

/** Until a Welcome says otherwise. */
const HEARTBEAT_MS = 1_000;
/** Between looks of an agent that is to end. */
const LEAVE_LOOK_MS = 100;
/** Phases of a rank that trains. */
const TRAINS: ReadonlySet<SimRank["phase"]> = new Set(["forward", "vote", "snapshot", "program"]);

/**
 * An agent process: its stream to a controller, and what it does when told. What it repeats after a Hello, what it obeys, how
 * it leaves and when it tries a save again is decided by the real code.
 */
export class SimAgent {
  readonly node: SimNode;
  readonly incarnation: string;
  readonly random: Random;
  readonly supervisor: SimSupervisor;
  readonly writer: SimWriter;
  readonly replicator: SimReplicator;
  readonly watch: SimWatch;
  readonly #previewer: SimPreviewer;
  readonly #world: SimWorld;
  readonly #outbox = new Outbox();
  alive = true;
  jobId: string | null = null;
  #heartbeatMs = HEARTBEAT_MS;
  #fence: Fence = { term: 0n, commandId: 0n, generation: 0n };
  /** Term of the last Welcome. */
  #welcomedTerm = 0;
  #link: AgentLink | null = null;
  /** Streams that it has opened so far. */
  streamCount = 0;
  #welcomed = false;
  #heldChanged = true;
  #controllerIndex = 0;
  /** It was asked to end: since when, and what it has done about that. */
  #leave: {
    sinceMs: number;
    graceMs: number;
    stopAsked: boolean;
    heldBegun: boolean;
    finals: number;
  } | null = null;
  readonly #checker: SimChecker;
  readonly #prover: SimProver;

  constructor(node: SimNode, incarnation: string, world: SimWorld, random: Random) {
    this.node = node;
    this.incarnation = incarnation;
    this.#world = world;
    this.random = random;
    this.jobId = node.memory.jobId;
    this.supervisor = new SimSupervisor(this, world);
    this.writer = new SimWriter(this, world, random.fork());
    this.replicator = new SimReplicator(this, world);
    this.#previewer = new SimPreviewer(this, world);
    this.watch = new SimWatch(this, world);
    this.#prover = new SimProver(this, world);
    this.#checker = new SimChecker(this, world, (message) => this.#say(message));
    this.later(random.between(1, 50), () => this.#connect());
    this.later(random.between(1, HEARTBEAT_MS), () => this.#beat());
  }

  get generation(): number {
    return this.supervisor.generation;
  }
  get layout(): string {
    return this.supervisor.layout;
  }
  get ranks(): ReadonlyMap<number, SimRank> {
    return this.supervisor.ranks;
  }
  get drawing(): StateName | null {
    return this.#previewer.drawing;
  }

  later(delayMs: number, run: () => void): void {
    this.#world.scheduler.after(delayMs, () => {
      if (this.alive) run();
    });
  }

  /** The process ends, and all its ranks with it. */
  crash(): void {
    if (!this.alive) return;
    this.alive = false;
    this.#previewer.end();
    this.#link?.close("agent", "agent ended");
    this.supervisor.end();
  }

  rankDies(rank: SimRank, signal: string): void {
    if (!rank.alive) return;
    this.#previewer.end();
    this.supervisor.rankDies(rank, signal);
  }

  // The end -----------------------------------------------------------------------------------------------------------

  /** It is asked to end: tells the controller, does what that says, and goes when all is durable or the grace is over. */
  leave(graceMs: number, gone: () => void): void {
    if (this.#leave !== null) return;
    const finals = this.writer.finalCount;
    this.#leave = {
      sinceMs: this.#nowMs,
      graceMs,
      stopAsked: false,
      heldBegun: false,
      finals,
    };
    this.#say(this.#leaving()!);
    this.#departs(gone);
    // From then on its generation may be ended, whether it has gone or not.
    this.later(graceMs, () => {
      for (const { group } of this.ranks.values()) if (group !== null) group.disturbed = true;
    });
  }

  #departs(gone: () => void): void {
    const leave = this.#leave!;
    const stages = [...this.ranks.values()].map(stageOf);
    const { kind } = planLeave({
      passedMs: this.#nowMs - leave.sinceMs,
      graceMs: leave.graceMs,
      linked: this.#welcomed,
      holds: this.jobId !== null,
      stages,
      stopAsked: leave.stopAsked,
      finalBegun: this.writer.finalCount > leave.finals || stages.includes("finished"),
      heldBegun: leave.heldBegun,
      idle: this.writer.idle,
      saveMs: null,
    });
    if (kind === "end") {
      gone();
      return;
    }
    if (kind === "askStop") this.#askStop();
    if (kind === "saveHeld") {
      leave.heldBegun = true;
      const state = this.supervisor.newestHeld();
      if (state !== null) this.supervisor.saveHeld(state);
    }
    this.later(LEAVE_LOOK_MS, () => this.#departs(gone));
  }

  #leaving() {
    if (this.#leave === null) return undefined;
    const { sinceMs, graceMs } = this.#leave;
    return messages.leaving(sinceMs + graceMs - this.#nowMs);
  }

  #askStop(): void {
    if (this.#leave !== null) this.#leave.stopAsked = true;
    for (const rank of this.ranks.values()) rank.group?.requestStop(rank);
  }

  // Reports -----------------------------------------------------------------------------------------------------------

  /** Kept and repeated as the real agent does. */
  report(message: AgentMessage): void {
    const isSent = this.#say(message);
    this.#outbox.add(message as Report, this.#nowMs, isSent);
  }

  /** Of an older generation it is said, and forgotten. */
  reportExited(message: AgentMessage, generation: number): void {
    if (generation === this.generation) this.report(message);
    else this.#say(message);
  }

  reportCommitted(generation: number, state: StateName, uri: string): void {
    this.report(messages.committed(generation, state, uri));
  }

  reportSaveFailed(generation: number, state: StateName, code: ErrorCode): void {
    this.report(messages.saveFailed(generation, state, code));
  }

  saveSettled(): void {
    this.#outbox.saveSettled();
  }

  /** False: nobody is there to hear it. */
  #say(message: AgentMessage): boolean {
    if (!this.alive || !this.#welcomed || this.#link === null) return false;
    this.#link.sendUp(message);
    return true;
  }

  inventoryChanged(): void {
    this.#heldChanged = true;
  }

  // The stream --------------------------------------------------------------------------------------------------------

  #connect(): void {
    const link = this.#world.connect(this, this.#controllerIndex);
    if (link === null) {
      this.#tryNext();
      return;
    }
    this.#link = link;
    this.streamCount += 1;
    this.#welcomed = false;
    link.atAgent(
      (frame) => this.#onCommand(frame, link),
      () => this.#dropped(link),
    );
    link.sendUp({ $case: "hello", value: this.#hello() });
    this.later(4_000, () => {
      if (this.#link !== link || this.#welcomed) return;
      link.close("agent", "no Welcome");
      this.#dropped(link);
    });
  }

  #dropped(link: AgentLink): void {
    if (this.#link !== link || !this.alive) return;
    this.#link = null;
    this.#welcomed = false;
    this.#tryNext();
  }

  #tryNext(): void {
    this.#controllerIndex = (this.#controllerIndex + 1) % this.#world.controllerCount;
    this.later(this.random.between(100, 700), () => this.#connect());
  }

  cutLink(): void {
    this.#link?.cut(3_000);
  }

  #hello(): Hello {
    const { node } = this;
    this.#heldChanged = false;
    return {
      nodeId: node.nodeId,
      incarnation: this.incarnation,
      slots: node.slots,
      host: "127.0.0.1",
      device: "cpu",
      devices: [],
      version: SIM_VERSION,
      jobId: this.jobId ?? "",
      generation: BigInt(this.generation),
      ranks: [...this.ranks.values()].map((rank) => rank.progress()),
      heldStates: messages.heldStates(node.memory.held()),
      term: this.#fence.term,
      leaving: this.#leaving()?.value,
      failureDomain: node.failureDomain,
      bootId: node.bootId,
      metricsUrl: "",
      peerPort: 7_000,
      selfCheck: this.#checker.last,
      unwatched: [],
    };
  }

  #beat(): void {
    this.later(this.#heartbeatMs, () => this.#beat());
    this.sendHeartbeat();
  }

  sendHeartbeat(): void {
    if (!this.#welcomed) return;
    const heldStatesChanged = this.#heldChanged;
    this.#heldChanged = false;
    this.#say({
      $case: "heartbeat",
      value: {
        generation: BigInt(this.generation),
        ranks: [...this.ranks.values()].map((rank) => rank.progress()),
        heldStates: heldStatesChanged ? messages.heldStates(this.node.memory.held()) : [],
        heldStatesChanged,
        term: this.#fence.term,
        commandId: this.#fence.commandId,
        counterRates: this.watch.rates,
      },
    });
  }

  // Commands ----------------------------------------------------------------------------------------------------------

  #onCommand(frame: CommandFrame, link: AgentLink): void {
    if (!this.alive || this.#link !== link) return;
    const { message } = frame;
    if (message.$case === "refused") {
      link.close("agent", "refused");
      this.#dropped(link);
      return;
    }
    const fenced = { term: BigInt(frame.term), commandId: BigInt(frame.commandId), ...scopeOf(message) };
    const verdict = judgeCommand(this.#fence, fenced);
    if (verdict.kind === "ignore") return;
    this.#fence = verdict.fence;
    if (message.$case === "welcome") this.#onWelcome(message.value.heartbeatIntervalMs, frame.term);
    else {
      this.#world.obeyed(this, frame);
      this.#obey(message);
    }
  }

  #onWelcome(heartbeatMs: number, term: number): void {
    this.#welcomed = true;
    this.#heartbeatMs = heartbeatMs;
    const isNew = term !== this.#welcomedTerm;
    this.#welcomedTerm = term;
    for (const report of this.#outbox.repeat(this.#nowMs, isNew)) this.#say(report);
  }

  #obey(command: Command): void {
    const { supervisor } = this;
    switch (command.$case) {
      case "release":
        this.#release(command.value.jobId);
        return;
      case "selfCheck":
        this.#checker.begin(command.value);
        return;
      case "selfCheckConnect":
        this.#checker.connect(command.value);
        return;
      case "prepare":
        supervisor.prepare(command.value);
        return;
      case "abort":
        this.#previewer.end();
        supervisor.abort();
        return;
      case "connect":
        supervisor.connect(command.value);
        this.#proveStorage(command.value);
        return;
      case "restore":
        supervisor.restore(command.value);
        return;
      case "run":
        supervisor.run();
        return;
      case "requestStop":
        this.#previewer.end();
        this.#askStop();
        return;
      case "requestYield":
        this.#previewer.end();
        for (const rank of supervisor.present) rank.group?.requestYield();
        return;
      case "requestSave":
        for (const rank of supervisor.present) rank.group?.requestSave();
        return;
      case "killRank":
        supervisor.kill(command.value.rank);
        return;
      case "tellProgress":
        this.sendHeartbeat();
        return;
      case "drawPreview":
        this.#outbox.previewAnswered(command.value.state!);
        this.#previewer.draw(command.value);
        return;
      case "releasePreview":
        this.#outbox.previewAnswered(command.value.state!);
        supervisor.releasePreview(messages.plain(command.value.state!));
        return;
      case "saveSnapshot":
        if (this.#leave !== null) this.#leave.heldBegun = true;
        supervisor.saveHeld(messages.plain(command.value.state!));
        return;
      default:
        return; // scores are for people
    }
  }

  #proveStorage({ generation, nodes, proveStorage }: Extract<Command, { $case: "connect" }>["value"]): void {
    const { nodeId } = this.node;
    const others = nodes.map((member) => member.nodeId).filter((other) => other !== nodeId);
    if (proveStorage) this.#prover.prove(Number(generation), others);
  }

  /** A generation begins here. */
  prepared(jobId: string): void {
    this.#outbox.prepared();
    this.watch.begin();
    if (this.jobId !== jobId) {
      this.#outbox.forgetJob();
      this.writer.abandon();
    }
    this.jobId = jobId;
    this.node.memory.jobId = jobId;
    this.#previewer.end();
  }

  keepReplica(set: string, content: Content, kept: StateName | null): void {
    const { keeps, safe } = this.supervisor;
    if (!keeps.has(set)) throw new Error(`${this.node.nodeId} is sent ${set}, unasked`);
    this.node.memory.keepReplica(set, content, kept ?? safe);
    this.inventoryChanged();
  }

  #release(jobId: string): void {
    if (this.jobId === jobId) {
      this.#previewer.end();
      this.supervisor.released();
      this.writer.abandon();
      this.node.memory.clear();
      this.#outbox.forgetJob();
      this.jobId = null;
    }
    this.later(this.random.between(10, 200), () => {
      if (this.jobId !== jobId) this.report({ $case: "nodeReleased", value: { jobId } });
    });
  }

  get #nowMs(): number {
    return this.#world.scheduler.nowMs;
  }
}

function stageOf({ phase }: SimRank): "running" | "finished" | "left" {
  if (TRAINS.has(phase)) return "running";
  return phase === "finished" ? "finished" : "left";
}

function scopeOf(message: Command): Pick<FencedCommand, "scope" | "generation"> {
  switch (message.$case) {
    case "welcome":
    case "refused":
    case "release":
    case "selfCheck":
    case "selfCheckConnect":
      return { scope: "none", generation: 0n };
    case "prepare":
      return { scope: "prepare", generation: message.value.generation };
    case "abort":
      return { scope: "until", generation: message.value.generation };
    default:
      return { scope: "within", generation: message.value.generation };
  }
}
