import type { Layout } from "../../job/layout.js";
import type { CommEndpoint, CommId, CommOptions, Native } from "../engine/native.js";

/** First packets of a connection are sent at 0, 1, 3 and 7 s: a host that answered none of the four cannot be reached. */
const REACH_MS = 8_000;

/** The communicators of one rank in one generation; null for a group of one, which needs none. */
export interface Groups {
  /** All ranks: the vote. */
  world: CommId | null;
  /** Ranks over which parameters are sharded: all-gather of weights, reduce-scatter of gradients. */
  shard: CommId | null;
  /** Ranks that hold the same shard, one per replica: all-reduce of gradients. */
  replica: CommId | null;
  /** Ranks that share one sequence: all-to-all around self-attention. */
  sequence: CommId | null;
}

export interface GroupOptions {
  job: string;
  generation: bigint;
  layout: Layout;
  rank: number;
  /** All ranks of the world, in rank order. */
  members: readonly CommEndpoint[];
  abortPage: Uint8Array;
  progressPage: Uint8Array;
  timeoutMs: number;
  transport: "auto" | "tcp";
}

/**
 * Connects the groups of this rank; resolves when every member of each is there. Names are "world", "shard.<replica>",
 * "replica.<place in the shard group>" and "sequence.<data rank>". On failure what was connected is closed again
 * and the first error is thrown.
 */
export async function createGroups(native: Native, options: GroupOptions): Promise<Groups> {
  const { layout, rank } = options;
  const world = Array.from({ length: layout.worldSize }, (_, i) => i);
  const groups: Groups = { world: null, shard: null, replica: null, sequence: null };
  const connect = async (
    key: keyof Groups,
    name: string,
    ranks: number[],
    transport: CommOptions["transport"] = options.transport,
  ) => {
    if (ranks.length > 1) groups[key] = await connectGroup(native, options, { name, ranks, transport });
  };
  // Votes alone: small, and read by the host.
  const votes = options.transport === "auto" ? "host" : options.transport;
  const results = await Promise.allSettled([
    connect("world", "world", world, votes),
    connect("shard", `shard.${layout.coordinates(rank).replica}`, layout.shardGroup(rank)),
    connect("replica", `replica.${rank % layout.shardGroupSize}`, layout.replicaGroup(rank)),
    connect("sequence", `sequence.${layout.dataRank(rank)}`, layout.sequenceGroup(rank)),
  ]);
  const failed = results.find((result) => result.status === "rejected");
  if (failed) {
    abortGroups(native, groups);
    closeGroups(native, groups);
    throw failed.reason;
  }
  return groups;
}

/**
 * How payload goes between devices, for the groups whose first member this rank is: over the host it takes many times as long. Empty on
 * the CPU backend.
 */
export function carrierLines(
  native: Native,
  groups: Groups,
  place: { layout: Layout; rank: number },
): string[] {
  const { layout, rank } = place;
  const members: [string, CommId | null, number[]][] = [
    ["shard", groups.shard, layout.shardGroup(rank)],
    ["replica", groups.replica, layout.replicaGroup(rank)],
    ["sequence", groups.sequence, layout.sequenceGroup(rank)],
  ];
  return members.flatMap(([name, comm, ranks]) => {
    const carrier = comm === null || ranks[0] !== rank ? "" : native.commCarrier(comm);
    return carrier === "" ? [] : [`collectives of ${name} group ${ranks.join(", ")}: ${carrier}`];
  });
}

function connectGroup(
  native: Native,
  options: GroupOptions,
  group: { name: string; ranks: number[]; transport: CommOptions["transport"] },
): Promise<CommId> {
  const { name, ranks, transport } = group;
  return native.commCreate({
    name,
    job: options.job,
    generation: options.generation,
    rank: ranks.indexOf(options.rank),
    members: ranks.map((rank) => options.members[rank]!),
    abortPage: options.abortPage,
    progressPage: options.progressPage,
    timeoutMs: options.timeoutMs,
    reachMs: REACH_MS,
    transport,
  });
}

/** Frees every waiter of every group with COMM_ABORTED. Idempotent. */
export function abortGroups(native: Native, groups: Groups): void {
  for (const comm of groupIds(groups)) native.commAbort(comm);
}

/** Says goodbye to the peers (or, after an abort, just frees) and forgets the groups. */
export function closeGroups(native: Native, groups: Groups): void {
  for (const comm of groupIds(groups)) native.commClose(comm);
  groups.world = null;
  groups.shard = null;
  groups.replica = null;
  groups.sequence = null;
}

function groupIds(groups: Groups): CommId[] {
  return [groups.world, groups.shard, groups.replica, groups.sequence].filter((comm) => comm !== null);
}
