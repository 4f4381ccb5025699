import { Layout } from "../../job/layout.js";
import type { StateName } from "./contract.js";
import { StateMap } from "./state_map.js";
import { compareStates } from "./state_name.js";
import type { HeldState } from "./wire.js";

/** A member of a generation, and what its memory holds of the job. */
export interface MemoryNode {
  nodeId: string;
  /** Its agent can be reached by the others: they may read there. */
  serves: boolean;
  held: readonly HeldState[];
}

/** A snapshot of one shard, and the world rank (in the layout of the state) that it was taken of. */
export interface Holder {
  nodeId: string;
  serves: boolean;
  rank: number;
}

/** A state in memory, in the layout that it was computed or restored with. */
export interface MemoryState {
  state: StateName;
  layout: Layout;
  /** By shard index: twins hold equal bits. Holders in the order of the nodes. */
  holders: ReadonlyMap<number, readonly Holder[]>;
}

type Found = Omit<MemoryState, "holders"> & { holders: Map<number, Holder[]> };

/** Every state in the memory of these nodes, newest first; of equal names, that in the layout `first`. */
export function memoryStates(nodes: readonly MemoryNode[], first: Layout): MemoryState[] {
  const layouts = new Map<string, { layout: Layout; states: StateMap<Found> }>();
  layouts.set(first.toString(), { layout: first, states: new StateMap() });
  for (const { nodeId, serves, held } of nodes) {
    for (const { state, rank, layout: text } of held) {
      let known = layouts.get(text);
      if (known === undefined) {
        known = { layout: Layout.parse(text), states: new StateMap() };
        layouts.set(text, known);
      }
      const { layout, states } = known;
      const entry = states.of(state, () => ({ state, layout, holders: new Map() }));
      if (rank >= layout.worldSize) continue;
      const shard = rank % layout.shardGroupSize;
      const list = entry.holders.get(shard);
      if (list) list.push({ nodeId, serves, rank });
      else entry.holders.set(shard, [{ nodeId, serves, rank }]);
    }
  }
  const isOther = ({ layout }: Found) => (layout === first ? 0 : 1);
  const found = [...layouts.values()].flatMap(({ states }) => states.values());
  return found.sort((a, b) => compareStates(b.state, a.state) || isOther(a) - isOther(b));
}

/** Nodes of the ranks that hold each shard of a layout. */
export function nodesOfShard(layout: Layout, rankNodes: readonly string[]): (shard: number) => string[] {
  return (shard) => layout.replicaGroup(shard).map((rank) => rankNodes[rank]!);
}

/** Whether every shard can be had by all nodes that may want it (`wanting`, by shard index). */
export function isWhole(
  { layout, holders }: MemoryState,
  wanting: (shard: number) => readonly string[],
): boolean {
  if (holders.size < layout.shardGroupSize) return false;
  for (const [shard, list] of holders) {
    if (list.some(({ serves }) => serves)) continue;
    if (!wanting(shard).every((nodeId) => list.some((holder) => holder.nodeId === nodeId))) return false;
  }
  return true;
}
