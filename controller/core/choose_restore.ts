import type { Layout } from "../../job/layout.js";
import type { CheckpointEntry, CheckpointSource, StateName } from "./contract.js";
import { isWhole, type MemoryNode, type MemoryState, memoryStates, nodesOfShard } from "./memory_states.js";
import { ranksText } from "./ranks_text.js";
import { compareStates, sameState, stateKey, stateText } from "./state_name.js";

/** How `unusable` begins where a checkpoint was found damaged by who reads back, and no restore has failed. */
export const FOUND_DAMAGED = "damaged: ";

/** Nodes that ranks read from, named in a reason; the rest is counted. */
const SOURCES_COUNT_MAX = 4;

export type RestoreChoice =
  | {
      kind: "snapshot";
      state: StateName;
      /** Who holds what of it. */
      memory: MemoryState;
      /** The same state in durable storage; null: it is not there. */
      durable: CheckpointSource | null;
      reason: string;
    }
  | { kind: "checkpoint"; source: CheckpointSource; reason: string }
  | { kind: "initial"; reason: string }
  /** Something was committed and nothing of it can be read: starting over would throw it away silently. */
  | { kind: "none"; reason: string };

export interface RestoreInput {
  layout: Layout;
  /** Node of every rank, in rank order. */
  rankNodes: readonly string[];
  /** Every member, once; then others that serve what they hold. */
  nodes: readonly MemoryNode[];
  checkpoints: readonly CheckpointEntry[];
  source: CheckpointSource | null;
  /** Of steps that a roll-back has undone; nodes do not name such states. */
  isGivenUp: (state: StateName) => boolean;
  /** Keys of snapshots that failed to restore. */
  excludedSnapshots: ReadonlySet<string>;
  /** Addresses of checkpoints that failed to restore. */
  excludedCheckpoints: ReadonlySet<string>;
}

/**
 * The newest state that can be had whole. In memory that is one of which every shard is held by some member, by any
 * rank that holds equal bits and in any *one* layout, so states of different names never combine; a durable checkpoint
 * serves any layout, too. The newer of the two wins (generation, then step), memory when equal: it is nearer. Then the
 * checkpoint that the job was submitted with, then initial values, which are right only for a job that never committed
 * anything.
 */
export function chooseRestore(input: RestoreInput): RestoreChoice {
  const { source, excludedCheckpoints } = input;
  const memory = newestInMemory(input);
  const durable = newestCheckpoint(input.checkpoints, excludedCheckpoints);
  if (memory !== null && (durable === null || compareStates(memory.state, durable.state) >= 0)) {
    const { state } = memory;
    return {
      kind: "snapshot",
      state,
      memory,
      durable: durableOf(input, state),
      reason: memoryText(input, memory),
    };
  }
  const without = missingText(input, memory);
  if (durable !== null) {
    return {
      kind: "checkpoint",
      source: { uri: durable.uri, state: durable.state },
      reason: `from checkpoint ${durable.uri} (${stateText(durable.state)}): ${without}`,
    };
  }
  if (source !== null && !excludedCheckpoints.has(source.uri)) {
    return {
      kind: "checkpoint",
      source,
      reason: `from the checkpoint to resume, ${source.uri} (${stateText(source.state)})`,
    };
  }
  const committed = input.checkpoints.filter(({ state }) => !input.isGivenUp(state));
  // Who read it back may be what is broken: before all is lost it is tried, MiB by MiB against its digests as ever.
  const damaged = committed.findLast(
    ({ uri, unusable }) => isFoundDamaged(unusable) && !excludedCheckpoints.has(uri),
  );
  if (damaged !== undefined) {
    const { uri, state } = damaged;
    const reason = `from checkpoint ${uri} (${stateText(state)}), found damaged when it was read back, since nothing else is left: ${without}`;
    return { kind: "checkpoint", source: { uri, state }, reason };
  }
  if (source === null && committed.length === 0) {
    const undone = input.checkpoints.length === 0 ? "" : " before the steps that are undone";
    return {
      kind: "initial",
      reason: `initial values: ${without} and nothing has been made durable${undone}`,
    };
  }
  return {
    kind: "none",
    reason: `Cannot restore any state: ${without}, and none of ${committed.length + (source === null ? 0 : 1)} checkpoints can be read; repair one, or submit the job anew`,
  };
}

function isFoundDamaged(unusable: string | null): boolean {
  return unusable?.startsWith(FOUND_DAMAGED) ?? false;
}

