import assert from "node:assert/strict";
import type {
  CheckpointEntry,
  CheckpointsRecord,
  FoundCheckpoint,
  StateName,
} from "../../../controller/core/contract.js";
import type { CoreState } from "../../../controller/core/state.js";
import { compareStates, sameState, stateKey, stateText } from "../../../controller/core/state_name.js";
import type { Restore, SnapshotSource } from "../../../gen/goku/v1/agent.pb.js";
import { layoutText, plain } from "../../support/agent_messages.js";
import type { SimGroup } from "../sim_group.js";
import type { Copy } from "../sim_memory.js";
import type { SimNode } from "../sim_node.js";
import { shardCount, shardsNeeded } from "../sim_shards.js";
import { isKept, isThere, newestWhole, rollBacksOf, type Truth } from "../sim_truth.js";
import { badCheckpoint } from "../sim_world.js";
import { TrainGroup } from "../train_group.js";
import { Floors } from "./floors.js";
import { isUndone, RollBackChecks } from "./roll_back_checks.js";

/** News of its damage may get lost with a stream, and a leader with what it knows. */
const AGAIN_COUNT_MAX = 4;

/** What generations are told to restore: the newest there is, the same for all, and from where it can be had. */
export class RestoreChecks {
  readonly floors: Floors;
  readonly rollBacks: RollBackChecks;
  readonly #truth: Truth;
  /** Term and number under which a generation was planned. */
  readonly #planOf: (generation: number) => string;
  /** What each generation was told to restore, and by node, with the places. */
  readonly #told = new Map<number | string, string>();
  /** Checkpoints and snapshots that turned out unreadable. */
  readonly #bad = new Set<string>();
  /** Generations that one of those was chosen for all the same, by term. */
  readonly #again = new Map<string, Set<number>>();
  /** What storage told each generation. */
  readonly #listed = new Map<number, readonly StateName[]>();
  /** Checkpoints that were ever in the register, by job. */
  readonly #registered = new Map<string, Map<string, StateName>>();

  constructor(truth: Truth, planOf: (generation: number) => string) {
    this.#truth = truth;
    this.#planOf = planOf;
    this.rollBacks = new RollBackChecks(truth);
    this.floors = new Floors(truth, (jobId, state) => this.#isBad(jobId, state));
  }

  /** A state proved unreadable: from now on nobody expects it. */
  foundBad(key: string): void {
    this.#bad.add(key);
  }

  listed(generation: number, found: readonly FoundCheckpoint[]): void {
    this.#listed.set(
      generation,
      found.map(({ state }) => state),
    );
  }

  sent(core: CoreState, restore: Restore, nodeId: string): void {
    const { generation, source } = restore;
    const group = this.#truth.groups.get(Number(generation))!;
    const places = source?.$case === "snapshot" ? source.value.places : [];
    const what = source?.$case === "snapshot" ? { ...source.value, places: [] } : source?.value;
    this.#sameAsBefore(group, `${group.generation}/${nodeId}`, places);
    if (group instanceof TrainGroup) this.rollBacks.restores(group, restore, sourceState(source));
    if (!this.#sameAsBefore(group, group.generation, what)) this.#restoreChosen(core, group, source);
    if (source?.$case === "snapshot") {
      this.#canRestore(core, group, source.value, nodeId);
      this.#canMend(core, group, source.value, nodeId);
    } else if (source?.$case === "checkpoint")
      this.#isThere(core, group, source.value.uri, plain(source.value.state!));
    assert.equal(
      group.connectedRanks.size,
      group.worldSize,
      `generation ${group.generation} restores before all connected`,
    );
  }

  /** Whether it was told before; what it is told must be the same then. */
  #sameAsBefore(group: SimGroup, key: number | string, told: unknown): boolean {
    const text = JSON.stringify(told, (_, value) => (typeof value === "bigint" ? Number(value) : value));
    const before = this.#told.get(key);
    this.#told.set(key, text);
    if (before !== undefined)
      assert.equal(text, before, `generation ${group.generation} is told two sources`);
    return before !== undefined;
  }

