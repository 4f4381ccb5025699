import type { StateName } from "../../controller/core/contract.js";
import { sameState } from "../../controller/core/state_name.js";
import { type LeftOutReason, rollBackOf } from "../../job/left_out.js";
import { wireReplay, wireSpike } from "../../worker/agent/wire.js";
import { decideStep, isPeriodicSave, type StepDecision } from "../../worker/rank/decide_step.js";
import { gaveUp } from "../../worker/rank/gave_up.js";
import { judgeNumbers } from "../../worker/rank/judge_numbers.js";
import type { TriedStep as Tried } from "../../worker/rank/retry_step.js";
import * as messages from "../support/agent_messages.js";
import { Connections } from "./connections.js";
import type { SimAgent } from "./sim_agent.js";
import { mixStep, ordinaryNumbers, stored, unstored } from "./sim_content.js";
import { type GroupOptions, type Member, SimGroup } from "./sim_group.js";
import type { SimNode } from "./sim_node.js";
import type { SimRank } from "./sim_rank.js";
import { shardCount } from "./sim_shards.js";
import { type StepOutcome, stepOutcome } from "./step_outcome.js";
import { passedOver, TriedStep } from "./train_numbers.js";

/** Told of everything that the invariants are about. */
export interface TrainObserver {
  /** @param agreed the newest state that every rank holds whole */
  voted(group: TrainGroup, step: number, agreed: StateName): void;
  /** The vote found the state in two places for every rank. */
  replicated(group: TrainGroup, state: StateName): void;
  applied(group: TrainGroup, rank: SimRank): void;
  /** A vote sends the run back to the weights of step `to`. */
  rolledBack(group: TrainGroup, steps: { to: number; last: number }): void;
  /** Every rank has ended it as asked, for a larger one. */
  yielded(group: TrainGroup): void;
}

/** A little less than the simulated controllers give a last save without progress. */
const LAST_SAVE_MS = 55_000;

type End = NonNullable<StepDecision["end"]>;

/** What one vote has found, for every rank. */
interface Vote extends StepOutcome {
  snapshotWhole: boolean;
  slotFree: boolean;
  replicated: boolean;
  replicaLost: boolean;
  save: boolean;
  stop: boolean;
  yield: boolean;
  giveUp: boolean;
}

/**
 * The ranks of one generation and their collectives. A step counts only when *all* ranks have computed it and voted, and
 * a rank votes for step n+1 only when its snapshot of n is whole. A dead member fails everyone who waits for it. What is
 * decided after a vote, which slot is written, and which state is copied to other nodes is decided by the real code.
 */
export class TrainGroup extends SimGroup {
  votes = 0;
  /** Every rank has ended it at this step, with the state in memory; null: it goes on, or ended otherwise. */
  yieldedAt: number | null = null;
  /** Chance that a member stopped inside a collective had not done its part yet, so that nobody gets out of it. */
  holdChance = 0.5;
  wantsStop = false;
  wantsSave = false;
  wantsYield = false;
  /** Some rank sends its state to another node. */
  replicate = false;
  /** State that a vote of this generation found in two places for every rank. */
  replicated: StateName | null = null;
  /** Under way to the keepers. */
  #copied: StateName | null = null;
  /** Steps of which a preview was pinned, in their order. */
  readonly previewSteps: number[] = [];
  /** Steps whose state it began to save. */
  readonly savedSteps: number[] = [];
  /** When some rank last voted that it has no slot free. */
  shortMs = Number.NEGATIVE_INFINITY;
  readonly connections: Connections;
  readonly #observer: TrainObserver;
  readonly #arrived = new Set<number>();
  #tried: TriedStep | null = null;
  /** Steps in a row whose numbers were bad. */
  badSteps = 0;
  /** Why the last step changed no weight. */
  #gaveUpFor: LeftOutReason | null = null;
  /** When rank 0 began its step. */
  #stepBeganMs = 0;
  /** From then on a last save that is not durable need not be waited for. */
  #endsMs = Number.POSITIVE_INFINITY;

