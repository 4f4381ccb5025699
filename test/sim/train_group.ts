import type { StateName } from "../../controller/core/contract.js";
import { compareStates, sameState } from "../../controller/core/state_name.js";
import type { Random } from "./random.js";
import type { Scheduler } from "./scheduler.js";
import type { SimAgent } from "./sim_agent.js";
import { type Content, mixStep, type SimMemory } from "./sim_memory.js";
import type { SimRank } from "./sim_rank.js";

/** What the groups of one job share, and where the truth about it is kept. */
export interface SimJob {
  jobId: string;
  steps: number;
  saveEverySteps: number;
  stepMs: number;
  uri: string;
  /** Every committed checkpoint, oldest first. */
  durable: DurableTruth[];
  saveFailRate: number;
}
export interface DurableTruth {
  uri: string;
  content: Content;
  corrupt: boolean;
}

/** Told of everything that the invariants are about. */
export interface TrainObserver {
  voted(group: TrainGroup, step: number): void;
  /** The vote found the state in two places for every rank. */
  replicated(group: TrainGroup, state: StateName): void;
  applied(group: TrainGroup, rank: SimRank, before: Content): void;
  committed(job: SimJob, content: Content): void;
}

interface Member {
  rank: SimRank;
  agent: SimAgent;
  /** What its node remembered when it became ready: another object since, when the machine went down. */
  memory: SimMemory;
}

/** What one vote decides. */
interface Decision {
  final: "steps" | "stop" | null;
  save: boolean;
  snapshot: boolean;
  /** Null: nobody sends anything. */
  replicas: VotedReplicas | null;
}

export interface VotedReplicas {
  /** In two places for every rank, as far as anybody knows; it may be of an older generation. */
  replicated: StateName | null;
  /** Kept by every rank while it is under way to the keepers. */
  sent: StateName;
  /** Its sending begins now. */
  isNew: boolean;
  /** This generation has replicated something. */
  isSettled: boolean;
}

/**
 * The ranks of one generation and their collectives. A step counts only when *all* ranks have computed it and voted, and
 * a rank votes for step n+1 only when its snapshot of n is whole. A dead member fails everyone who waits for it.
 */
export class TrainGroup {
  readonly generation: number;
  readonly job: SimJob;
  readonly worldSize: number;
  readonly members: (Member | null)[];
  /** Something happened to a member, or to the network between members. */
  disturbed = false;
  votes = 0;
  /** Its last state is durable: nothing is left to lose. */
  over = false;
  /** Chance that a member stopped inside a collective had not done its part yet, so that nobody gets out of it. */
  holdChance = 0.5;
  wantsStop = false;
  wantsSave = false;
  /** Some rank sends its state to another node. */
  replicate = false;
  /** State that a vote of this generation found in two places for every rank. */
  replicated: StateName | null = null;
  /** The same of an older one. */
  #replicatedBefore: StateName | null = null;
  /** State that every rank keeps and that is under way to the keepers, and the ranks whose replica is not there yet. */
  #sent: { state: StateName; pending: Set<number> } | null = null;
  readonly readyRanks = new Set<number>();
  readonly connectedRanks = new Set<number>();
  readonly restored = new Map<number, StateName>();
  readonly #scheduler: Scheduler;
  readonly #random: Random;
  readonly #observer: TrainObserver;
  readonly #connecting = new Set<number>();
  readonly #arrived = new Set<number>();
  readonly #savable = new Set<number>();
  #failedPeer: number | null = null;
  #saving = false;
  /** Parts that agents have written from memory alone, by state. */
  readonly #heldParts = new Map<number, Set<number>>();
  #final: "steps" | "stop" | null = null;

  constructor(options: {
    generation: number;
    job: SimJob;
    worldSize: number;
    scheduler: Scheduler;
    random: Random;
    observer: TrainObserver;
  }) {
    this.generation = options.generation;
    this.job = options.job;
    this.worldSize = options.worldSize;
    this.members = new Array<Member | null>(options.worldSize).fill(null);
    this.#scheduler = options.scheduler;
    this.#random = options.random;
    this.#observer = options.observer;
  }

