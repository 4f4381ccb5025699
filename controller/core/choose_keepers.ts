import type { Layout } from "../../job/layout.js";
import { Heap } from "./heap.js";
import { ranksText } from "./ranks_text.js";

/** A member node as far as replicas are concerned. */
export interface KeeperNode {
  nodeId: string;
  /** What fails together with it; its own id when nothing else does. */
  failureDomain: string;
  slots: number;
  /** Its agent can be reached by the others. */
  serves: boolean;
}

export interface KeeperPlan {
  /** Keeper of each rank's replica, by rank; null: the rank sends nothing. */
  keepers: readonly (string | null)[];
  /** Ranks whose replicas a node keeps, ascending. */
  kept: ReadonlyMap<string, readonly number[]>;
  /** What may be lost at once while every shard stays in memory. */
  covers: "domain" | "node" | "nothing";
  /** One line for people. */
  reason: string;
}

/**
 * Where the state of each rank is in memory a second time. Pure and deterministic (ties go to the lower domain and id).
 *
 * A rank whose twin (same shard, other replica) is in another failure domain sends nothing. Others send to a node of
 * another domain, as evenly over the slots of the keepers as domains allow. Where a rank has no such node, one in its
 * own domain helps against the loss of a node.
 * @param options.nodes every node that `rankNodes` names
 */
export function chooseKeepers(options: {
  /** Of the job: 0 switches replicas off. */
  replicas: number;
  layout: Layout;
  rankNodes: readonly string[];
  nodes: readonly KeeperNode[];
}): KeeperPlan {
  const { replicas, layout, rankNodes } = options;
  const nodes = [...options.nodes].sort(compareNodes);
  const keepers = new Array<string | null>(rankNodes.length).fill(null);
  if (replicas === 0 || nodes.length === 1) {
    const why = replicas === 0 ? "checkpoint.replicas is 0" : "the job runs on one node";
    return { keepers, kept: new Map(), covers: "nothing", reason: `no replica: ${why}` };
  }
  const domains = new Map(nodes.map((node) => [node.nodeId, node.failureDomain]));
  const alone = withoutTwin(layout, rankNodes, (nodeId) => domains.get(nodeId)!);
  const stuck = assignKeepers(nodes, byNode(rankNodes, alone), (node) => node.failureDomain, keepers);
  // Inside the domain then: a twin on another node, or a keeper.
  const bound = new Set(stuck);
  const aloneThere = withoutTwin(layout, rankNodes, (nodeId) => nodeId).filter((rank) => bound.has(rank));
  const bare = assignKeepers(nodes, byNode(rankNodes, aloneThere), (node) => node.nodeId, keepers);
  return {
    keepers,
    kept: keptBy(keepers),
    covers: bare.length > 0 ? "nothing" : stuck.length > 0 ? "node" : "domain",
    reason: reasonOf({ nodes, rankNodes, keepers, alone, stuck, bare }),
  };
}

function compareNodes(a: KeeperNode, b: KeeperNode): number {
  if (a.failureDomain !== b.failureDomain) return a.failureDomain < b.failureDomain ? -1 : 1;
  return a.nodeId < b.nodeId ? -1 : 1;
}

/** Ranks whose shard is held in one place only, where `placeOf` says what counts as one. */
function withoutTwin(
  layout: Layout,
  rankNodes: readonly string[],
  placeOf: (nodeId: string) => string,
): number[] {
  const { shardGroupSize } = layout;
  const first = rankNodes.slice(0, shardGroupSize).map(placeOf);
  const spread = new Uint8Array(shardGroupSize); // 1: the shard is in several places
  for (let rank = shardGroupSize; rank < rankNodes.length; rank++) {
    const shard = rank % shardGroupSize;
    if (spread[shard] === 0 && placeOf(rankNodes[rank]!) !== first[shard]) spread[shard] = 1;
  }
  const alone: number[] = [];
  if (!spread.includes(0)) return alone;
  for (let rank = 0; rank < rankNodes.length; rank++)
    if (spread[rank % shardGroupSize] === 0) alone.push(rank);
  return alone;
}

function byNode(rankNodes: readonly string[], ranks: readonly number[]): Map<string, number[]> {
  const found = new Map<string, number[]>();
  for (const rank of ranks) {
    const list = found.get(rankNodes[rank]!);
    if (list) list.push(rank);
    else found.set(rankNodes[rank]!, [rank]);
  }
  return found;
}

/** The nodes of one domain: what they have still to send, and what they are still to be given to keep. */
interface Domain {
  sources: number[][];
  keepers: { nodeId: string; slots: number; room: number }[];
  demand: number;
  room: number;
}

/**
 * Gives ranks a keeper outside their own domain, and returns those for which there is none.
 *
 * The room of the keepers is made to fit first: no domain is to keep more than the others send. Then the two domains
 * with the most left to send and to keep are served, so that in the end none is left with only itself to send to.
 */
