import assert from "node:assert/strict";
import type { DurableRecord, Effect, StateName } from "../../controller/core/contract.js";
import { durableKeys } from "../../controller/core/contract.js";
import type { CoreState, JobState } from "../../controller/core/state.js";
import { compareStates, sameState, stateText } from "../../controller/core/state_name.js";
import { plain } from "./agent_messages.js";
import type { SimAgent, SimNode } from "./sim_agent.js";
import type { CommandFrame, SimController } from "./sim_controller.js";
import { type Content, mixStep, type SimMemory } from "./sim_memory.js";
import type { SimRank } from "./sim_rank.js";
import type { SimStore } from "./sim_store.js";
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
  readonly #restores = new Map<number, string>();
  /** The least that a generation must restore, by term and number: a leader may fall before its plan is durable. */
  readonly #floors = new Map<string, { state: StateName; kept: { node: SimNode; memory: SimMemory }[] }>();
  readonly #planned = new Set<string>();
  /** Newest state that every rank of a group held whole. */
  readonly #committed = new Map<string, Committed>();
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
        this.#restoreSent(this.#group(message.value.generation), message.value.source);
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

  #restoreSent(group: TrainGroup, source: unknown): void {
    const text = JSON.stringify(source, (_, value) => (typeof value === "bigint" ? Number(value) : value));
    const before = this.#restores.get(group.generation);
    if (before !== undefined) {
      assert.equal(text, before, `generation ${group.generation} is told two sources`);
      return;
    }
    this.#restores.set(group.generation, text);
    assert.equal(
      group.connectedRanks.size,
      group.worldSize,
      `generation ${group.generation} restores before all connected`,
    );
    const chosen = sourceState(source);
    const fromMemory = (source as { $case: string }).$case === "snapshot";
    for (const { rank, agent, memory } of group.members.map((m) => m!)) {
      const there = agent.node.memory !== memory || memory.find(rank.set, chosen) !== null;
      assert.ok(
        !fromMemory || there,
        `rank ${rank.rank} is to restore ${stateText(chosen)}, which its node does not hold`,
      );
    }
    this.#restoreChosen(group, chosen);
  }

  /** No committed step is lost beyond what can still be had. */
  #restoreChosen(group: TrainGroup, chosen: StateName): void {
    const { job } = group;
    const label = `generation ${group.generation} restores ${stateText(chosen)}`;
    const inMemory = this.#newestCommon(group);
    if (inMemory !== null) {
      assert.ok(compareStates(chosen, inMemory) >= 0, `${label}, all its nodes hold ${stateText(inMemory)}`);
    }
    const record = this.#truth.store.peek(durableKeys.checkpoints(job.jobId));
    if (record?.kind === "checkpoints") {
      for (const entry of record.entries) {
        if (entry.unusable !== null || this.#bad.has(entry.uri)) continue;
        assert.ok(compareStates(chosen, entry.state) >= 0, `${label}, ${entry.uri} is registered`);
      }
    }
    const floor = this.#floors.get(this.#generations.get(group.generation)!.plan);
    // A machine that went down since then took its part with it.
    if (floor === undefined || floor.kept.some(({ node, memory }) => node.memory !== memory)) return;
    assert.ok(
      compareStates(chosen, floor.state) >= 0,
      `${label}, ${stateText(floor.state)} was whole on nodes that answered`,
    );
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

  /**
   * If every node of the newest committed state could be had at that moment, or was not waited for as long as promised,
   * then that state is the least that the new generation must restore. If not, it is written off.
   */
  #generationPlanned(core: CoreState, job: JobState, key: string): void {
    const { jobId } = job.record;
    const committed = this.#committed.get(jobId);
    if (committed === undefined) return;
    const kept = committed.nodes.every((node, rank) => {
      if (node.memory.find(`${committed.layout}/${rank}`, committed.state) === null) return false;
      if (core.nodes.get(node.nodeId)?.leaving) return false; // what it holds is durable, or goes with it
      if (core.quarantine.has(node.nodeId) || (job.blame.get(node.nodeId) ?? 0) >= 3) return false;
      const heardMs = Math.max(core.nodes.get(node.nodeId)?.heardMs ?? 0, core.leader!.electedMs);
      return this.#truth.nowMs - heardMs < this.#truth.graceMs;
    });
    if (!kept) {
      this.#committed.delete(jobId);
      return;
    }
    const memories = committed.nodes.map((node) => ({ node, memory: node.memory }));
    this.#floors.set(key, { state: committed.state, kept: memories });
  }

  #newestCommon(group: TrainGroup): StateName | null {
    const perRank = group.members.map((m) => m!.agent.node.memory.states(m!.rank.set));
    let newest: StateName | null = null;
    for (const state of perRank[0]!) {
      const common = perRank.every((states) => states.some((s) => sameState(s, state)));
      if (!common || this.#bad.has(`${group.job.jobId}@${state.generation}-${state.step}`)) continue;
      if (newest === null || compareStates(state, newest) > 0) newest = state;
    }
    return newest;
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
    this.#committed.set(group.job.jobId, {
      state: snapshotState!,
      layout: set.slice(0, set.indexOf("/")),
      nodes: group.members.map((m) => m!.agent.node),
    });
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

function sourceState(source: unknown): StateName {
  const { $case, value } = source as {
    $case: string;
    value: { state?: never; generation: bigint; step: bigint };
  };
  if ($case === "initial") return { generation: 0, step: 0 };
  return plain($case === "checkpoint" ? value.state! : value);
}
