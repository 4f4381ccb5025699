import type { Layout } from "../../job/layout.js";
import { type FlatUnit, overlappingShards } from "../../job/sharding.js";
import type { Holder, MemoryState } from "./memory_states.js";

/** Holders named for one shard, tried in order. */
const PLACES_COUNT_MAX = 3;

/** A snapshot of the shard of `rank` on another node. */
export interface RestorePlace {
  /** World rank in the layout of the state. */
  rank: number;
  nodeId: string;
}

/**
 * Where each node may read from others to restore a state that lies whole in the memory of the members: the snapshots
 * that its ranks need, also those that it holds itself, which may turn out to be damaged. A message to a node grows with the shards that this node needs, never
 * with those of all. Readers of one shard begin at different holders.
 * @param options.units flat units of the model
 */
export function restorePlaces(options: {
  layout: Layout;
  rankNodes: readonly string[];
  memory: MemoryState;
  units: readonly FlatUnit[];
}): Map<string, RestorePlace[]> {
  const { layout, rankNodes, memory, units } = options;
  const same = memory.layout.toString() === layout.toString();
  const overlaps = Array.from({ length: layout.shardGroupSize }, (_, index) =>
    same ? [index] : overlappingShards(units, { from: memory.layout, to: layout, index }),
  );
  const wanted = new Map<string, Set<number>>();
  for (const [rank, nodeId] of rankNodes.entries()) {
    const shards = wanted.get(nodeId) ?? new Set();
    wanted.set(nodeId, shards);
    for (const shard of overlaps[rank % layout.shardGroupSize]!) shards.add(shard);
  }
  const servers = serversOf(memory);
  const places = new Map<string, RestorePlace[]>();
  for (const [turn, [nodeId, shards]] of [...wanted].entries()) {
    const found = [...shards]
      .sort((a, b) => a - b)
      .flatMap((shard) => placesOf(servers.get(shard)!, nodeId, turn));
    places.set(nodeId, found);
  }
  return places;
}

/** Those who can be read from, and where in that list each node stands. */
interface Servers {
  list: readonly Holder[];
  at: ReadonlyMap<string, readonly number[]>;
}

/** By shard: every node that reads looks at all of them, so this is done once. */
function serversOf({ holders }: MemoryState): Map<number, Servers> {
  const found = new Map<number, Servers>();
  for (const [shard, all] of holders) {
    const list = all.filter((holder) => holder.serves);
    const at = new Map<string, number[]>();
    for (const [place, { nodeId }] of list.entries()) at.set(nodeId, [...(at.get(nodeId) ?? []), place]);
    found.set(shard, { list, at });
  }
  return found;
}

/** Of the others' snapshots, which count as a list of their own, some from the `turn`th on. */
function placesOf({ list, at }: Servers, nodeId: string, turn: number): RestorePlace[] {
  const own = at.get(nodeId) ?? [];
  const others = list.length - own.length;
  const count = Math.min(PLACES_COUNT_MAX, others);
  return Array.from({ length: count }, (_, i) => {
    let place = (turn + i) % others;
    for (const skipped of own) if (skipped <= place) place += 1;
    return placeOf(list[place]!);
  });
}

function placeOf({ rank, nodeId }: Holder): RestorePlace {
  return { rank, nodeId };
}
