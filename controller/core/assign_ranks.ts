import type { Layout } from "../../job/layout.js";
import type { StateName } from "./contract.js";
import { StateMap } from "./state_map.js";
import { compareStates } from "./state_name.js";
import type { HeldState } from "./wire.js";

export interface AssignableNode {
  nodeId: string;
  slots: number;
  /** Its agent can be reached by the others: they may read what it holds. */
  serves: boolean;
  /** Whole snapshots of this job in the node's memory; those of other layouts are passed over. */
  held: readonly HeldState[];
}

/**
 * Node of every rank, in rank order. Pure and deterministic (ties go to the lower node id).
 *
 * 1. The newest state that every rank could restore where its part lies decides, if there is one and none that is newer
 *    could be read from others: each rank goes there.
 * 2. Else a rank stays where it was, or goes where its newest snapshot is.
 * 3. The rest is filled by whole sequence groups, onto nodes in use first, so that `sp` stays inside a node where it
 *    can and as few nodes as possible are taken.
 * @param options.prior node of every rank in the last generation, when that had the same layout; else null
 * @throws RangeError when the nodes have fewer slots than the layout has ranks: callers count first
 */
export function assignRanks(options: {
  layout: Layout;
  nodes: readonly AssignableNode[];
  prior: readonly string[] | null;
}): string[] {
  const { layout, prior } = options;
  const nodes = [...options.nodes].sort((a, b) => (a.nodeId < b.nodeId ? -1 : 1));
  const slots = nodes.reduce((sum, node) => sum + node.slots, 0);
  if (slots < layout.worldSize)
    throw new RangeError(`assignRanks: ${slots} slots for ${layout.worldSize} ranks`);
  const holders = holdersOf(nodes, layout);
  const whole = placeByState(layout, nodes, holders, prior);
  if (whole !== null) return whole;

  const places = new Places(nodes, layout.worldSize);
  for (let rank = 0; rank < layout.worldSize; rank++) {
    const before = prior?.[rank];
    if (before !== undefined) places.tryPlace(rank, before);
  }
  for (let rank = 0; rank < layout.worldSize; rank++) {
    if (places.rankNodes[rank] !== null) continue;
    for (const nodeId of newestHolders(holders, rank)) if (places.tryPlace(rank, nodeId)) break;
  }
  for (let first = 0; first < layout.worldSize; first += layout.sp) fillGroup(places, first, layout.sp);
  return places.rankNodes as string[];
}

interface Holders {
  state: StateName;
  /** Nodes that hold the state. */
  byRank: NodesByRank;
}

/** Every state in memory in this layout, newest first. */
function holdersOf(nodes: readonly AssignableNode[], layout: Layout): Holders[] {
  const wanted = layout.toString();
  const states = new StateMap<Holders>();
  for (const [at, node] of nodes.entries()) {
    for (const held of node.held) {
      if (held.layout !== wanted || held.rank >= layout.worldSize) continue;
      const make = () => ({ state: held.state, byRank: new NodesByRank(nodes, layout.worldSize) });
      states.of(held.state, make).byRank.add(held.rank, at);
    }
  }
  return [...states.values()].sort((a, b) => compareStates(b.state, a.state));
}

function newestHolders(holders: readonly Holders[], rank: number): string[] {
  return holders.flatMap((entry) => entry.byRank.of(rank));
}

/**
 * Places by the newest state that all ranks hold. Inventories lag by a heartbeat, so a state of an older generation
 * than some rank's present node already holds does not move anybody; nor does one that is older than what can be read
 * from the nodes in use (replicas, twins), which stay in use.
 */
function placeByState(
  layout: Layout,
  nodes: readonly AssignableNode[],
  holders: readonly Holders[],
  prior: readonly string[] | null,
): string[] | null {
  const generationNewest = holders[0]?.state.generation ?? 0;
  const readable = prior !== null && nodes.every(({ serves }) => serves);
  for (const { state, byRank } of holders) {
    if (byRank.rankCount < layout.worldSize) {
      if (readable && holdsAllShards(layout, byRank)) return null;
      continue;
    }
    if (prior !== null && state.generation < generationNewest) return null;
    const places = new Places(nodes, layout.worldSize);
    let placed = 0;
    for (let rank = 0; rank < layout.worldSize; rank++) {
      const candidates = byRank.of(rank);
      const before = prior?.[rank];
      const ordered =
        before !== undefined && candidates.includes(before) ? [before, ...candidates] : candidates;
      if (ordered.some((nodeId) => places.tryPlace(rank, nodeId))) placed += 1;
    }
    if (placed === layout.worldSize) return places.rankNodes as string[];
    if (readable) return null;
  }
  return null;
}

function holdsAllShards(layout: Layout, byRank: NodesByRank): boolean {
  const shards = new Set<number>();
  for (let rank = 0; rank < layout.worldSize && shards.size < layout.shardGroupSize; rank++)
    if (byRank.has(rank)) shards.add(rank % layout.shardGroupSize);
  return shards.size === layout.shardGroupSize;
}

/** Nodes of every rank, in the order in which they were added: lists linked by numbers, since each snapshot is in one. */
class NodesByRank {
  /** Ranks that have a node. */
  rankCount = 0;
  readonly #nodes: readonly AssignableNode[];
  /** Entries by rank: its first and its last; -1: none. */
  readonly #first: Int32Array;
  readonly #last: Int32Array;
  /** Of every entry: its node's place, and the entry that follows. */
  readonly #at: number[] = [];
  readonly #next: number[] = [];