  constructor(
    options: GroupOptions & {
      observer: TrainObserver;
      /** The network between two nodes. */
      isCut: (a: SimNode, b: SimNode) => boolean;
    },
  ) {
    super(options);
    this.#observer = options.observer;
    this.connections = new Connections(this, { ...options, random: this.random });
  }

  get goesOn(): boolean {
    const isLate = this.scheduler.nowMs >= this.#endsMs;
    return this.votes > 0 && !this.disturbed && !this.over && !isLate && this.yieldedAt === null;
  }

  override join(rank: SimRank, agent: SimAgent): void {
    super.join(rank, agent);
    this.replicate = agent.supervisor.replicate;
  }

  requestStop(): void {
    this.wantsStop = true;
  }

  requestYield(): void {
    this.wantsYield = true;
  }

  requestSave(): void {
    this.wantsSave = true;
  }

  connect(rank: SimRank): void {
    this.connections.connect(rank);
  }

  /** Something was cut: it concerns this group where members are on both sides. */
  override networkCut(): void {
    if (this.connections.cutPair() !== null) this.disturbed = true;
  }

  /** Told to train; a repeat changes nothing. */
  run(rank: SimRank): void {
    if (rank.phase !== "restore" || rank.content === null || !this.restored.has(rank.rank)) return;
    const { state } = rank.content;
    const { book } = rank.place!;
    const found = book.find(stored(state));
    if (found !== null && found === book.live) this.#begin(rank);
    else {
      rank.enter("snapshot");
      rank.later(this.random.between(5, 60), () => {
        rank.seal();
        this.#agentOf(rank).inventoryChanged();
        this.#begin(rank);
      });
    }
  }

