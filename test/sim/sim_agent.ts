import type { AgentMessage, Command, StateName } from "../../controller/core/contract.js";
import type { Hello, SnapshotSource } from "../../gen/goku/v1/agent.pb.js";
import * as messages from "./agent_messages.js";
import type { Random } from "./random.js";
import { readState } from "./read_state.js";
import type { Scheduler } from "./scheduler.js";
import { type AgentLink, type CommandFrame, SIM_VERSION } from "./sim_controller.js";
import { type Content, SimMemory } from "./sim_memory.js";
import { SimRank } from "./sim_rank.js";
import type { SimJob, TrainGroup, VotedReplicas } from "./train_group.js";

/** What an agent needs of the world. */
export interface SimWorld {
  readonly scheduler: Scheduler;
  /** A new stream to the controller with this number; null: it cannot be reached. */
  connect(agent: SimAgent, controllerIndex: number): AgentLink | null;
  readonly controllerCount: number;
  group(generation: number, jobId: string, worldSize: number): TrainGroup;
  node(nodeId: string): SimNode;
  job(jobId: string): SimJob;
  /** A command was obeyed (not refused by a fence). */
  obeyed(agent: SimAgent, frame: CommandFrame): void;
  rankExited(agent: SimAgent, rank: SimRank): void;
  /** A state turned out unreadable: a checkpoint's address, or job@generation-step. */
  foundBad(key: string): void;
}

/** A machine. Its memory outlives agent processes, and is lost when the machine goes down. */
export class SimNode {
  readonly nodeId: string;
  readonly slots: number;
  /** Empty: nothing else fails with it. */
  readonly failureDomain: string;
  memory = new SimMemory();
  agent: SimAgent | null = null;
  up = true;
  #incarnations = 0;

  constructor(nodeId: string, slots: number, failureDomain: string) {
    this.nodeId = nodeId;
    this.slots = slots;
    this.failureDomain = failureDomain;
  }

  startAgent(world: SimWorld, random: Random): void {
    if (this.agent?.alive || !this.up) return;
    this.#incarnations += 1;
    this.memory.settle();
    this.agent = new SimAgent(this, `${this.nodeId}#${this.#incarnations}`, world, random);
  }
}

/** Until a Welcome says otherwise. */
const HEARTBEAT_MS = 1_000;

/** An agent process as the protocol wants it: fenced by (term, generation, id), it repeats itself after a reconnect. */
export class SimAgent {
  readonly node: SimNode;
  readonly incarnation: string;
  alive = true;
  generation = 0;
  jobId: string | null = null;
  layout = "";
  readonly ranks = new Map<number, SimRank>();
  readonly random: Random;
  readonly #world: SimWorld;
  #heartbeatMs = HEARTBEAT_MS;
  #places: number[] = [];
  /** Of the present generation: does anybody send replicas, where to do its own ranks, and of which ranks does it keep some. */
  replicate = false;
  readonly keeperOf = new Map<number, string>();
  #keeps = new Set<string>();
  /** A rank on each node, to name when that node does not answer. */
  readonly #rankOn = new Map<string, number>();
  #term = 0;
  #commandId = 0;
  #link: AgentLink | null = null;
  #welcomed = false;
  /** Reports of the present generation, repeated after every Hello. */
  #reports = new Map<string, AgentMessage>();
  #commitReport: AgentMessage | null = null;
  #heldChanged = true;
  #controllerIndex = 0;
  #pidLast = 0;
  /** When a leading controller last had this agent's stream. */
  connectedMs = 0;
  /** It was asked to end, and will have by then. */
  #leavesMs: number | null = null;

  constructor(node: SimNode, incarnation: string, world: SimWorld, random: Random) {
    this.node = node;
    this.incarnation = incarnation;
    this.#world = world;
    this.random = random;
    this.jobId = node.memory.jobId;
    this.connectedMs = world.scheduler.nowMs;
    this.#later(random.between(1, 50), () => this.#connect());
    this.#later(random.between(1, HEARTBEAT_MS), () => this.#beat());
  }