function newestInMemory({ layout, rankNodes, nodes, excludedSnapshots }: RestoreInput): MemoryState | null {
  const all = [...new Set(rankNodes)];
  const wanting = nodesOfShard(layout, rankNodes);
  for (const memory of memoryStates(nodes, layout)) {
    if (excludedSnapshots.has(stateKey(memory.state))) continue;
    if (isWhole(memory, memory.layout === layout ? wanting : () => all)) return memory;
  }
  return null;
}

/** What is damaged in memory may be read from there. */
function durableOf(input: RestoreInput, state: StateName): CheckpointSource | null {
  const { checkpoints, source, excludedCheckpoints } = input;
  const usable = checkpoints.filter(({ unusable }) => unusable === null);
  const found = [...usable, ...(source === null ? [] : [source])].find(
    (entry) => sameState(entry.state, state) && !excludedCheckpoints.has(entry.uri),
  );
  return found === undefined ? null : { uri: found.uri, state: found.state };
}

function memoryText({ layout, rankNodes, nodes }: RestoreInput, memory: MemoryState): string {
  const { state, holders } = memory;
  if (memory.layout !== layout) {
    const from = nodes.length === 1 ? "1 node" : `${nodes.length} nodes`;
    return `${stateText(state)}, re-partitioned from memory of ${from}, layout ${memory.layout}`;
  }
  const members = new Set(rankNodes);
  const readers = new Map<string, number[]>();
  for (const [rank, nodeId] of rankNodes.entries()) {
    const list = holders.get(rank % layout.shardGroupSize)!;
    if (list.some((holder) => holder.nodeId === nodeId)) continue;
    const holder = list.find((each) => each.serves)!;
    const kept = members.has(holder.nodeId) ? "replicas" : "snapshots";
    const from = `${holder.rank === rank ? kept : "twins"} on ${holder.nodeId}`;
    const ranks = readers.get(from);
    if (ranks) ranks.push(rank);
    else readers.set(from, [rank]);
  }
  const from = `from memory, ${stateText(state)}`;
  if (readers.size === 0) {
    const all = rankNodes.length === 1 ? "its rank holds" : `all ${rankNodes.length} ranks hold`;
    return `${from}: the newest state that ${all}`;
  }
  const named = [...readers]
    .slice(0, SOURCES_COUNT_MAX)
    .map(([where, ranks]) => `${ranksText(ranks)} from ${where}`);
  const more =
    readers.size > named.length ? ` and others from ${readers.size - named.length} more places` : "";
  return `${from}: ${named.join(", ")}${more}`;
}

/** The newest state that every rank holds; null: none. */
export function newestCommon(
  rankStates: readonly (readonly StateName[])[],
  excluded: ReadonlySet<string>,
): StateName | null {
  const holders = new Map<string, { state: StateName; count: number }>();
  for (const states of rankStates) {
    for (const [key, state] of new Map(states.map((s) => [stateKey(s), s]))) {
      const held = holders.get(key);
      if (held) held.count += 1;
      else holders.set(key, { state, count: 1 });
    }
  }
  let newest: StateName | null = null;
  for (const [key, { state, count }] of holders) {
    if (count < rankStates.length || excluded.has(key)) continue;
    if (newest === null || compareStates(state, newest) > 0) newest = state;
  }
  return newest;
}

/** The newest checkpoint that may be restored from; null: none. */
export function newestCheckpoint(
  entries: readonly CheckpointEntry[],
  excluded: ReadonlySet<string>,
): CheckpointEntry | null {
  let newest: CheckpointEntry | null = null;
  for (const entry of entries) {
    if (entry.unusable !== null || excluded.has(entry.uri)) continue;
    if (newest === null || compareStates(entry.state, newest.state) >= 0) newest = entry;
  }
  return newest;
}

/** Why memory does not serve; `whole`: the newest state in it that does, older than the durable one. */
function missingText({ layout, rankNodes, nodes }: RestoreInput, whole: MemoryState | null): string {
  if (whole !== null) return `memory holds only ${stateText(whole.state)} whole`;
  const shards = new Set<number>();
  for (const { layout: own, holders } of memoryStates(nodes, layout)) {
    if (own === layout) for (const shard of holders.keys()) shards.add(shard);
  }
  const empty = rankNodes.flatMap((_, rank) => (shards.has(rank % layout.shardGroupSize) ? [] : [rank]));
  if (empty.length === rankNodes.length) return "no rank holds a snapshot";
  if (empty.length === 0) return "memory holds no state whole";
  return `${ranksText(empty)} of ${rankNodes.length} ${empty.length === 1 ? "has" : "have"} no snapshot in memory`;
}
