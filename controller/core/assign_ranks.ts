import type { Layout } from "../../job/layout.js";
import type { StateName } from "./contract.js";
import { compareStates, stateKey } from "./state_name.js";
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
  /** Nodes that hold the state, by rank. */
  byRank: Map<number, string[]>;
}

/** Every state in memory in this layout, newest first. */
function holdersOf(nodes: readonly AssignableNode[], layout: Layout): Holders[] {
  const wanted = layout.toString();
  const states = new Map<string, Holders>();
  for (const node of nodes) {
    for (const held of node.held) {
      if (held.layout !== wanted || held.rank >= layout.worldSize) continue;
      const key = stateKey(held.state);
      let entry = states.get(key);
      if (entry === undefined) {
        entry = { state: held.state, byRank: new Map() };
        states.set(key, entry);
      }
      const list = entry.byRank.get(held.rank);
      if (list) list.push(node.nodeId);
      else entry.byRank.set(held.rank, [node.nodeId]);
    }
  }
  return [...states.values()].sort((a, b) => compareStates(b.state, a.state));
}

function newestHolders(holders: readonly Holders[], rank: number): string[] {
  return holders.flatMap((entry) => entry.byRank.get(rank) ?? []);
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
    if (byRank.size < layout.worldSize) {
      if (readable && holdsAllShards(layout, byRank)) return null;
      continue;
    }
    if (prior !== null && state.generation < generationNewest) return null;
    const places = new Places(nodes, layout.worldSize);
    let placed = 0;
    for (let rank = 0; rank < layout.worldSize; rank++) {
      const candidates = byRank.get(rank)!;
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

function holdsAllShards(layout: Layout, byRank: ReadonlyMap<number, unknown>): boolean {
  const shards = new Set([...byRank.keys()].map((rank) => rank % layout.shardGroupSize));
  return shards.size === layout.shardGroupSize;
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

/** Slots being handed out. */
class Places {
  readonly rankNodes: (string | null)[];
  readonly #free = new Map<string, number>();
  readonly #used = new Set<string>();
  readonly #order: string[];

  constructor(nodes: readonly AssignableNode[], worldSize: number) {
    this.rankNodes = new Array<string | null>(worldSize).fill(null);
    for (const node of nodes) this.#free.set(node.nodeId, node.slots);
    this.#order = nodes.map((node) => node.nodeId);
  }

  freeOf(nodeId: string): number {
    return this.#free.get(nodeId) ?? 0;
  }

  tryPlace(rank: number, nodeId: string): boolean {
    const free = this.freeOf(nodeId);
    if (this.rankNodes[rank] !== null || free === 0) return false;
    this.rankNodes[rank] = nodeId;
    this.#free.set(nodeId, free - 1);
    this.#used.add(nodeId);
    return true;
  }

  /** With room for all if any has it: beside the group's others, in use, beside the rank before, the fullest. */
  best(options: { room: number; first: number; size: number }): string {
    const beside = new Set(this.rankNodes.slice(options.first, options.first + options.size));
    const before = this.rankNodes[options.first - 1];
    let best = "";
    let bestScore = Number.NEGATIVE_INFINITY;
    for (const nodeId of this.#order) {
      const free = this.freeOf(nodeId);
      if (free === 0) continue;
      const fits = free >= options.room;
      const score =
        (fits ? 1e9 : 0) +
        (beside.has(nodeId) ? 1e8 : 0) +
        (this.#used.has(nodeId) ? 1e7 : 0) +
        (nodeId === before ? 1e6 : 0) +
        (fits && this.#used.has(nodeId) ? -free : free);
      if (score > bestScore) {
        best = nodeId;
        bestScore = score;
      }
    }
    return best;
  }
}
