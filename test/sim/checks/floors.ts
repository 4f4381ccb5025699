import assert from "node:assert/strict";
import type { StateName } from "../../../controller/core/contract.js";
import type { CoreState, JobState } from "../../../controller/core/state.js";
import { compareStates, stateText } from "../../../controller/core/state_name.js";
import type { SimNode } from "../sim_node.js";
import { shardCount } from "../sim_shards.js";
import type { DurableTruth } from "../sim_storage.js";
import {
  domainOf,
  domainsOfShards,
  isGivenUp,
  isKept,
  isThere,
  isWhole,
  type Kept,
  keptOf,
  newestWhole,
  type Truth,
} from "../sim_truth.js";
import type { TrainGroup } from "../train_group.js";

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

export interface Floor {
  state: StateName;
  kept: Kept[];
  /** Some of that is read from nodes without a place. */
  isServed: boolean;
}

/** The least that a generation must restore, from what was whole in memory when it was planned. */
export class Floors {
  readonly #truth: Truth;
  readonly #isBad: (jobId: string, state: StateName) => boolean;
  /** By term and number: a leader may fall before its plan is durable. */
  readonly #floors = new Map<string, Floor[]>();
  /** Newest state that every rank of a group held whole. */
  readonly #committed = new Map<string, Committed>();
  readonly #replicated = new Map<string, Replicated>();

  constructor(truth: Truth, isBad: (jobId: string, state: StateName) => boolean) {
    this.#truth = truth;
    this.#isBad = isBad;
  }

  of(plan: string): readonly Floor[] {
    return this.#floors.get(plan) ?? [];
  }

  voted(group: TrainGroup, state: StateName): void {
    const { layout } = group;
    const { jobId } = group.job;
    const replicated = this.#replicated.get(jobId);
    // Another layout has been restored, an older state, or nothing is sent any more (twins): nobody keeps it for long.
    const isKeptOn = group.replicate && replicated?.layout === layout;
    if (replicated && (!isKeptOn || compareStates(state, replicated.state) < 0))
      this.#replicated.delete(jobId);
    this.#committed.set(jobId, { state, layout, nodes: group.members.map((m) => m!.agent.node) });
  }

  /** Said by a vote: then every shard is there without any one failure domain, if there are two. */
  replicated(group: TrainGroup, state: StateName): void {
    const nodes = [...new Set(group.members.map((m) => m!.agent.node))];
    const { layout } = group;
    const domains = new Set(nodes.map(domainOf));
    if (domains.size > 1) {
      const places = domainsOfShards(nodes, layout, state);
      for (let shard = 0; shard < shardCount(layout); shard++) {
        const found = [...(places.get(shard) ?? [])];
        assert.ok(
          found.length > 1,
          `${stateText(state)} is called replicated, and shard ${shard} of it is in ${found.length === 0 ? "no memory" : `${found} only`}`,
        );
      }
    }
    if (domains.size === 1) this.#replicated.delete(group.job.jobId);
    else this.#replicated.set(group.job.jobId, { state, layout, members: nodes.map(keptOf) });
  }

  /** Bits turned in what a node holds of it: what was in two places may be in one. */
  damaged(jobId: string): void {
    this.#replicated.delete(jobId);
  }

  planned(core: CoreState, job: JobState, key: string): void {
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
      if (isGivenUp(core, node)) return false; // what a leaving node holds is durable, or goes with it
      const heardMs = Math.max(core.nodes.get(node.nodeId)?.heardMs ?? 0, core.leader!.electedMs);
      return this.#truth.nowMs - heardMs < this.#truth.graceMs;
    });
    if (!kept) {
      this.#committed.delete(jobId);
      return null;
    }
    const from = committed.nodes.map(keptOf);
    const members = new Set(job.generation!.rankNodes);
    if (!committed.nodes.every(({ nodeId }) => members.has(nodeId))) {
      // A node without a place serves what it holds: only for one that is out of sight may others take over.
      if (committed.nodes.some(({ nodeId }) => job.unreadable.has(nodeId))) return null;
      const isSeen = (node: SimNode) => isThere(core, node, this.#truth.nowMs);
      if (committed.nodes.every(isSeen)) return { state: committed.state, kept: from, isServed: true };
      const taken = this.#takenOver(job, committed);
      if (taken !== null) return taken;
    }
    return { state: committed.state, kept: from, isServed: false };
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
      : { state: whole, kept: nodes.map(keptOf), isServed: false };
  }

  /** Unless something as new is durable: while all that is lost is in one failure domain, the replicated state is whole in what is left, and is restored. */
  #replicatedFloor(core: CoreState, job: JobState): Floor | null {
    const replicated = this.#replicated.get(job.record.jobId);
    if (replicated === undefined || this.#isBad(job.record.jobId, replicated.state)) return null;
    const { durable } = this.#truth.jobs.get(job.record.jobId)!.storage;
    const isDurable = ({ content, corrupt }: DurableTruth) =>
      !corrupt &&
      !this.#isBad(job.record.jobId, content.state) &&
      compareStates(content.state, replicated.state) >= 0;
    if (durable.some(isDurable)) return null;
    const left = replicated.members.filter(
      (each) => isKept(each) && isThere(core, each.node, this.#truth.nowMs),
    );
    const lost = replicated.members.filter((each) => !left.includes(each));
    if (new Set(lost.map(({ node }) => domainOf(node))).size > 1) return null;
    const { state, layout } = replicated;
    const memories = left.map(({ memory }) => memory);
    assert.ok(
      isWhole(memories, layout, state),
      `${stateText(state)} was replicated, and is lost with ${lost.map(({ node }) => node.nodeId).join(", ")}`,
    );
    return { state, kept: left, isServed: false };
  }

  #membersOf(job: JobState): SimNode[] {
    const members = new Set(job.generation!.rankNodes);
    return this.#truth.nodes.filter(({ nodeId }) => members.has(nodeId));
  }
}