  constructor(nodes: readonly AssignableNode[], worldSize: number) {
    this.#nodes = nodes;
    this.#first = new Int32Array(worldSize).fill(-1);
    this.#last = new Int32Array(worldSize).fill(-1);
  }

  add(rank: number, at: number): void {
    const entry = this.#at.push(at) - 1;
    this.#next.push(-1);
    const last = this.#last[rank]!;
    if (last === -1) {
      this.#first[rank] = entry;
      this.rankCount += 1;
    } else this.#next[last] = entry;
    this.#last[rank] = entry;
  }

  has(rank: number): boolean {
    return this.#first[rank] !== -1;
  }

  of(rank: number): string[] {
    const found: string[] = [];
    for (let entry = this.#first[rank]!; entry !== -1; entry = this.#next[entry]!)
      found.push(this.#nodes[this.#at[entry]!]!.nodeId);
    return found;
  }
}

/** Puts the unplaced ranks of one sequence group onto one node, or onto as few as possible. */
function fillGroup(places: Places, first: number, size: number): void {
  let open: number[] = [];
  for (let rank = first; rank < first + size; rank++) if (places.rankNodes[rank] === null) open.push(rank);
  while (open.length > 0) {
    const nodeId = places.best({ room: open.length, first, size });
    const room = Math.min(open.length, places.freeOf(nodeId));
    for (const rank of open.slice(0, room)) places.tryPlace(rank, nodeId);
    open = open.slice(room);
  }
}

/** Slots being handed out. Finding a node for a group looks at a few candidates, whatever the number of nodes. */
class Places {
  readonly rankNodes: (string | null)[];
  readonly #nodeIds: string[];
  readonly #index: ReadonlyMap<string, number>;
  readonly #free: Int32Array;
  readonly #used: Uint8Array;
  /** Nodes by whether they are in use and how many slots they have left: `#byFree[used][free]`. */
  readonly #byFree: LowestFirst[][];

  constructor(nodes: readonly AssignableNode[], worldSize: number) {
    this.rankNodes = new Array<string | null>(worldSize).fill(null);
    this.#nodeIds = nodes.map((node) => node.nodeId);
    this.#index = new Map(this.#nodeIds.map((nodeId, at) => [nodeId, at]));
    this.#free = Int32Array.from(nodes, (node) => node.slots);
    this.#used = new Uint8Array(nodes.length);
    const most = nodes.reduce((max, node) => Math.max(max, node.slots), 0);
    const lists = () => Array.from({ length: most + 1 }, () => new LowestFirst(nodes.length));
    this.#byFree = [lists(), lists()];
    for (const [at, node] of nodes.entries()) this.#byFree[0]![node.slots]!.add(at);
  }

  freeOf(nodeId: string): number {
    const at = this.#index.get(nodeId);
    return at === undefined ? 0 : this.#free[at]!;
  }

  tryPlace(rank: number, nodeId: string): boolean {
    const at = this.#index.get(nodeId);
    if (at === undefined || this.rankNodes[rank] !== null || this.#free[at] === 0) return false;
    this.rankNodes[rank] = nodeId;
    this.#byFree[this.#used[at]!]![this.#free[at]!]!.remove(at);
    this.#free[at]! -= 1;
    this.#used[at] = 1;
    this.#byFree[1]![this.#free[at]!]!.add(at);
    return true;
  }

  /** With room for all if any has it: beside the group's others, in use, beside the rank before, the fullest. */
  best(options: { room: number; first: number; size: number }): string {
    const { room, first, size } = options;
    const beside = new Set(this.rankNodes.slice(first, first + size));
    const before = this.rankNodes[first - 1] ?? null;
    let best = -1;
    let bestScore = Number.NEGATIVE_INFINITY;
    const look = (at: number) => {
      const free = this.#free[at]!;
      if (free === 0) return;
      const nodeId = this.#nodeIds[at]!;
      const fits = free >= room;
      const used = this.#used[at] === 1;
      const score =
        (fits ? 1e9 : 0) +
        (beside.has(nodeId) ? 1e8 : 0) +
        (used ? 1e7 : 0) +
        (nodeId === before ? 1e6 : 0) +
        (fits && used ? -free : free);
      if (score < bestScore || (score === bestScore && at > best)) return;
      best = at;
      bestScore = score;
    };
    for (const nodeId of [...beside, before]) if (nodeId !== null) look(this.#index.get(nodeId)!);
    // Of all others alike, the first one stands for them.
    for (const lists of this.#byFree) {
      for (let free = 1; free < lists.length; free++) {
        const at = lists[free]!.first();
        if (at !== null) look(at);
      }
    }
    return this.#nodeIds[best]!;
  }
}

/** A set of small numbers that knows its lowest. */
class LowestFirst {
  readonly #has: Uint8Array;
  /** None is lower. */
  #from: number;

  constructor(size: number) {
    this.#has = new Uint8Array(size);
    this.#from = size;
  }

  add(value: number): void {
    this.#has[value] = 1;
    this.#from = Math.min(this.#from, value);
  }

  remove(value: number): void {
    this.#has[value] = 0;
  }

  first(): number | null {
    while (this.#from < this.#has.length && this.#has[this.#from] === 0) this.#from += 1;
    return this.#from < this.#has.length ? this.#from : null;
  }
}
