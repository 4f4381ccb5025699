import type { StateName } from "../../controller/core/contract.js";
import { compareStates, sameState, stateText } from "../../controller/core/state_name.js";
import type { SimNode } from "./sim_agent.js";
import type { SimMemory } from "./sim_memory.js";
import { shardCount } from "./sim_shards.js";

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
