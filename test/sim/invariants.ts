import assert from "node:assert/strict";
import type { DurableRecord, Effect, StateName } from "../../controller/core/contract.js";
import { durableKeys } from "../../controller/core/contract.js";
import type { CoreState, JobState } from "../../controller/core/state.js";
import { compareStates, sameState, stateText } from "../../controller/core/state_name.js";
import type { Restore, SnapshotSource } from "../../gen/goku/v1/agent.pb.js";
import { layoutText, plain } from "./agent_messages.js";
import type { SimAgent, SimNode } from "./sim_agent.js";
import type { CommandFrame, SimController } from "./sim_controller.js";
import { type Content, mixStep } from "./sim_memory.js";
import type { SimRank } from "./sim_rank.js";
import { shardCount, shardsNeeded } from "./sim_shards.js";
import type { SimStore } from "./sim_store.js";
import { domainOf, isKept, isWhole, type Kept, keptOf, newestWhole } from "./sim_truth.js";
import type { SimJob, TrainGroup, TrainObserver } from "./train_group.js";

/** The truth, as nobody in the system can see it. */
export interface Truth {
  readonly nowMs: number;
  readonly store: SimStore;
  readonly nodes: readonly SimNode[];
  readonly groups: ReadonlyMap<number, TrainGroup>;
  readonly jobs: ReadonlyMap<string, SimJob>;
  readonly graceMs: number;
}

interface Committed {
  state: StateName;
  layout: string;
  /** Node of every rank. */
  nodes: SimNode[];
}

/** A state that a vote found in two places for every rank, and the members then. */
interface Replicated {
  state: StateName;
  layout: string;
  members: Kept[];
}

interface Floor {
  state: StateName;
  kept: Kept[];
}

/**
 * What must hold after every event, whatever fails. Each check compares what the controllers do or the store holds with
 * the truth; a broken one throws and so ends the run.
 */
export class Invariants implements TrainObserver {
  readonly #truth: Truth;
  readonly #leaderOfTerm = new Map<number, string>();
  #termLast = 0;
  #generationLast = 0;
  readonly #generations = new Map<number, { jobId: string; rankNodes: string; plan: string }>();
  readonly #holders = new Map<number, Map<number, string>>();
  /** What each generation was told to restore, and by node, with the places. */
  readonly #restores = new Map<number | string, string>();
  /** The least that a generation must restore, by term and number: a leader may fall before its plan is durable. */
  readonly #floors = new Map<string, Floor[]>();
  readonly #planned = new Set<string>();
  /** Newest state that every rank of a group held whole. */
  readonly #committed = new Map<string, Committed>();
  readonly #replicated = new Map<string, Replicated>();
  /** States that turned out unreadable. */
  readonly #bad = new Set<string>();
  readonly #digests: number[] = [1];

  constructor(truth: Truth) {
    this.#truth = truth;
  }

  // The store ---------------------------------------------------------------------------------------------------------

  written(key: string, record: DurableRecord | null): void {
    if (record?.kind === "term") {
      assert.ok(record.term > this.#termLast, `term ${record.term} written after ${this.#termLast}`);
      this.#termLast = record.term;
      this.#leaderOfTerm.set(record.term, record.controllerId);
    }
    if (record?.kind === "generation") this.#generationWritten(record);
    if (record?.kind === "job" && record.outcome !== null) this.#outcomeWritten(key, record);
  }

  #generationWritten(record: Extract<DurableRecord, { kind: "generation" }>): void {
    const { generation, jobId } = record;
    const rankNodes = JSON.stringify(record.rankNodes);
    const known = this.#generations.get(generation);
    if (known !== undefined) {
      const { plan } = known;
      assert.deepEqual({ jobId, rankNodes, plan }, known, `generation ${generation} was given out twice`);
      return;
    }
    assert.ok(generation > this.#generationLast, `generation ${generation} after ${this.#generationLast}`);
    this.#generationLast = generation;
    this.#generations.set(generation, { jobId, rankNodes, plan: `${record.term}/${generation}` });
  }

  #outcomeWritten(key: string, record: Extract<DurableRecord, { kind: "job" }>): void {
    const outcome = record.outcome!;
    const job = this.#truth.jobs.get(record.jobId)!;
    const before = this.#truth.store.peek(key);
    assert.ok(before !== null, `${key}: ended before it was submitted`);
    const saved = job.durable.some((d) => d.content.state.step === outcome.step);
    if (outcome.phase === "COMPLETED") {
      assert.ok(
        outcome.step === job.steps && saved,
        `job ${record.jobId} COMPLETED at step ${outcome.step} without a checkpoint`,
      );
    }
    assert.ok(
      outcome.phase !== "STOPPED" || record.stop !== null,
      `job ${record.jobId} STOPPED and nobody asked for it`,
    );
    if (outcome.phase === "STOPPED" && outcome.step > 0) {
      assert.ok(saved, `job ${record.jobId} STOPPED at step ${outcome.step} without a checkpoint`);
    }
  }

