import { durableKeys, type RollBackRecord, type StateName } from "../../controller/core/contract.js";
import type { CoreState } from "../../controller/core/state.js";
import { compareStates, sameState, stateText } from "../../controller/core/state_name.js";
import type { SimController } from "./sim_controller.js";
import type { SimGroup, SimJob } from "./sim_group.js";
import type { SimMemory } from "./sim_memory.js";
import type { SimNode } from "./sim_node.js";
import { shardCount } from "./sim_shards.js";
import type { SimStore } from "./sim_store.js";

/** The truth, as nobody in the system can see it. */
export interface Truth {
  readonly nowMs: number;
  readonly store: SimStore;
  readonly nodes: readonly SimNode[];
  readonly controllers: readonly SimController[];
  readonly groups: ReadonlyMap<number, SimGroup>;
  readonly jobs: ReadonlyMap<string, SimJob>;
  readonly graceMs: number;
  /** No message passes between the two nodes. */
  isCut(a: SimNode, b: SimNode): boolean;
}

/** Steps that are undone, as the store has it. */
export function rollBacksOf({ store }: Truth, jobId: string): readonly RollBackRecord[] {
  const record = store.peek(durableKeys.job(jobId));
  return record?.kind === "job" ? record.rollBacks : [];
}

/** What a node's memory was at some time; another one, or freed, since: what it held is gone. */
export interface Kept {
  node: SimNode;
  memory: SimMemory;
  epoch: number;
}

export function keptOf(node: SimNode): Kept {
  return { node, memory: node.memory, epoch: node.memory.epoch };
}

export function isKept({ node, memory, epoch }: Kept): boolean {
  return node.memory === memory && memory.epoch === epoch;
}

export function domainOf({ nodeId, failureDomain }: SimNode): string {
  return failureDomain === "" ? nodeId : failureDomain;
}

/** In which failure domains each shard of a state is held. */
export function domainsOfShards(
  nodes: readonly SimNode[],
  layout: string,
  state: StateName,
): Map<number, Set<string>> {
  const places = new Map<number, Set<string>>();
  const count = shardCount(layout);
  for (const node of nodes) {
    for (const held of node.memory.held()) {
      if (held.layout !== layout || !sameState(held.state, state)) continue;
      const found = places.get(held.rank % count) ?? new Set();
      places.set(held.rank % count, found.add(domainOf(node)));
    }
  }
  return places;
}

export function isWhole(memories: readonly SimMemory[], layout: string, state: StateName): boolean {
  const shards = new Set<number>();
  for (const held of memories.flatMap((memory) => memory.held())) {
    if (held.layout === layout && sameState(held.state, state)) shards.add(held.rank % shardCount(layout));
  }
  return shards.size === shardCount(layout);
}

/** The newest state of which the memories hold every shard, in any one layout. */
export function newestWhole(
  memories: readonly SimMemory[],
  isBad: (state: StateName) => boolean,
): StateName | null {
  const states = memories.flatMap((memory) => memory.held()).filter(({ state }) => !isBad(state));
  const seen = new Set<string>();
  let newest: StateName | null = null;
  for (const { state, layout } of states) {
    const key = `${stateText(state)} ${layout}`;
    if (seen.has(key) || (newest !== null && compareStates(state, newest) <= 0)) continue;
    seen.add(key);
    if (isWhole(memories, layout, state)) newest = state;
  }
  return newest;
}

/** The core counts on it no more, rightly. */
export function isGivenUp(core: CoreState, { nodeId }: SimNode): boolean {
  const leaves = core.nodes.get(nodeId)?.leaving != null;
  return leaves || core.quarantine.has(nodeId);
}

/** The core can count on it. */
export function isThere(core: CoreState, node: SimNode, nowMs: number): boolean {
  const known = core.nodes.get(node.nodeId);
  const silentMs = 3 * core.config.limits.heartbeatMs;
  const reachable = known != null && known.session !== null && nowMs - known.heardMs <= silentMs;
  return reachable && !isGivenUp(core, node);
}