  /** The process ends, and all its ranks with it. */
  crash(): void {
    if (!this.alive) return;
    this.alive = false;
    this.#link?.close("agent", "agent ended");
    for (const rank of this.ranks.values()) this.#end(rank);
    this.ranks.clear();
  }

  /** One rank process ends by itself or by somebody's hand. */
  rankDies(rank: SimRank, signal: string): void {
    if (!rank.alive) return;
    this.#end(rank);
    this.ranks.delete(rank.rank);
    this.#later(this.random.between(1, 20), () =>
      this.reportExited(rank.generation, rank.rank, rank.pid, signal),
    );
  }

  #end(rank: SimRank): void {
    rank.alive = false;
    const { group } = rank;
    this.#world.rankExited(this, rank);
    rank.turnAway();
    group?.memberDied(rank);
  }

  /** It is asked to end: tells the controller, does what that says, and goes when all is durable or the grace is over. */
  leave(graceMs: number, gone: () => void): void {
    if (this.#leavesMs !== null) return;
    const { scheduler } = this.#world;
    this.#leavesMs = scheduler.nowMs + graceMs;
    this.#send(this.#leaving());
    this.#later(Math.floor(graceMs / 4), () => this.#stopAlone());
    const look = () => {
      const finished = [...this.ranks.keys()].every((rank) => this.#reports.has(`finished/${rank}`));
      const saved = this.jobId === null || (this.ranks.size > 0 && finished);
      if (saved) gone();
      else this.#later(100, look);
    };
    this.#later(100, look);
    this.#later(graceMs, gone);
  }

  #leaving() {
    return messages.leaving(this.#leavesMs! - this.#world.scheduler.nowMs);
  }

  /** No controller has answered: its ranks ask for the end themselves. */
  #stopAlone(): void {
    for (const { group } of this.ranks.values()) if (group !== null) group.wantsStop = true;
  }

  inventoryChanged(): void {
    this.#heldChanged = true;
  }

  // Reports -----------------------------------------------------------------------------------------------------------

  reportConnected(rank: SimRank): void {
    this.#report(`connected/${rank.rank}`, messages.connected(rank));
  }

  reportStep(group: TrainGroup, step: number, stepSeconds: number): void {
    const { generation, replicated } = group;
    const replicatedStep = replicated?.generation === generation ? replicated.step : 0;
    this.#send(messages.step(generation, step, { stepSeconds, replicatedStep }));
  }

  reportFinished(rank: SimRank, state: StateName, reason: "steps" | "stop"): void {
    this.#report(`finished/${rank.rank}`, messages.finished(rank, state, reason));
  }

  reportFailed(rank: SimRank, error: messages.Failure): void {
    this.#report(`failed/${rank.rank}`, messages.failed(rank, error));
  }

  reportExited(generation: number, rank: number, pid: number, signal: string): void {
    const message = messages.exited({ generation, rank, pid, signal });
    if (generation === this.generation) this.#report(`exited/${rank}`, message);
    else this.#send(message);
  }

  reportCommitted(generation: number, state: StateName, uri: string): void {
    this.#commitReport = messages.committed(generation, state, uri);
    this.#send(this.#commitReport);
  }

  reportSaveFailed(generation: number, state: StateName): void {
    this.#send(messages.saveFailed(generation, state));
  }

  #report(key: string, message: AgentMessage): void {
    this.#reports.delete(key);
    this.#reports.set(key, message);
    this.#send(message);
  }

  #send(message: AgentMessage): void {
    if (this.alive && this.#welcomed) this.#link?.sendUp(message);
  }

  // The stream --------------------------------------------------------------------------------------------------------

  #connect(): void {
    const link = this.#world.connect(this, this.#controllerIndex);
    if (link === null) {
      this.#tryNext();
      return;
    }
    this.#link = link;
    this.#welcomed = false;
    link.atAgent(
      (frame) => this.#onCommand(frame, link),
      () => this.#dropped(link),
    );
    link.sendUp({ $case: "hello", value: this.#hello() });
    this.#later(4_000, () => {
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
    this.#later(this.random.between(100, 700), () => this.#connect());
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
      version: SIM_VERSION,
      jobId: this.jobId ?? "",
      generation: BigInt(this.generation),
      ranks: [...this.ranks.values()].map((rank) => rank.progress()),
      heldStates: messages.heldStates(this.node.memory),
      term: BigInt(this.#term),
      leaving: this.#leavesMs === null ? undefined : this.#leaving().value,
      failureDomain: node.failureDomain,
      peerPort: 7_000,
    };
  }

  #beat(): void {
    this.#later(this.#heartbeatMs, () => this.#beat());
    this.#sendHeartbeat();
  }

  #sendHeartbeat(): void {
    if (!this.#welcomed) return;
    this.connectedMs = this.#world.scheduler.nowMs;
    const heldStatesChanged = this.#heldChanged;
    this.#heldChanged = false;
    this.#send({
      $case: "heartbeat",
      value: {
        generation: BigInt(this.generation),
        ranks: [...this.ranks.values()].map((rank) => rank.progress()),
        heldStates: heldStatesChanged ? messages.heldStates(this.node.memory) : [],
        heldStatesChanged,
        term: BigInt(this.#term),
        commandId: BigInt(this.#commandId),
      },
    });
  }

  #later(delayMs: number, run: () => void): void {
    this.#world.scheduler.after(delayMs, () => {
      if (this.alive) run();
    });
  }

  // Commands ----------------------------------------------------------------------------------------------------------

  #onCommand(frame: CommandFrame, link: AgentLink): void {
    if (!this.alive || this.#link !== link) return;
    if (frame.message.$case === "refused") {
      link.close("agent", "refused");
      this.#dropped(link);
      return;
    }
    if (frame.term < this.#term) return;
    if (frame.term === this.#term && frame.commandId <= this.#commandId) return;
    this.#term = frame.term;
    this.#commandId = frame.commandId;
    this.#obey(frame.message, frame);
  }

  #obey(command: Command, frame: CommandFrame): void {
    switch (command.$case) {
      case "welcome":
        this.#welcomed = true;
        this.#heartbeatMs = command.value.heartbeatIntervalMs;
        this.connectedMs = this.#world.scheduler.nowMs;
        for (const report of this.#reports.values()) this.#send(report);
        if (this.#commitReport) this.#send(this.#commitReport);
        return;
      case "release":
        this.#world.obeyed(this, frame);
        this.#release(command.value.jobId);
        return;
      case "refused":
        return;
      case "prepare":
        if (Number(command.value.generation) < this.generation) return;
        this.#world.obeyed(this, frame);
        this.#prepare(command.value);
        return;
      case "abort":
        if (Number(command.value.generation) < this.generation) return;
        this.#world.obeyed(this, frame);
        for (const rank of this.ranks.values()) this.#abort(rank);
        return;
      default:
        if (Number(command.value.generation) !== this.generation) return;
        this.#world.obeyed(this, frame);
        this.#obeyPresent(command);
    }
  }

  #obeyPresent(
    command: Exclude<Command, { $case: "welcome" | "release" | "refused" | "prepare" | "abort" }>,
  ): void {
    const ranks = [...this.ranks.values()].filter((rank) => rank.group?.generation === this.generation);
    switch (command.$case) {
      case "connect":
        for (const { rank, nodeId } of command.value.members) this.#rankOn.set(nodeId, rank);
        for (const rank of ranks) rank.later(1, () => rank.group?.connect(rank));
        return;
      case "restore":
        for (const rank of ranks) this.#restore(rank, command.value.source);
        return;
      case "run":
        for (const rank of ranks) rank.later(1, () => rank.group?.run(rank));
        return;
      case "requestStop":
        for (const rank of ranks) if (rank.group) rank.group.wantsStop = true;
        return;
      case "requestSave":
        for (const rank of ranks) if (rank.group) rank.group.wantsSave = true;
        return;
      case "killRank":
        this.#kill(command.value.rank);
        return;
      case "saveSnapshot":
        this.#saveSnapshot(messages.plain(command.value.state!));
        return;
    }
  }

  #saveSnapshot(state: StateName): void {
    const group = this.#world.group(this.generation, this.jobId!, 0);
    for (const rank of this.#places) group.saveHeld(this, { rank, set: `${this.layout}/${rank}`, state });
  }

  #prepare(value: Extract<Command, { $case: "prepare" }>["value"]): void {
    const generation = Number(value.generation);
    this.keeperOf.clear();
    for (const { rank, nodeId } of value.replicas) this.keeperOf.set(rank, nodeId);
    if (generation === this.generation) return; // a repeat: its reports were repeated after Hello
    this.generation = generation;
    this.jobId = value.jobId;
    this.node.memory.jobId = value.jobId;
    const { dpReplicate, dpShard, sp } = value.layout!;
    const layout = `${dpReplicate}x${dpShard}x${sp}`;
    this.#reports.clear();
    for (const rank of [...this.ranks.values()]) {
      const keep = layout === this.layout && value.ranks.includes(rank.rank);
      if (!keep) {
        this.#end(rank);
        this.ranks.delete(rank.rank);
      }
    }
    // Whatever an older generation was saving may be overwritten now; that save fails if it is not over in time.
    this.node.memory.endSaves();
    this.layout = layout;
    this.replicate = value.replicate;
    this.#keeps = new Set(value.keeps.map((rank) => `${layout}/${rank}`));
    this.#rankOn.clear();
    this.#places = value.ranks;
    for (const number of value.ranks) this.#place(number, generation, dpReplicate * dpShard * sp);
  }

  /** A living process leaves its old work and takes the new place; a missing one is started. */
  #place(number: number, generation: number, worldSize: number): void {
    let rank = this.ranks.get(number);
    let delayMs: number;
    if (rank === undefined) {
      this.#pidLast += 1;
      rank = new SimRank({
        rank: number,
        pid: this.#pidLast,
        layout: this.layout,
        scheduler: this.#world.scheduler,
        random: this.random.fork(),
      });
      this.ranks.set(number, rank);
      delayMs = this.random.between(300, 1_500);
    } else {
      delayMs = this.#leaveMs(rank);
      rank.turnAway();
    }
    rank.generation = generation;
    const process = rank;
    process.later(delayMs, () => {
      const group = this.#world.group(generation, this.jobId!, worldSize);
      process.entered = 0;
      process.completed = 0;
      process.enter("idle");
      group.join(process, this);
      this.inventoryChanged();
      this.#sendHeartbeat(); // before RankReady: the state to restore is chosen from all inventories
      this.#report(`ready/${number}`, messages.ready(process, this.node.memory.states(process.set)));
    });
  }

  /** A rank in a collective is freed at once; one that computes notices at its next collective. */
  #leaveMs(rank: SimRank): number {
    return rank.phase === "forward" ? this.random.between(2, 400) : this.random.between(1, 10);
  }

  #abort(rank: SimRank): void {
    if (rank.group === null || rank.phase === "starting") return;
    const delayMs = this.#leaveMs(rank);
    rank.turnAway();
    rank.later(delayMs, () => {
      rank.enter("idle");
      this.reportFailed(rank, { code: "COMM_ABORTED", operation: "" });
    });
  }

  #restore(rank: SimRank, source: Extract<Command, { $case: "restore" }>["value"]["source"]): void {
    if (this.#reports.has(`restored/${rank.rank}`) || rank.phase === "restore") return;
    rank.enter("restore");
    const { job } = rank.group!;
    if (source?.$case === "snapshot") {
      const own = this.node.memory.findOwn(rank.set, messages.plain(source.value.state!));
      if (own !== null && messages.layoutText(source.value.layout!) === this.layout) {
        rank.later(rank.random.between(5, 50), () => this.#restored(rank, { ...own }, true));
      } else rank.later(rank.random.between(20, 300), () => this.#restoreFromPeers(rank, source.value));
    } else if (source?.$case === "checkpoint") {
      const { uri } = source.value;
      rank.later(rank.random.between(50, 500), () => {
        const found = job.durable.find((d) => d.uri === uri);
        if (found === undefined || found.corrupt) {
          this.#world.foundBad(uri);
          this.#restoreFails(rank, { code: "CHECKPOINT_CORRUPT", operation: "restore" });
        } else this.#restored(rank, { ...found.content }, false);
      });
    } else {
      rank.later(rank.random.between(10, 100), () => {
        this.#restored(rank, { state: { generation: 0, step: 0 }, digest: 1 }, false);
      });
    }
  }

  #restoreFromPeers(rank: SimRank, source: SnapshotSource): void {
    const { job } = rank.group!;
    const state = messages.plain(source.state!);
    const found = readState({
      source,
      memory: this.node.memory,
      layout: this.layout,
      rank: rank.rank,
      nodeOf: (nodeId) => this.#world.node(nodeId),
      rankOn: (nodeId) => this.#rankOn.get(nodeId)!,
    });
    const durable = job.durable.find(({ uri, corrupt }) => uri === source.durable?.uri && !corrupt);
    const content = found.content ?? durable?.content ?? null;
    if (content !== null) {
      this.#restored(rank, { ...content }, false);
      return;
    }
    if (found.failure!.code === "SNAPSHOT_MISSING")
      this.#world.foundBad(`${job.jobId}@${state.generation}-${state.step}`);
    this.#restoreFails(rank, found.failure!);
  }

  /** Sends a snapshot to the rank's keeper; false: it is not there, or of another generation. */
  push(rank: SimRank, content: Content): boolean {
    const keeper = this.#world.node(this.keeperOf.get(rank.rank)!).agent;
    if (keeper === null || !keeper.alive || keeper.generation !== this.generation) return false;
    if (!keeper.#keeps.has(rank.set)) throw new Error(`${keeper.node.nodeId} is sent ${rank.set}, unasked`);
    keeper.node.memory.keepReplica(rank.set, content);
    keeper.inventoryChanged();
    return true;
  }

  /**
   * What a vote means for the memory of a rank and its node. With the first one every rank's state is whole in the present
   * layout: older layouts go. Snapshots and replicas of ranks that are elsewhere now go when a state of this
   * generation is replicated, or where nothing is.
   */
  heardVote(rank: SimRank, replicas: VotedReplicas | null, isFirst: boolean): void {
    const { memory } = this.node;
    const isSettled = replicas === null || replicas.isSettled;
    const isPlace = (set: string) => this.#places.some((place) => set === `${this.layout}/${place}`);
    memory.pinReplicated(rank.set, replicas?.replicated ?? null, replicas?.sent ?? null);
    if (replicas !== null) memory.keepReplicasOf(replicas.replicated, replicas.sent);
    if (isSettled) {
      memory.keepSets(isPlace);
      memory.keepReplicas((set) => this.#keeps.has(set));
    } else if (isFirst) {
      const isPresent = (set: string) => set.startsWith(`${this.layout}/`);
      memory.keepSets(isPresent);
      memory.keepReplicas(isPresent);
    }
    this.inventoryChanged();
  }

  #restoreFails(rank: SimRank, failure: messages.Failure): void {
    rank.enter("idle");
    rank.turnAway();
    this.reportFailed(rank, failure);
  }

  #restored(rank: SimRank, content: SimRank["content"] & object, held: boolean): void {
    const group = rank.group!;
    rank.content = content;
    rank.snapshotWhole = held;
    rank.snapshotState = held ? content.state : null;
    if (!held) group.snapshot({ rank, agent: this }, false);
    group.restored.set(rank.rank, content.state);
    this.#report(`restored/${rank.rank}`, messages.restored(rank, content.state));
  }

  #kill(number: number): void {
    const rank = this.ranks.get(number);
    if (rank === undefined) this.reportExited(this.generation, number, 0, "SIGKILL");
    else if (rank.unkillable) rank.killPending = true;
    else this.rankDies(rank, "SIGKILL");
  }

  #release(jobId: string): void {
    if (this.jobId === jobId) {
      for (const rank of this.ranks.values()) this.#end(rank);
      this.ranks.clear();
      this.node.memory.clear();
      this.#reports.clear();
      this.#commitReport = null;
      this.jobId = null;
      this.generation = 0;
    }
    this.#later(this.random.between(10, 200), () => {
      if (this.jobId !== jobId) this.#send({ $case: "nodeReleased", value: { jobId } });
    });
  }
}