  // What controllers do -----------------------------------------------------------------------------------------------

  effect(controller: SimController, effect: Effect): void {
    if (effect.kind !== "send") return;
    const leader = this.#leaderOfTerm.get(effect.term);
    assert.equal(leader, controller.id, `${controller.id} commands in term ${effect.term} of ${leader}`);
    const { message } = effect;
    switch (message.$case) {
      case "prepare":
        this.#prepareSent(
          Number(message.value.generation),
          message.value.jobId,
          message.value.ranks,
          effect.nodeId,
        );
        return;
      case "connect": {
        const group = this.#group(message.value.generation);
        assert.equal(
          group.readyRanks.size,
          group.worldSize,
          `generation ${group.generation} connects before all are ready`,
        );
        return;
      }
      case "restore":
        this.#restoreSent(this.#group(message.value.generation), message.value.source, effect.nodeId);
        return;
      case "run":
        this.#runSent(this.#group(message.value.generation));
        return;
      default:
        return;
    }
  }

  #prepareSent(generation: number, jobId: string, ranks: readonly number[], nodeId: string): void {
    const known = this.#generations.get(generation);
    assert.ok(known !== undefined, `generation ${generation} is used before it is durable`);
    assert.equal(known.jobId, jobId);
    const rankNodes = JSON.parse(known.rankNodes) as string[];
    const own = rankNodes.flatMap((owner, rank) => (owner === nodeId ? [rank] : []));
    assert.deepEqual(ranks, own, `ranks of generation ${generation} on ${nodeId}`);
    for (const group of this.#truth.groups.values()) {
      if (group.job.jobId === jobId && group.generation < generation)
        this.#mayDisturb(group, `generation ${generation}`);
    }
  }

  #restoreSent(group: TrainGroup, source: Restore["source"], nodeId: string): void {
    const places = source?.$case === "snapshot" ? source.value.places : [];
    const what = source?.$case === "snapshot" ? { ...source.value, places: [] } : source?.value;
    this.#sameAsBefore(group, `${group.generation}/${nodeId}`, places);
    if (!this.#sameAsBefore(group, group.generation, what)) this.#restoreChosen(group, sourceState(source));
    if (source?.$case === "snapshot") this.#canRestore(group, source.value, nodeId);
    assert.equal(
      group.connectedRanks.size,
      group.worldSize,
      `generation ${group.generation} restores before all connected`,
    );
  }

  /** Whether it was told before; what it is told must be the same then. */
  #sameAsBefore(group: TrainGroup, key: number | string, told: unknown): boolean {
    const text = JSON.stringify(told, (_, value) => (typeof value === "bigint" ? Number(value) : value));
    const before = this.#restores.get(key);
    this.#restores.set(key, text);
    if (before !== undefined)
      assert.equal(text, before, `generation ${group.generation} is told two sources`);
    return before !== undefined;
  }

  /** A node has every shard that its ranks need, or is told of a place that does; unless a machine went down since. */
  #canRestore(group: TrainGroup, source: SnapshotSource, nodeId: string): void {
    const members = group.members.map((member) => member!);
    if (members.some(({ agent, memory }) => agent.node.memory !== memory)) return;
    const from = layoutText(source.layout!);
    const state = plain(source.state!);
    const has = (node: SimNode, shard: number) =>
      node.memory.held().some((held) => {
        const fits = held.layout === from && held.rank % shardCount(from) === shard;
        return fits && sameState(held.state, state);
      });
    for (const { rank, agent } of members.filter((member) => member.agent.node.nodeId === nodeId)) {
      for (const shard of shardsNeeded({ from, to: rank.set.split("/")[0]!, rank: rank.rank })) {
        const placed = source.places.filter((place) => place.rank % shardCount(from) === shard);
        const there =
          has(agent.node, shard) ||
          placed.some((place) => has(this.#truth.nodes.find((node) => node.nodeId === place.nodeId)!, shard));
        assert.ok(
          there,
          `rank ${rank.rank} is to restore ${stateText(state)}, of which it can have shard ${shard} nowhere`,
        );
      }
    }
  }

  /** No committed step is lost beyond what can still be had. */
  #restoreChosen(group: TrainGroup, chosen: StateName): void {
    const { job } = group;
    const label = `generation ${group.generation} restores ${stateText(chosen)}`;
    const memories = new Set(group.members.map((m) => m!.agent.node.memory));
    const inMemory = newestWhole([...memories], (state) => this.#isBad(job.jobId, state));
    if (inMemory !== null) {
      assert.ok(
        compareStates(chosen, inMemory) >= 0,
        `${label}, its nodes hold ${stateText(inMemory)} whole`,
      );
    }
    const record = this.#truth.store.peek(durableKeys.checkpoints(job.jobId));
    if (record?.kind === "checkpoints") {
      for (const entry of record.entries) {
        if (entry.unusable !== null || this.#bad.has(entry.uri)) continue;
        assert.ok(compareStates(chosen, entry.state) >= 0, `${label}, ${entry.uri} is registered`);
      }
    }
    for (const floor of this.#floors.get(this.#generations.get(group.generation)!.plan) ?? []) {
      // A machine that went down since then took its part with it.
      if (!floor.kept.every(isKept) || this.#isBad(job.jobId, floor.state)) continue;
      assert.ok(
        compareStates(chosen, floor.state) >= 0,
        `${label}, ${stateText(floor.state)} was whole on nodes that answered`,
      );
    }
  }

  #isBad(jobId: string, state: StateName): boolean {
    return this.#bad.has(`${jobId}@${state.generation}-${state.step}`);
  }

  /** After every event: has the core planned a new generation? */
  stepped(controller: SimController): void {
    const { core } = controller;
    if (core?.leader == null) return;
    for (const job of core.jobs.values()) {
      const number = job.generation?.number ?? 0;
      const key = `${core.leader.term}/${number}`;
      if (job.generation?.stage !== "persisting" || this.#planned.has(key)) continue;
      this.#planned.add(key);
      for (const nodeId of job.generation.rankNodes) {
        assert.equal(
          core.nodes.get(nodeId)!.leaving,
          null,
          `${nodeId} leaves and gets ranks of generation ${number}`,
        );
      }
      this.#generationPlanned(core, job, key);
    }
  }

  #generationPlanned(core: CoreState, job: JobState, key: string): void {
    const floors = [this.#committedFloor(core, job), this.#replicatedFloor(core, job)];
    this.#floors.set(
      key,
      floors.filter((floor) => floor !== null),
    );
  }

  /**
   * If every node of the newest committed state could be had at that moment, or was not waited for as long as promised,
   * then that state is the least that the new generation must restore; less is enough only where the others hold what
   * was replicated last and take over. If not, it is written off.
   */
  #committedFloor(core: CoreState, job: JobState): Floor | null {
    const { jobId } = job.record;
    const committed = this.#committed.get(jobId);
    if (committed === undefined) return null;
    const kept = committed.nodes.every((node, rank) => {
      if (node.memory.find(`${committed.layout}/${rank}`, committed.state) === null) return false;
      if (isGivenUp(core, job, node)) return false; // what a leaving node holds is durable, or goes with it
      const heardMs = Math.max(core.nodes.get(node.nodeId)?.heardMs ?? 0, core.leader!.electedMs);
      return this.#truth.nowMs - heardMs < this.#truth.graceMs;
    });
    if (!kept) {
      this.#committed.delete(jobId);
      return null;
    }
    const members = new Set(job.generation!.rankNodes);
    if (!committed.nodes.every(({ nodeId }) => members.has(nodeId))) {
      const taken = this.#takenOver(job, committed);
      if (taken !== null) return taken;
    }
    return { state: committed.state, kept: committed.nodes.map(keptOf) };
  }

  /** What the members of a generation go on from without a node that might have come back. */
  #takenOver(job: JobState, committed: Committed): Floor | null {
    const nodes = this.#membersOf(job);
    const whole = newestWhole(
      nodes.map(({ memory }) => memory),
      (state) => this.#isBad(job.record.jobId, state),
    );
    const { generation } = committed.state;
    const least = this.#replicated.get(job.record.jobId)?.state ?? { generation, step: 0 };
    return whole === null || compareStates(whole, least) < 0
      ? null
      : { state: whole, kept: nodes.map(keptOf) };
  }

  /** While all that is lost is in one failure domain, the replicated state is whole in what is left, and is restored. */
  #replicatedFloor(core: CoreState, job: JobState): Floor | null {
    const replicated = this.#replicated.get(job.record.jobId);
    if (replicated === undefined || this.#isBad(job.record.jobId, replicated.state)) return null;
    const left = replicated.members.filter(
      (each) => isKept(each) && isThere(core, job, each.node, this.#truth.nowMs),
    );
    const lost = replicated.members.filter((each) => !left.includes(each));
    if (new Set(lost.map(({ node }) => domainOf(node))).size > 1) return null;
    const { state, layout } = replicated;
    const memories = left.map(({ memory }) => memory);
    assert.ok(
      isWhole(memories, layout, state),
      `${stateText(state)} was replicated, and is lost with ${lost.map(({ node }) => node.nodeId).join(", ")}`,
    );
    return { state, kept: left };
  }

  #membersOf(job: JobState): SimNode[] {
    const members = new Set(job.generation!.rankNodes);
    return this.#truth.nodes.filter(({ nodeId }) => members.has(nodeId));
  }

  #runSent(group: TrainGroup): void {
    const label = `generation ${group.generation} runs`;
    assert.equal(group.restored.size, group.worldSize, `${label} before all have restored`);
    const states = new Set([...group.restored.values()].map(stateText));
    assert.equal(states.size, 1, `${label} from different states: ${[...states].join(", ")}`);
  }

  #group(generation: bigint): TrainGroup {
    const group = this.#truth.groups.get(Number(generation));
    assert.ok(group !== undefined, `generation ${generation} is commanded and no rank has heard of it`);
    return group;
  }

  /** A generation that trains well is left alone, whatever happens to controllers, their network and their store. */
  #mayDisturb(group: TrainGroup, by: string): void {
    const trains = group.votes > 0 && !group.disturbed && !group.over;
    assert.ok(!trains, `generation ${group.generation} trains undisturbed and is ended by ${by}`);
  }

  // What agents obey --------------------------------------------------------------------------------------------------

  obeyed(agent: SimAgent, frame: CommandFrame): void {
    const { message } = frame;
    if (message.$case === "prepare") {
      const generation = Number(message.value.generation);
      const holders = this.#holders.get(generation) ?? new Map<number, string>();
      this.#holders.set(generation, holders);
      for (const rank of message.value.ranks) {
        const holder = holders.get(rank) ?? agent.node.nodeId;
        assert.equal(holder, agent.node.nodeId, `rank ${rank} of generation ${generation} has two holders`);
        holders.set(rank, holder);
      }
    } else if (message.$case === "abort") {
      const group = this.#truth.groups.get(Number(message.value.generation));
      if (group !== undefined) this.#mayDisturb(group, "Abort");
    } else if (message.$case === "killRank") {
      const rank = agent.ranks.get(message.value.rank);
      const hangs = rank === undefined || rank.stopped || this.#truth.nowMs - rank.wentOnMs < 10_000;
      assert.ok(
        hangs,
        `${agent.node.nodeId} is told to kill rank ${rank?.rank}, which works (${message.value.reason})`,
      );
    } else if (message.$case === "release") {
      this.#released(agent, message.value.jobId);
    }
  }

  #released(agent: SimAgent, jobId: string): void {
    const record = this.#truth.store.peek(durableKeys.job(jobId));
    assert.ok(record?.kind === "job", `job ${jobId} is released and was never submitted`);
    if (record.outcome !== null) return;
    for (const rank of agent.ranks.values()) {
      if (rank.group !== null) this.#mayDisturb(rank.group, "Release");
    }
  }

  // What ranks do -----------------------------------------------------------------------------------------------------

  voted(group: TrainGroup, step: number): void {
    const { state } = group.members[0]!.rank.content!;
    for (const member of group.members) {
      const own = member!.rank.content!.state;
      assert.ok(sameState(own, state), `generation ${group.generation} votes on different states`);
    }
    assert.equal(state.step, step - 1);
    const { set, snapshotState } = group.members[0]!.rank;
    for (const member of group.members) {
      const { snapshotWhole, snapshotState: own } = member!.rank;
      assert.ok(
        snapshotWhole && own !== null && sameState(own, snapshotState!),
        "a rank votes without its snapshot",
      );
    }
    const layout = set.slice(0, set.indexOf("/"));
    const replicated = this.#replicated.get(group.job.jobId);
    // Another layout has been restored, an older state, or nothing is sent any more (twins): nobody keeps it for long.
    const isKeptOn = group.replicate && replicated?.layout === layout;
    if (replicated && (!isKeptOn || compareStates(state, replicated.state) < 0))
      this.#replicated.delete(group.job.jobId);
    this.#committed.set(group.job.jobId, {
      state: snapshotState!,
      layout,
      nodes: group.members.map((m) => m!.agent.node),
    });
  }

  /** Said by a vote: then every shard is there without any one failure domain, if there are two. */
  replicated(group: TrainGroup, state: StateName): void {
    const nodes = [...new Set(group.members.map((m) => m!.agent.node))];
    const layout = group.members[0]!.rank.set.split("/")[0]!;
    const domains = new Set(nodes.map(domainOf));
    for (const domain of domains.size > 1 ? domains : []) {
      const others = nodes.filter((node) => domainOf(node) !== domain).map(({ memory }) => memory);
      assert.ok(
        isWhole(others, layout, state),
        `${stateText(state)} is called replicated and is only in ${domain}`,
      );
    }
    if (domains.size === 1) this.#replicated.delete(group.job.jobId);
    else this.#replicated.set(group.job.jobId, { state, layout, members: nodes.map(keptOf) });
  }

  applied(group: TrainGroup, rank: SimRank, before: Content): void {
    const { state, digest } = rank.content!;
    const label = `rank ${rank.rank} of generation ${group.generation}, step ${state.step}`;
    assert.equal(before.state.step, state.step - 1, `${label}: a step is skipped or repeated`);
    assert.equal(digest, this.#digest(state.step), `${label}: packs are lost or consumed twice`);
  }

  committed(job: SimJob, content: Content): void {
    assert.equal(
      content.digest,
      this.#digest(content.state.step),
      `checkpoint of ${job.jobId}: packs are lost or consumed twice`,
    );
  }

  /** A state proved unreadable: from now on nobody expects it. */
  foundBad(key: string): void {
    this.#bad.add(key);
  }

  /** Digest of a history that consumed steps 1..step, each exactly once. */
  #digest(step: number): number {
    while (this.#digests.length <= step) {
      this.#digests.push(mixStep(this.#digests.at(-1)!, this.#digests.length));
    }
    return this.#digests[step]!;
  }
}

function sourceState(source: Restore["source"]): StateName {
  return source?.$case === "initial" ? { generation: 0, step: 0 } : plain(source!.value.state!);
}

/** The core counts on it no more, rightly. */
function isGivenUp(core: CoreState, job: JobState, { nodeId }: SimNode): boolean {
  const leaves = core.nodes.get(nodeId)?.leaving != null;
  return leaves || core.quarantine.has(nodeId) || (job.blame.get(nodeId) ?? 0) >= 3;
}

/** The core can count on it. */
function isThere(core: CoreState, job: JobState, node: SimNode, nowMs: number): boolean {
  const known = core.nodes.get(node.nodeId);
  const silentMs = 3 * core.config.limits.heartbeatMs;
  const reachable = known != null && known.session !== null && nowMs - known.heardMs <= silentMs;
  return reachable && !isGivenUp(core, job, node);
}
