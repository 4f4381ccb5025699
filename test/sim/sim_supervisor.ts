import type { Command, StateName } from "../../controller/core/contract.js";
import { compareStates } from "../../controller/core/state_name.js";
import type { SnapshotSource } from "../../gen/goku/v1/agent.pb.js";
import { type LeftOut, ROLL_BACK, withLeftOut } from "../../job/left_out.js";
import * as messages from "../support/agent_messages.js";
import { readState } from "./read_state.js";
import type { SimAgent } from "./sim_agent.js";
import { type Content, INITIAL, stored } from "./sim_content.js";
import type { SimMemory } from "./sim_memory.js";
import { SimRank } from "./sim_rank.js";
import { badCheckpoint, type SimWorld } from "./sim_world.js";

type Prepare = Extract<Command, { $case: "prepare" }>["value"];
type Source = Extract<Command, { $case: "restore" }>["value"]["source"];

/** The rank processes of a node, from one generation to the next, and what its memory holds for them. */
export class SimSupervisor {
  readonly ranks = new Map<number, SimRank>();
  generation = 0;
  layout = "";
  worldSize = 0;
  places: number[] = [];
  /** Does anybody send replicas, where to do its own ranks, and of which ranks does it keep some. */
  replicate = false;
  readonly keeperOf = new Map<number, string>();
  keeps = new Set<string>();
  /** What a replica must stay of where its sender, which may be new, does not say it. */
  safe: StateName | null = null;
  readonly #agent: SimAgent;
  readonly #world: SimWorld;
  /** A rank on each node, to name when that node does not answer. */
  readonly #rankOn = new Map<string, number>();
  #pidLast = 0;
  /** Of the present generation: a step is done, and one whose state is replicated. */
  #stepped = false;
  #settled = false;
  /** Steps that are not computed, beside those that the restored state names. */
  #rollBacks: readonly LeftOut[] = [];
  /** Ranks that have told what they restored. */
  readonly #restored = new Set<number>();

  constructor(agent: SimAgent, world: SimWorld) {
    this.#agent = agent;
    this.#world = world;
  }