function assignKeepers(
  nodes: readonly KeeperNode[],
  ranks: ReadonlyMap<string, number[]>,
  domainOf: (node: KeeperNode) => string,
  keepers: (string | null)[],
): number[] {
  const serving = new Set(nodes.filter((node) => node.serves).map(domainOf));
  const stuck: number[] = [];
  const domains = new Map<string, Domain>();
  for (const node of nodes) {
    const name = domainOf(node);
    const domain = domains.get(name) ?? { sources: [], keepers: [], demand: 0, room: 0 };
    domains.set(name, domain);
    if (node.serves) domain.keepers.push({ nodeId: node.nodeId, slots: node.slots, room: 0 });
    const own = ranks.get(node.nodeId) ?? [];
    if (serving.size === 0 || (serving.size === 1 && serving.has(name))) stuck.push(...own);
    else if (own.length > 0) {
      domain.sources.push([...own]);
      domain.demand += own.length;
    }
  }
  const ring = [...domains.values()];
  let left = ring.reduce((sum, domain) => sum + domain.demand, 0);
  makeRoom(ring, left);
  while (left > 0) left -= serve(ring, left, keepers);
  return stuck.sort((a, b) => a - b);
}

/** Shares what is to be kept out over the slots of all keepers, one by one to the emptiest. */
function makeRoom(ring: readonly Domain[], total: number): void {
  const keepers = ring.flatMap((domain) => domain.keepers.map((keeper) => ({ domain, keeper })));
  const emptier = (a: number, b: number): boolean => {
    const [one, other] = [keepers[a]!.keeper, keepers[b]!.keeper];
    const difference = (one.room + 1) * other.slots - (other.room + 1) * one.slots;
    return difference < 0 || (difference === 0 && a < b);
  };
  const open = new Heap(emptier);
  for (const at of keepers.keys()) open.push(at);
  for (let given = 0; given < total; ) {
    const at = open.pop();
    const { domain, keeper } = keepers[at]!;
    if (domain.room + domain.demand >= total) continue; // the others send no more than that, now or later
    keeper.room += 1;
    domain.room += 1;
    given += 1;
    open.push(at);
  }
}

/** One node sends to one keeper as much as it can without leaving a third domain stuck; returns how much. */
function serve(ring: readonly Domain[], left: number, keepers: (string | null)[]): number {
  const from = fullest(ring, 0, (domain) => domain.demand > 0);
  const to = fullest(ring, from + 1, (domain, at) => domain.room > 0 && at !== from);
  const source = ring[from]!.sources[0]!;
  const keeper = ring[to]!.keepers.find(({ room }) => room > 0)!;
  let count = Math.min(source.length, keeper.room);
  for (let at = 0; at < ring.length; at++) {
    const { demand, room } = ring[at]!;
    if (at !== from && at !== to) count = Math.min(count, left - demand - room);
  }
  for (const rank of source.splice(0, count)) keepers[rank] = keeper.nodeId;
  if (source.length === 0) ring[from]!.sources.shift();
  ring[from]!.demand -= count;
  keeper.room -= count;
  ring[to]!.room -= count;
  return count;
}

/** Place in the ring with the most to send and to keep; ties go to the first from `start` on. */
function fullest(
  ring: readonly Domain[],
  start: number,
  fits: (domain: Domain, at: number) => boolean,
): number {
  let best = -1;
  let most = -1;
  for (let i = 0; i < ring.length; i++) {
    const at = (start + i) % ring.length;
    const domain = ring[at]!;
    if (domain.demand + domain.room <= most || !fits(domain, at)) continue;
    best = at;
    most = domain.demand + domain.room;
  }
  return best;
}

function keptBy(keepers: readonly (string | null)[]): Map<string, number[]> {
  const kept = new Map<string, number[]>();
  for (const [rank, nodeId] of keepers.entries()) {
    if (nodeId === null) continue;
    const list = kept.get(nodeId);
    if (list) list.push(rank);
    else kept.set(nodeId, [rank]);
  }
  return kept;
}

function reasonOf(options: {
  nodes: readonly KeeperNode[];
  rankNodes: readonly string[];
  keepers: readonly (string | null)[];
  /** Ranks without a twin in another domain; of these, those without a keeper there; of these, those without any. */
  alone: readonly number[];
  stuck: readonly number[];
  bare: readonly number[];
}): string {
  const { nodes, rankNodes, keepers, alone, stuck, bare } = options;
  const parts: string[] = [];
  const bound = new Set(stuck);
  const far = alone.filter((rank) => !bound.has(rank)).length;
  const domains = new Map(nodes.map((node) => [node.nodeId, node.failureDomain]));
  const where = nodes.every((node) => node.failureDomain === node.nodeId)
    ? "on another node"
    : "in another failure domain";
  if (far > 0) parts.push(`replicas: ${countText(far)} a copy ${where}`);
  const needy = new Set(alone);
  const twins: number[] = [];
  for (let rank = 0; rank < rankNodes.length; rank++) if (!needy.has(rank)) twins.push(rank);
  if (twins.length > 0) {
    const nothing = alone.length === 0 ? ", nothing is sent" : "";
    parts.push(`${ranksText(twins)} have twins in other failure domains${nothing}`);
  }
  const bad = new Set(bare);
  const inside = stuck.filter((rank) => !bad.has(rank));
  if (inside.length > 0) {
    const names = [...new Set(inside.map((rank) => domains.get(rankNodes[rank]!)!))].sort();
    const what = inside.some((rank) => keepers[rank] !== null) ? "replicas" : "twins";
    const one = new Set(domains.values()).size === 1;
    const why = one ? "no member is in another" : "no member in another can keep them";
    parts.push(
      `${what} stay inside failure domain ${names.join(", ")}: ${why}; the loss of the whole domain is not covered`,
    );
  }
  if (bare.length > 0) {
    parts.push(`no replica of ${ranksText(bare)}: no other node's agent can be reached by its peers`);
  }
  return parts.join("; ");
}

function countText(count: number): string {
  return count === 1 ? "1 rank keeps" : `${count} ranks keep`;
}