  /**
   * A node has every shard that its ranks need, or is told of a place that does; unless a machine went down since, or may
   * have: a place out of the core's sight is worth one try.
   */
  #canRestore(core: CoreState, group: SimGroup, source: SnapshotSource, nodeId: string): void {
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
          placed.some(
            (place) =>
              core.nodes.get(place.nodeId)?.session == null ||
              has(this.#truth.nodes.find((node) => node.nodeId === place.nodeId)!, shard),
          );
        assert.ok(
          there,
          `rank ${rank.rank} is to restore ${stateText(state)}, of which it can have shard ${shard} nowhere`,
        );
      }
    }
  }

  /**
   * What a node holds damaged it can read elsewhere, where that is whole: it is told of places also for what it has itself. Three
   * are enough.
   */
  #canMend(core: CoreState, group: SimGroup, source: SnapshotSource, nodeId: string): void {
    const from = layoutText(source.layout!);
    const state = plain(source.state!);
    for (const { rank, agent } of group.members.map((member) => member!)) {
      if (agent.node.nodeId !== nodeId) continue;
      for (const shard of shardsNeeded({ from, to: group.layout, rank: rank.rank })) {
        const isOfShard = (of: number) => of % shardCount(from) === shard;
        const copies = ({ memory }: SimNode) => memory.copiesOf({ layout: from, isOfShard, state });
        const damaged = damagedEverywhere(copies(agent.node));
        const placed = source.places.filter((place) => isOfShard(place.rank)).map((place) => place.nodeId);
        if (damaged.length === 0 || placed.length >= 3) continue;
        const others = group.members
          .map((member) => member!.agent.node)
          .filter((node) => {
            const isTold = node === agent.node || placed.includes(node.nodeId);
            const known = core.nodes.get(node.nodeId)?.held ?? [];
            const isKnown = known.some(
              (held) => held.layout === from && isOfShard(held.rank) && sameState(held.state, state),
            );
            return (
              !isTold && isKnown && copies(node).some((copy) => damaged.some((c) => !copy.damaged.has(c)))
            );
          });
        assert.deepEqual(
          others.map((node) => node.nodeId),
          [],
          `rank ${rank.rank} holds ${stateText(state)} damaged and is not told who holds shard ${shard} whole`,
        );
      }
    }
  }

  /**
   * A checkpoint that is chosen stands where the register says, unless somebody removed it or the newer one that it went for, or
   * no register has heard of that one's commit. What a listing lacks is tried all the same: a controller whose mount is gone
   * lists nothing, and the ranks can tell. One that proved bad is passed over.
   */
  #isThere(core: CoreState, group: SimGroup, uri: string, state: StateName): void {
    const { storage, jobId } = group.job;
    const found = storage.find(state);
    const newest = storage.durable.at(-1)?.content.state;
    const isKnown = newest === undefined || this.#registered.get(jobId)?.has(stateKey(newest));
    const isLost = [...storage.lost.values()].some((lost) => compareStates(lost, state) >= 0);
    assert.ok(
      found !== null || isLost || !isKnown,
      `generation ${group.generation} restores ${uri} of ${stateText(state)}, which retention has removed`,
    );
    const key = badCheckpoint(uri, state);
    if (!this.#bad.has(key)) return;
    const inTerm = `${core.leader!.term} ${key}`;
    const generations = (this.#again.get(inTerm) ?? new Set()).add(group.generation);
    this.#again.set(inTerm, generations);
    assert.ok(generations.size <= AGAIN_COUNT_MAX, `${key} proved unreadable, and is chosen again and again`);
  }

  /** The newest checkpoint of the register is forgotten only where it proved unusable, or is not there. */
  registered({ jobId, entries }: CheckpointsRecord, before: CheckpointsRecord | null): void {
    const known = this.#registered.get(jobId) ?? new Map<string, StateName>();
    this.#registered.set(jobId, known);
    const newestBefore = before === null ? null : newestUsable(before.entries);
    const newest = newestUsable(entries);
    if (newestBefore !== null && (newest === null || compareStates(newest, newestBefore) < 0)) {
      const entry = entries.find((each) => sameState(each.state, newestBefore));
      assert.ok(
        entry === undefined
          ? this.#truth.jobs.get(jobId)!.storage.find(newestBefore) === null
          : entry.unusable !== null,
        `${stateText(newestBefore)} is forgotten, which was the newest checkpoint of ${jobId}`,
      );
    }
    for (const { state } of entries) known.set(stateKey(state), state);
  }

  /** No committed step is lost beyond what can still be had. */
  #restoreChosen(core: CoreState, group: SimGroup, source: Restore["source"]): void {
    const { job } = group;
    const chosen = sourceState(source);
    const isFromMemory = source?.$case === "snapshot";
    const label = `generation ${group.generation} restores ${stateText(chosen)}`;
    const memories = new Set(group.members.map((m) => m!.agent.node.memory));
    const inMemory = newestWhole([...memories], (state) => this.#isBad(job.jobId, state));
    if (inMemory !== null) {
      assert.ok(
        compareStates(chosen, inMemory) >= 0,
        `${label}, its nodes hold ${stateText(inMemory)} whole`,
      );
    }
    const listed = this.#listed.get(group.generation) ?? [];
    for (const state of [...(this.#registered.get(job.jobId)?.values() ?? []), ...listed]) {
      const stands = job.storage.find(state);
      if (stands === null || this.#bad.has(badCheckpoint(stands.uri, state))) continue;
      if (isUndone(rollBacksOf(this.#truth, job.jobId), state)) continue;
      assert.ok(
        compareStates(chosen, state) >= 0,
        `${label}, ${stands.uri} of ${stateText(state)} was registered or found, and is there`,
      );
    }
    // The first generation of a job finds nothing, and one that goes on from memory does not look.
    const { restarts } = core.jobs.get(job.jobId)!;
    assert.ok(
      isFromMemory || job.program !== null || restarts === 0 || this.#listed.has(group.generation),
      `${label}, and has not looked what is committed`,
    );
    for (const floor of this.floors.of(this.#planOf(group.generation))) {
      // A machine that went down since then took its part with it.
      if (!floor.kept.every(isKept) || this.#isBad(job.jobId, floor.state)) continue;
      if (floor.isServed && !floor.kept.every(({ node }) => this.#canBeRead(core, group, node))) continue;
      assert.ok(
        compareStates(chosen, floor.state) >= 0,
        `${label}, ${stateText(floor.state)} was whole on nodes that answered`,
      );
    }
  }

  /** A member, or a node that the members and the core can reach. */
  #canBeRead(core: CoreState, group: SimGroup, node: SimNode): boolean {
    const members = group.members.map((member) => member!.agent.node);
    if (members.includes(node)) return true;
    const job = core.jobs.get(group.job.jobId)!;
    const reached = members.every((member) => !this.#truth.isCut(member, node));
    return reached && isThere(core, node, this.#truth.nowMs) && !job.unreadable.has(node.nodeId);
  }

  #isBad(jobId: string, state: StateName): boolean {
    return (
      this.#bad.has(`${jobId}@${state.generation}-${state.step}`) ||
      isUndone(rollBacksOf(this.#truth, jobId), state)
    );
  }
}

function sourceState(source: Restore["source"]): StateName {
  return source?.$case === "initial" ? { generation: 0, step: 0 } : plain(source!.value.state!);
}

function newestUsable(entries: readonly CheckpointEntry[]): StateName | null {
  return entries.findLast(({ unusable }) => unusable === null)?.state ?? null;
}

/** Chunks that none of these holds undamaged, where there is any copy at all. */
function damagedEverywhere(copies: readonly Copy[]): number[] {
  const [first, ...others] = copies;
  if (first === undefined) return [];
  return [...first.damaged].filter((chunk) => others.every(({ damaged }) => damaged.has(chunk)));
}