  get #memory(): SimMemory {
    return this.#agent.node.memory;
  }

  /** Its ranks of the present generation. */
  get present(): SimRank[] {
    return [...this.ranks.values()].filter((rank) => rank.group?.generation === this.generation);
  }

  end(): void {
    for (const rank of this.ranks.values()) this.#end(rank);
    this.ranks.clear();
  }

  /** The job is over here. */
  released(): void {
    this.end();
    this.generation = 0;
    this.safe = null;
  }

  /** One rank process ends by itself or by somebody's hand. */
  rankDies(rank: SimRank, signal: string): void {
    if (!rank.alive) return;
    this.#end(rank);
    this.ranks.delete(rank.rank);
    this.#agent.later(this.#agent.random.between(1, 20), () => {
      const { generation, rank: number, pid } = rank;
      this.#agent.reportExited(messages.exited({ generation, rank: number, pid, signal }), generation);
    });
  }

  #end(rank: SimRank): void {
    rank.alive = false;
    const { group } = rank;
    this.#world.rankExited(this.#agent, rank);
    rank.turnAway();
    group?.memberDied(rank);
  }

  prepare(value: Prepare): void {
    const generation = Number(value.generation);
    this.keeperOf.clear();
    for (const { rank, nodeId } of value.replicas) this.keeperOf.set(rank, nodeId);
    if (generation === this.generation) return; // a repeat: its reports were repeated after Hello
    if (this.#agent.jobId !== value.jobId) this.#forgetJob();
    this.generation = generation;
    this.#agent.prepared(value.jobId);
    const { dpReplicate, dpShard, sp } = value.layout!;
    const layout = `${dpReplicate}x${dpShard}x${sp}`;
    for (const rank of [...this.ranks.values()]) {
      const keep = layout === this.layout && value.ranks.includes(rank.rank);
      if (!keep) {
        this.#end(rank);
        this.ranks.delete(rank.rank);
      }
    }
    this.layout = layout;
    this.worldSize = dpReplicate * dpShard * sp;
    this.replicate = value.replicate;
    this.keeps = new Set(value.keeps.map((rank) => `${layout}/${rank}`));
    this.#rankOn.clear();
    this.#restored.clear();
    this.#stepped = false;
    this.#settled = false;
    this.places = value.ranks;
    for (const number of value.ranks) this.#place(number, generation);
  }

  /** Another job takes the node. */
  #forgetJob(): void {
    this.end();
    this.safe = null;
    if (this.#memory.jobId !== null) this.#memory.clear();
  }

  /** A living process leaves its old work and takes the new place; a missing one is started. */
  #place(number: number, generation: number): void {
    const { random } = this.#agent;
    const { worldSize } = this;
    let rank = this.ranks.get(number);
    let delayMs: number;
    if (rank === undefined) {
      this.#pidLast += 1;
      rank = new SimRank({
        rank: number,
        pid: this.#pidLast,
        layout: this.layout,
        scheduler: this.#world.scheduler,
        random: random.fork(),
      });
      this.ranks.set(number, rank);
      delayMs = random.between(300, 1_500);
    } else {
      delayMs = this.#leaveMs(rank);
      rank.turnAway();
    }
    rank.beginPlace(generation);
    const process = rank;
    process.later(delayMs, () => {
      const group = this.#world.group(generation, this.#agent.jobId!, worldSize);
      process.entered = 0;
      process.completed = 0;
      process.beats = 0;
      process.enter("idle");
      const memory = this.#memory;
      const { book } = process.takePlace(memory, this.replicate);
      // Saves of an older generation may still read the set; whoever was to hear of their end hears no more.
      const pinned = this.#agent.writer.pinned(process.set, (state) => process.saved(memory, state, null));
      book.setPins(pinned.map(stored));
      group.join(process, this.#agent);
      this.#agent.inventoryChanged();
      this.#agent.sendHeartbeat(); // before RankReady: the state to restore is chosen from all inventories
      this.#agent.report(messages.ready(process, this.#memory.states(process.set)));
    });
  }

  /** A rank in a collective is freed at once; one that computes notices at its next collective; a program may take its grace. */
  #leaveMs(rank: SimRank): number {
    const { random } = this.#agent;
    if (rank.phase === "program") return random.between(20, 2_000);
    return rank.phase === "forward" ? random.between(2, 400) : random.between(1, 10);
  }

  abort(): void {
    for (const rank of this.ranks.values()) this.#abort(rank);
  }

  #abort(rank: SimRank): void {
    if (rank.group === null || rank.phase === "starting") return;
    const delayMs = this.#leaveMs(rank);
    rank.turnAway();
    rank.later(delayMs, () => {
      rank.enter("idle");
      this.#agent.report(messages.failed(rank, { code: "COMM_ABORTED", operation: "" }));
    });
  }

  connect({ nodes }: Extract<Command, { $case: "connect" }>["value"]): void {
    for (const { ranks, nodeId } of nodes) this.#rankOn.set(nodeId, ranks.at(-1)!);
    for (const rank of this.present) rank.later(1, () => rank.group?.connect(rank));
  }

  restore({ source, rollBacks }: Extract<Command, { $case: "restore" }>["value"]): void {
    this.#rollBacks = rollBacks.map(({ first, last }) => ({
      first: Number(first),
      last: Number(last),
      why: ROLL_BACK,
    }));
    if (source?.$case === "snapshot") this.#restoring(messages.plain(source.value.state!));
    for (const rank of this.present) this.#restore(rank, source);
  }

  /** As `RankStates` has it. */
  #restoring(state: StateName): void {
    const { replicated } = this.#memory;
    this.safe = replicated !== null && compareStates(replicated, state) <= 0 ? replicated : state;
  }

  #restore(rank: SimRank, source: Source): void {
    if (this.#restored.has(rank.rank) || rank.phase === "restore") return;
    rank.enter("restore");
    const { random, group } = rank;
    if (source?.$case === "snapshot") {
      rank.later(random.between(5, 50), () => {
        if (!this.#adoptOwn(rank, source.value))
          rank.later(random.between(20, 300), () => this.#read(rank, source.value));
      });
    } else if (source?.$case === "checkpoint") {
      const { uri } = source.value;
      const state = messages.plain(source.value.state!);
      rank.later(random.between(50, 500), () => {
        const found = group!.job.storage.find(state);
        if (found === null || found.corrupt) {
          this.#world.foundBad(badCheckpoint(uri, state));
          const code = found === null ? "NOT_FOUND" : "CHECKPOINT_CORRUPT";
          this.#restoreFails(rank, { code, operation: "restore" });
        } else this.#written(rank, found.content, { durable: true, insteadOf: "" });
      });
    } else
      rank.later(random.between(10, 100), () =>
        this.#written(rank, INITIAL, { durable: false, insteadOf: "" }),
      );
  }

  /** A whole slot of the rank's own set is used where it lies. */
  #adoptOwn(rank: SimRank, { state, layout }: SnapshotSource): boolean {
    if (messages.layoutText(layout!) !== this.layout) return false;
    const { book, memory } = rank.place!;
    const slot = book.find(stored(messages.plain(state!)));
    const copy = slot === null ? null : (memory.slots(rank.set)[slot.index] ?? null);
    if (slot === null || copy === null || copy.damaged.size > 0) return false;
    book.adopt(slot);
    rank.sealed = copy.content.state;
    this.#tellRestored(rank, copy.content, { durable: false, insteadOf: "" });
    return true;
  }

  /** Into a free slot, from whoever holds it. */
  #read(rank: SimRank, source: SnapshotSource): void {
    const { job } = rank.group!;
    const state = messages.plain(source.state!);
    const stands = job.storage.find(state);
    const { book } = rank.place!;
    book.hold(stored(state)); // what is sound of a damaged slot is read from it
    rank.takeSlot();
    const found = readState({
      source,
      memory: this.#memory,
      layout: this.layout,
      rank: rank.rank,
      nodeOf: (nodeId) => this.#world.node(nodeId),
      reaches: (node) => !this.#world.isCut(this.#agent.node, node),
      rankOn: (nodeId) => this.#rankOn.get(nodeId),
      durable: source.durable === undefined || stands?.corrupt !== false ? null : stands.content,
    });
    book.letGo(stored(state));
    rank.giveUpDamaged(state);
    if (found.failure === null) {
      this.#tellRestored(rank, found.content, { durable: false, insteadOf: found.insteadOf });
      return;
    }
    if (found.failure.code === "SNAPSHOT_MISSING")
      this.#world.foundBad(`${job.jobId}@${state.generation}-${state.step}`);
    this.#restoreFails(rank, found.failure);
  }

  #restoreFails(rank: SimRank, failure: messages.Failure): void {
    rank.enter("idle");
    rank.turnAway();
    this.#agent.inventoryChanged();
    this.#agent.report(messages.failed(rank, failure));
  }

  #written(rank: SimRank, content: Content, how: { durable: boolean; insteadOf: string }): void {
    rank.takeSlot();
    this.#tellRestored(rank, content, how);
  }

  #tellRestored(
    rank: SimRank,
    content: Content,
    { durable, insteadOf }: { durable: boolean; insteadOf: string },
  ): void {
    const { book, ledger } = rank.place!;
    const { replicated } = this.#memory;
    rank.content = { ...content };
    rank.leftOut = this.#rollBacks.reduce(withLeftOut, content.leftOut);
    rank.durable = durable;
    book.restoredTo(stored(content.state));
    ledger.begin(this.replicate, replicated === null ? null : stored(replicated));
    rank.group!.restored.set(rank.rank, content.state);
    this.#restored.add(rank.rank);
    this.#agent.report(messages.restored(rank, content.state, insteadOf));
  }

  confirmed(state: StateName): void {
    this.#memory.replicated = state;
    this.safe = state;
  }

  run(): void {
    for (const rank of this.present) rank.later(1, () => rank.group?.run(rank));
  }

  releasePreview(state: StateName): void {
    for (const rank of this.ranks.values()) rank.place?.book.unpinPreview(stored(state));
  }

  kill(number: number): void {
    const rank = this.ranks.get(number);
    if (rank === undefined) {
      const { generation } = this;
      const gone = messages.exited({ generation, rank: number, pid: 0, signal: "SIGKILL" });
      this.#agent.reportExited(gone, generation);
    } else if (rank.unkillable) {
      rank.killPending = true;
      this.#agent.node.guilt.add("unkillable");
    } else this.rankDies(rank, "SIGKILL");
  }

  /**
   * What a step means for the memory of a node. With the first one every rank's state is whole in the present layout: older
   * layouts go. Snapshots and replicas of ranks that are elsewhere now go when a state of this generation is
   * replicated, or where nothing is.
   */
  stepped(isReplicated: boolean): void {
    const isCovered = isReplicated || !this.replicate;
    if (this.#stepped && (this.#settled || !isCovered)) return;
    this.#stepped = true;
    this.#settled = isCovered;
    const memory = this.#memory;
    const isOfLayout = (set: string) => set.startsWith(`${this.layout}/`);
    const isPlace = (set: string) => this.places.some((place) => set === `${this.layout}/${place}`);
    memory.keepSets(isCovered ? isPlace : isOfLayout);
    memory.keepReplicas(isCovered ? (set) => this.keeps.has(set) : isOfLayout);
    this.#agent.inventoryChanged();
  }

  /** The newest state that all ranks of this node hold whole, as far as headers tell. */
  newestHeld(): StateName | null {
    const states = this.places.map((place) => this.#memory.states(`${this.layout}/${place}`));
    const byAll = (states[0] ?? []).filter((state) =>
      states.every((list) => list.some((each) => compareStates(each, state) === 0)),
    );
    return byAll.sort(compareStates).at(-1) ?? null;
  }

  /** Makes a state durable from memory, without the ranks. */
  saveHeld(state: StateName): void {
    const { jobId, writer } = this.#agent;
    const { generation, layout } = this;
    if (jobId === null || generation === 0) return;
    const job = this.#world.job(jobId);
    const { worldSize } = this;
    if (job.program !== null) return;
    for (const rank of this.places) {
      const set = `${layout}/${rank}`;
      writer.save({ job, rank, worldSize, generation, state, set, final: true }, () => {});
    }
  }
}