  /** A durable save of the restored state that a fault may have cut off is begun again. */
  #begin(rank: SimRank): void {
    const { step } = rank.content!.state;
    if (step >= this.job.steps) {
      this.#finish(rank, "steps");
      return;
    }
    if (!rank.durable && isPeriodicSave(this.job.spec!, step)) {
      rank.decided = { save: "periodic", saveOwed: false };
      this.#save(rank, false);
    }
    if (rank.rank === 0) {
      rank.takePauseMs(); // what was before the step is no pause of it
      this.#stepBeganMs = this.scheduler.nowMs;
    }
    this.#compute(rank);
  }

  // Steps -------------------------------------------------------------------------------------------------------------

  #compute(rank: SimRank): void {
    rank.enter("forward");
    if (rollBackOf(rank.leftOut, rank.content!.state.step + 1) !== null) {
      rank.later(rank.random.between(5, 40), () => this.#arrive(rank));
      return;
    }
    const { slowness } = this.#agentOf(rank).node;
    const ms = Math.ceil(this.job.stepMs * slowness * (0.7 + 0.6 * rank.random.unit()));
    rank.computedMs += ms;
    rank.later(ms, () => this.#arrive(rank));
  }

  #arrive(rank: SimRank): void {
    const { book, memory } = rank.place!;
    // A bit that turned in the state since it was sealed has checksums to tell of it.
    if (memory.slots(rank.set)[book.live!.index]?.damaged.size) {
      rank.giveUpDamaged(rank.content!.state);
      this.#agentOf(rank).inventoryChanged();
      this.#leaves(rank, { code: "RANK_CORRUPT", operation: "" });
      return;
    }
    rank.enter("vote");
    rank.entered += 1;
    if (this.connections.failedPeer !== null) {
      this.#fail(rank, this.connections.failedPeer);
      return;
    }
    this.#arrived.add(rank.rank);
    if (this.#arrived.size === this.worldSize)
      this.scheduler.after(this.random.between(1, 4), () => this.#vote());
  }

  /** All have arrived. A member stopped just now may or may not still have done its part. */
  #vote(): void {
    if (this.#arrived.size < this.worldSize || this.connections.failedPeer !== null) return;
    if (this.members.some((member) => member!.rank.group !== this)) return; // some have left it
    if (this.connections.cutPair() !== null) {
      this.scheduler.after(200, () => this.#vote()); // what was sent arrives once the network is whole
      return;
    }
    const stuck = this.members.some((m) => m!.rank.stopped);
    if (stuck && this.random.chance(this.holdChance)) {
      this.scheduler.after(200, () => this.#vote());
      return;
    }
    this.#arrived.clear();
    const step = this.members[0]!.rank.content!.state.step + 1;
    const isLeftOut = rollBackOf(this.members[0]!.rank.leftOut, step) !== null;
    const tried = isLeftOut ? passedOver() : this.#try(step);
    if (tried === null) {
      for (const member of this.members) this.#again(member!.rank);
      return;
    }
    this.#tried = null;
    this.votes += 1;
    this.job.stepHighest = Math.max(this.job.stepHighest, step);
    const { rank } = this.members[0]!;
    const outcome = stepOutcome(tried, {
      step,
      recovery: this.job.spec!.recovery,
      leftOut: rank.leftOut,
      seen: rank.content!.numbers,
      badSteps: this.badSteps,
    });
    const { fate } = outcome;
    this.badSteps = tried.bad === null || tried.bad.isTaken ? 0 : this.badSteps + 1;
    this.#gaveUpFor = "why" in fate ? fate.why : null;
    this.#count(this.#votesOf(outcome));
    if (fate.kind !== "rollBack") return;
    this.disturbed = true;
    this.#observer.rolledBack(this, { to: fate.to, last: step });
  }

  /** Null: the numbers are bad, and the step is to be computed once more. */
  #try(step: number): Tried | null {
    const { layout } = this;
    const { badSteps, spec } = this.job;
    const { digest, numbers: seen } = this.members[0]!.rank.content!;
    const packs = spec!.train.packs_per_step;
    const what = badSteps.get(step);
    const spikesTaken = spec!.recovery.spike === "apply";
    this.#tried ??= new TriedStep({
      layout,
      packs,
      ordinary: ordinaryNumbers(digest, step),
      bad: what === undefined ? null : { pack: step % packs, what },
      judge: (vote) => judgeNumbers(vote, { seen, spikesTaken }),
    });
    const tried = this.#tried.attempt((rank) => this.members[rank]!.agent.node.wrong);
    for (const member of this.members) {
      const { node } = member!.agent;
      if (node.wrong !== "always") node.wrong = null;
    }
    return tried;
  }

  #again(rank: SimRank): void {
    rank.later(this.random.between(0, 4), () => {
      rank.completed = rank.entered;
      this.#compute(rank);
    });
  }

  #votesOf(outcome: StepOutcome): Vote {
    const flags = this.members.map((m) => ({ ...m!.rank.place!.book.flags, ...m!.rank.place!.ledger.flags }));
    if (!flags.every(({ slotFree }) => slotFree)) this.shortMs = this.scheduler.nowMs;
    return {
      ...outcome,
      snapshotWhole: flags.every(({ snapshotWhole }) => snapshotWhole),
      slotFree: flags.every(({ slotFree }) => slotFree),
      replicated: flags.every(({ replicated }) => replicated),
      replicaLost: flags.some(({ replicaLost }) => replicaLost),
      save: this.wantsSave,
      stop: this.wantsStop,
      yield: this.wantsYield,
      giveUp: outcome.fate.kind === "giveUp",
    };
  }

  #count(vote: Vote): void {
    this.wantsSave = false;
    this.#observer.voted(this, vote.step, this.members[0]!.rank.sealed!);
    if (vote.replicaLost) this.#copied = null;
    else if (this.#copied !== null && vote.replicated) {
      this.replicated = this.#copied;
      this.#copied = null;
      this.#observer.replicated(this, this.replicated);
    }
    for (const member of this.members)
      member!.rank.later(this.random.between(0, 4), () => this.#apply(member!, vote));
  }

  #apply(member: Member, vote: Vote): void {
    const { rank, agent } = member;
    const { book, ledger } = rank.place!;
    const { step, fate } = vote;
    rank.completed = rank.entered;
    book.voted(vote.snapshotWhole);
    const { confirmed, copy } = ledger.voted(vote);
    if (confirmed !== null) agent.supervisor.confirmed(unstored(confirmed));
    if (copy !== null) this.#replicate(member, unstored(copy));
    this.#tellPreview(rank, vote.snapshotWhole);
    if (fate.kind === "rollBack") {
      if (rank.rank === 0) this.#tellStep(member, vote);
      rank.enter("idle");
      rank.turnAway();
      agent.report(messages.failed(rank, { code: "ROLLED_BACK", operation: "" }));
      return;
    }
    const decision = decideStep(this.job.spec!, { ...vote, before: rank.decided });
    rank.decided = decision;
    rank.takeSlot();
    const before = rank.content!;
    const { generation } = this;
    rank.content = {
      state: { generation, step },
      parent: before.state.generation === generation ? before.parent : before.state,
      digest: mixStep(before.digest, step, fate.kind !== "apply"),
      leftOut: vote.leftOut,
      numbers: vote.seen,
    };
    rank.leftOut = vote.leftOut;
    rank.durable = false;
    if (rank.computedMs > 0) rank.timedSteps += 1;
    rank.timedMs += rank.computedMs;
    rank.computedMs = 0;
    this.#observer.applied(this, rank);
    rank.enter("snapshot");
    rank.later(this.random.between(5, 60), () => this.#seal({ rank, agent }, decision, vote));
  }

  /** It writes where nothing whole was; what the decision was about follows. */
  #seal({ rank, agent }: Pick<Member, "rank" | "agent">, decision: StepDecision, vote: Vote): void {
    if (decision.snapshot) rank.seal();
    agent.inventoryChanged();
    if (decision.snapshot && decision.save !== null) this.#save(rank, false);
    if (decision.preview !== null) this.#preview(rank, decision.preview);
    agent.supervisor.stepped(rank.place!.ledger.step > 0);
    if (rank.rank === 0) this.#tellStep({ rank, agent }, vote);
    if (decision.end === null) this.#compute(rank);
    else this.#finish(rank, decision.end);
  }

  #tellStep({ agent, rank }: Pick<Member, "rank" | "agent">, { step, fate, replay, news }: Vote): void {
    const { generation, scheduler } = this;
    const stepSeconds = (scheduler.nowMs - this.#stepBeganMs) / 1000;
    this.#stepBeganMs = scheduler.nowMs;
    const longestPauseSeconds = rank.takePauseMs() / 1000;
    const told = { stepSeconds, longestPauseSeconds, replicatedStep: rank.place!.ledger.step };
    const isBack = fate.kind === "rollBack";
    const message = messages.step(generation, step, {
      ...told,
      applied: fate.kind === "apply",
      replay: wireReplay(replay),
      leftOut: "why" in fate ? fate.why : "",
      rollBack: isBack ? { first: BigInt(fate.to + 1), last: BigInt(step) } : undefined,
      lossSpike: wireSpike(news.loss),
      gradientSpike: wireSpike(news.gradient),
    });
    agent.report(message);
  }

  /** A rank with a twin in another failure domain has its copy there already. */
  #replicate({ rank, agent }: Member, state: StateName): void {
    if (this.#copied !== null && !sameState(this.#copied, state))
      throw new Error(`generation ${this.generation}: ranks copy different states`);
    this.#copied = state;
    const { ledger, memory } = rank.place!;
    const settled = (whole: boolean) => {
      if (rank.alive && rank.place?.memory === memory) rank.place.ledger.settled(stored(state), whole);
    };
    const keeperId = agent.supervisor.keeperOf.get(rank.rank);
    if (keeperId === undefined) {
      settled(true);
      return;
    }
    const kept = ledger.kept === null ? null : unstored(ledger.kept);
    agent.replicator.send({ rank, generation: this.generation, state, kept, keeperId, settled });
  }

  // Saves and previews ------------------------------------------------------------------------------------------------

  #save(rank: SimRank, final: boolean): void {
    const { generation, job, worldSize } = this;
    const { book, memory } = rank.place!;
    const { state } = rank.content!;
    if (book.pin(stored(state)) === null) return;
    if (rank.rank === 0) this.savedSteps.push(state.step);
    const order = { job, rank: rank.rank, worldSize, generation, state, set: rank.set, final };
    this.#agentOf(rank).writer.save(order, (error) => rank.saved(memory, state, error));
  }

  /** Every rank whose shard is read pins it; whether all have it whole is known with the next vote. */
  #preview(rank: SimRank, due: "draw" | "noSlot"): void {
    if (rank.rank >= shardCount(this.layout)) return;
    const { state } = rank.content!;
    if (due === "draw") {
      rank.place!.book.pinPreview(stored(state));
      rank.previewDue = state;
      if (rank.rank === 0) this.previewSteps.push(state.step);
      return;
    }
    rank.place!.book.previewLeftOut();
    if (rank.rank === 0) this.#agentOf(rank).report(messages.previewEnded(this.generation, state, "skipped"));
  }

  #tellPreview(rank: SimRank, isWhole: boolean): void {
    const state = rank.previewDue;
    rank.previewDue = null;
    if (state === null) return;
    if (!isWhole) rank.place!.book.unpinPreview(stored(state));
    if (rank.rank !== 0) return;
    const { generation } = this;
    this.#agentOf(rank).report(
      isWhole
        ? messages.preview("previewDue", generation, state)
        : messages.previewEnded(generation, state, "skipped"),
    );
  }

  // The end -----------------------------------------------------------------------------------------------------------

  /** Waits until the final state is durable everywhere (of a yield: whole in memory), then says so. */
  #finish(rank: SimRank, end: End): void {
    this.#endsMs = Math.min(this.#endsMs, this.scheduler.nowMs + LAST_SAVE_MS);
    const { book } = rank.place!;
    const { state } = rank.content!;
    if (!rank.durable && book.find(stored(state)) === null) {
      rank.enter("snapshot");
      rank.later(this.random.between(5, 60), () => {
        rank.seal();
        this.#finish(rank, end);
      });
      return;
    }
    rank.enter("finished");
    if (end === "yield") {
      this.#yields(rank, state);
      return;
    }
    if (rank.durable) {
      this.#finished(rank, end);
      return;
    }
    const look = () => {
      if (rank.group !== this || rank.phase !== "finished") return;
      if (rank.saveError !== null) this.#leaves(rank, { code: rank.saveError, operation: "save" });
      else if ((book.find(stored(state))?.pins ?? 0) === 0) this.#finished(rank, end);
    };
    rank.onSaved = () => rank.later(this.random.between(1, 50), look);
    this.#save(rank, true);
  }

  #yields(rank: SimRank, state: StateName): void {
    if (this.members.every((m) => m!.rank.phase === "finished")) {
      this.yieldedAt = state.step;
      this.#observer.yielded(this);
    }
    this.#agentOf(rank).report(messages.finished(rank, state, "yield"));
  }

  #finished(rank: SimRank, end: "steps" | "stop" | "bad"): void {
    rank.onSaved = null;
    this.over = true;
    if (end === "bad") {
      const { step } = rank.content!.state;
      const error = gaveUp({ job: this.job.spec!, step, why: this.#gaveUpFor!, count: this.badSteps });
      this.#leaves(rank, { code: error.code, operation: "" });
    } else this.#agentOf(rank).report(messages.finished(rank, rank.content!.state, end));
  }

  /** Whoever waits for it, or comes to, gets a typed error that names it. */
  memberDied(dead: SimRank): void {
    this.disturbed = true;
    this.breakOff(dead.rank);
  }

  breakOff(peer: number): void {
    if (this.connections.failedPeer !== null) return;
    this.connections.failedPeer = peer;
    for (const member of this.members) {
      if (member === null || member.rank.group !== this || member.rank.entered === member.rank.completed)
        continue;
      member.rank.later(this.random.between(3, 40), () => this.#fail(member.rank, peer));
    }
  }

  #fail(rank: SimRank, peer: number): void {
    if (rank.group !== this) return;
    this.#leaves(rank, { code: "COMM_PEER_DIED", peer, operation: "all_reduce" });
  }

  /** It ends the generation for itself, says why, and whoever waits for it is freed. */
  #leaves(rank: SimRank, failure: messages.Failure): void {
    const agent = this.#agentOf(rank);
    this.disturbed = true;
    rank.completed = rank.entered;
    rank.enter("idle");
    rank.turnAway();
    agent.report(messages.failed(rank, failure));
    if (failure.code !== "COMM_PEER_DIED") this.breakOff(rank.rank);
  }

  #agentOf(rank: SimRank): SimAgent {
    return this.members[rank.rank]!.agent;
  }
}