  join(rank: SimRank, agent: SimAgent): void {
    this.members[rank.rank] = { rank, agent, memory: agent.node.memory };
    rank.group = this;
    this.replicate = agent.replicate;
    rank.pageGeneration = this.generation;
    this.readyRanks.add(rank.rank);
  }

  /** The first collective: everybody must be there. */
  connect(rank: SimRank): void {
    if (this.#connecting.has(rank.rank)) return;
    rank.enter("forming");
    rank.entered = 1;
    this.#connecting.add(rank.rank);
    if (this.#failedPeer !== null) {
      rank.later(5, () => this.#fail(rank, this.#failedPeer!));
      return;
    }
    if (this.#connecting.size < this.worldSize) return;
    for (const member of this.members) {
      member!.rank.later(this.#random.between(2, 30), () => {
        member!.rank.completed = 1;
        member!.rank.enter("forming");
        this.connectedRanks.add(member!.rank.rank);
        member!.agent.reportConnected(member!.rank);
      });
    }
  }

  /** Told to train; a repeat changes nothing. */
  run(rank: SimRank): void {
    if (rank.phase !== "restore" || rank.content === null || !this.restored.has(rank.rank)) return;
    this.#compute(rank);
  }

  #compute(rank: SimRank): void {
    const { step } = rank.content!.state;
    if (step >= this.job.steps) {
      this.#finish(rank, "steps");
      return;
    }
    rank.enter("forward");
    const ms = Math.ceil(this.job.stepMs * (0.7 + 0.6 * rank.random.unit()));
    rank.later(ms, () => this.#arrive(rank));
  }

  #arrive(rank: SimRank): void {
    if (!rank.snapshotWhole) {
      rank.enter("snapshot");
      rank.later(10, () => this.#arrive(rank));
      return;
    }
    rank.enter("vote");
    rank.entered += 1;
    if (this.#failedPeer !== null) {
      this.#fail(rank, this.#failedPeer);
      return;
    }
    this.#arrived.add(rank.rank);
    if (this.#arrived.size === this.worldSize)
      this.#scheduler.after(this.#random.between(1, 4), () => this.#vote());
  }

  /** All have arrived. A member stopped just now may or may not still have done its part. */
  #vote(): void {
    if (this.#arrived.size < this.worldSize || this.#failedPeer !== null) return;
    const stuck = this.members.some((m) => m!.rank.stopped);
    if (stuck && this.#random.chance(this.holdChance)) {
      this.#scheduler.after(200, () => this.#vote());
      return;
    }
    this.#arrived.clear();
    this.votes += 1;
    const step = this.members[0]!.rank.content!.state.step + 1;
    this.#observer.voted(this, step);
    const final = step >= this.job.steps ? "steps" : this.wantsStop ? "stop" : null;
    // Where one rank has no slot free, all skip this snapshot; not the last one, which can wait for a slot.
    const snapshot = this.members.every((m) =>
      m!.agent.node.memory.hasFree(m!.rank.set, m!.rank.snapshotState),
    );
    const save = snapshot && !this.#saving && (this.wantsSave || step % this.job.saveEverySteps === 0);
    if (save) this.wantsSave = false;
    const replicas = this.replicate ? this.#voteReplicas() : null;
    for (const member of this.members) {
      member!.rank.later(this.#random.between(0, 4), () =>
        this.#apply(member!, step, { final, save, snapshot, replicas }),
      );
    }
  }

  /**
   * Once the state that is being sent is with all keepers it is the replicated one, and the state that was just voted
   * whole is sent next. The first vote of a generation finds out what older ones have replicated: whoever knows tells,
   * since a rank may have died before it heard of it.
   */
  #voteReplicas(): VotedReplicas {
    const { snapshotState } = this.members[0]!.rank;
    if (this.votes === 1) this.#replicatedBefore = this.#newestKnown(snapshotState!);
    if (this.#sent?.pending.size === 0) {
      this.replicated = this.#sent.state;
      this.#sent = null;
      this.#observer.replicated(this, this.replicated);
    }
    const { replicated } = this;
    const isNew = this.#sent === null && (replicated === null || !sameState(replicated, snapshotState!));
    if (isNew) {
      const pending = this.members
        .filter((m) => m!.agent.keeperOf.has(m!.rank.rank))
        .map((m) => m!.rank.rank);
      this.#sent = { state: snapshotState!, pending: new Set(pending) };
    }
    return {
      replicated: replicated ?? this.#replicatedBefore,
      sent: this.#sent?.state ?? replicated!,
      isNew,
      isSettled: replicated !== null,
    };
  }

  #newestKnown(restored: StateName): StateName | null {
    let newest: StateName | null = null;
    for (const member of this.members) {
      const known = member!.agent.node.memory.replicatedOf(member!.rank.set);
      if (known === null || compareStates(known, restored) > 0) continue; // given up, with the nodes that held it
      if (newest === null || compareStates(known, newest) > 0) newest = known;
    }
    return newest;
  }

  /** Pushes a rank's snapshot to its keeper, again and again while this generation lasts. */
  #sendReplica(member: Member, state: StateName, delayMs: number): void {
    const { rank, agent } = member;
    this.#scheduler.after(delayMs, () => {
      if (!agent.alive || agent.generation !== this.generation) return;
      const content = agent.node.memory.find(rank.set, state);
      if (content === null || !agent.push(rank, content)) {
        this.#sendReplica(member, state, 500);
        return;
      }
      if (this.#sent !== null && sameState(this.#sent.state, state)) this.#sent.pending.delete(rank.rank);
    });
  }

  #apply(member: Member, step: number, decided: Decision): void {
    const { rank, agent } = member;
    const before = rank.content!;
    rank.completed = rank.entered;
    rank.content = { state: { generation: this.generation, step }, digest: mixStep(before.digest, step) };
    this.#observer.applied(this, rank, before);
    agent.heardVote(rank, decided.replicas, this.votes === 1);
    if (decided.replicas?.isNew && agent.keeperOf.has(rank.rank)) {
      this.#sendReplica(member, decided.replicas.sent, this.#random.between(20, 600));
    }
    rank.enter("snapshot");
    if (decided.snapshot || decided.final !== null)
      this.snapshot(member, decided.save && decided.final === null);
    if (rank.rank === 0) agent.reportStep(this, step, this.job.stepMs / 1000);
    if (decided.final === null) this.#compute(rank);
    else this.#finish(rank, decided.final);
  }

  /** Copies the state into the node's memory while the next step computes. */
  snapshot(member: Pick<Member, "rank" | "agent">, save: boolean): void {
    const { rank, agent } = member;
    const content = rank.content!;
    const write = agent.node.memory.begin(rank.set, content, rank.snapshotState);
    rank.snapshotWhole = false;
    if (write === null) {
      rank.later(100, () => this.snapshot(member, save));
      return;
    }
    rank.later(this.#random.between(5, 60), () => {
      write.finish();
      agent.inventoryChanged();
      rank.snapshotWhole = true;
      rank.snapshotState = content.state;
      if (save) this.#savePart(rank, content.state);
    });
  }

  #finish(rank: SimRank, reason: "steps" | "stop"): void {
    this.#final = reason;
    if (!rank.snapshotWhole) {
      rank.enter("snapshot");
      rank.later(10, () => this.#finish(rank, reason));
      return;
    }
    rank.enter("finished");
    this.#savePart(rank, rank.content!.state);
  }

  #savePart(rank: SimRank, state: StateName): void {
    this.members[rank.rank]!.agent.node.memory.pinForSave(rank.set, state, true);
    this.#savable.add(rank.rank);
    if (this.#savable.size < this.worldSize) return;
    this.#savable.clear();
    this.#writeDurably(state);
  }

  /** Agents write in the background; the commit needs every part, and the committing agent alive. */
  #writeDurably(state: StateName): void {
    if (this.#saving) {
      this.#scheduler.after(200, () => this.#writeDurably(state));
      return;
    }
    this.#saving = true;
    const committer = this.members[0]!.agent;
    const parts = this.members.map((m) => ({ memory: m!.agent.node.memory, set: m!.rank.set }));
    this.#scheduler.after(this.#random.between(150, 1_800), () => {
      this.#saving = false;
      const contents = parts.map(({ memory, set }) => memory.find(set, state));
      for (const { memory, set } of parts) memory.pinForSave(set, state, false);
      if (!committer.alive) return;
      const whole = contents.every((content) => content !== null);
      if (!whole || this.#random.chance(this.job.saveFailRate)) {
        committer.reportSaveFailed(this.generation, state);
        if (this.#final !== null && this.#isLast(state)) this.#retryFinal(state);
        return;
      }
      this.#commit(contents[0]!, committer);
    });
  }

  /** An agent makes what its node holds of a state durable, without the rank; with the last part it is committed. */
  saveHeld(agent: SimAgent, { rank, set, state }: { rank: number; set: string; state: StateName }): void {
    this.#scheduler.after(this.#random.between(100, 900), () => {
      const content = agent.node.memory.find(set, state);
      if (!agent.alive || content === null) return;
      const parts = this.#heldParts.get(state.step) ?? new Set<number>();
      this.#heldParts.set(state.step, parts.add(rank));
      const committer = this.members[0]?.agent;
      if (parts.size === this.worldSize && committer?.alive) this.#commit(content, committer);
    });
  }

  /** Whether it is the state that this group ends with; an earlier save may still be under way then. */
  #isLast(state: StateName): boolean {
    return this.members.some((m) => m!.rank.content?.state.step === state.step);
  }

  #retryFinal(state: StateName): void {
    this.#scheduler.after(1_000, () => {
      if (this.#failedPeer === null && this.members.every((m) => m!.rank.group === this))
        this.#writeDurably(state);
    });
  }

  #commit(content: Content, committer: SimAgent): void {
    const uri = `${this.job.uri}/checkpoint-${content.state.generation}-${content.state.step}`;
    if (!this.job.durable.some((d) => d.uri === uri)) {
      this.job.durable.push({ uri, content, corrupt: false });
      this.#observer.committed(this.job, content);
    }
    committer.reportCommitted(this.generation, content.state, uri);
    const last = this.#final !== null && this.#isLast(content.state);
    if (!last) return;
    this.over = true;
    for (const member of this.members) {
      const { rank, agent } = member!;
      if (rank.phase !== "finished" || rank.group !== this) continue;
      rank.later(this.#random.between(1, 50), () => agent.reportFinished(rank, content.state, this.#final!));
    }
  }

  /** A member process ended: whoever waits for it, or comes to, gets a typed error that names it. */
  memberDied(dead: SimRank): void {
    this.disturbed = true;
    this.breakOff(dead.rank);
  }

  /** The connections of one member broke; all processes live on. */
  breakOff(peer: number): void {
    if (this.#failedPeer !== null) return;
    this.#failedPeer = peer;
    for (const member of this.members) {
      if (member === null || member.rank.group !== this || member.rank.entered === member.rank.completed)
        continue;
      member.rank.later(this.#random.between(3, 40), () => this.#fail(member.rank, peer));
    }
  }

  #fail(rank: SimRank, peer: number): void {
    const member = this.members[rank.rank]!;
    if (rank.group !== this) return;
    rank.completed = rank.entered;
    rank.enter("idle");
    rank.turnAway();
    member.agent.reportFailed(rank, { code: "COMM_PEER_DIED", peer, operation: "all_reduce" });
  }
}
