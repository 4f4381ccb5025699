import type { StateName } from "../../controller/core/contract.js";
import type { SnapshotSource } from "../../gen/goku/v1/agent.pb.js";
import { type Failure, layoutText, plain } from "./agent_messages.js";
import type { SimNode } from "./sim_agent.js";
import type { Content, SimMemory } from "./sim_memory.js";
import { shardCount, shardsNeeded } from "./sim_shards.js";

type Found = { content: Content; failure: null } | { content: null; failure: Failure };

interface Reader {
  source: SnapshotSource;
  /** Of the rank's node. */
  memory: SimMemory;
  /** Present layout. */
  layout: string;
  rank: number;
  nodeOf: (nodeId: string) => SimNode;
  /** A rank on that node, to name when the node does not answer. */
  rankOn: (nodeId: string) => number;
}

/** Every shard that a rank needs of a state in memory, read on its node and at the places told; all hold one content. */
export function readState(reader: Reader): Found {
  const { source, layout, rank } = reader;
  const from = layoutText(source.layout!);
  let last: Found | null = null;
  for (const shard of shardsNeeded({ from, to: layout, rank })) {
    const found = readShard(reader, { from, shard, state: plain(source.state!) });
    if (found.failure !== null) return found;
    if (last?.content != null && last.content.digest !== found.content.digest)
      throw new Error(`rank ${rank} reads shards of different states`);
    last = found;
  }
  return last!;
}

function readShard(
  { source, memory, nodeOf, rankOn }: Reader,
  { from, shard, state }: { from: string; shard: number; state: StateName },
): Found {
  const isOfShard = (rank: number) => rank % shardCount(from) === shard;
  const here = memory.findShard({ layout: from, isOfShard, state });
  if (here !== null) return { content: here, failure: null };
  let failure: Failure = { code: "SNAPSHOT_MISSING", operation: "restore" };
  for (const { rank, nodeId } of source.places.filter((place) => isOfShard(place.rank))) {
    const node = nodeOf(nodeId);
    const content = node.agent?.alive ? node.memory.find(`${from}/${rank}`, state) : null;
    if (content !== null) return { content, failure: null };
    if (!node.agent?.alive) failure = { ...failure, code: "COMM_PEER_DIED", peer: rankOn(nodeId) };
  }
  return { content: null, failure };
}
