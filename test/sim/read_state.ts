import type { StateName } from "../../controller/core/contract.js";
import type { SnapshotSource } from "../../gen/goku/v1/agent.pb.js";
import { READ_MEMORY } from "../../job/errors.js";
import { type Failure, layoutText, plain } from "../support/agent_messages.js";
import type { Content } from "./sim_content.js";
import { CHUNK_COUNT, type Copy, type SimMemory } from "./sim_memory.js";
import type { SimNode } from "./sim_node.js";
import { shardCount, shardsNeeded } from "./sim_shards.js";

/** `insteadOf`: why an earlier source did not serve; empty: the first did. */
type Found = { content: Content; insteadOf: string; failure: null } | { content: null; failure: Failure };

interface Reader {
  source: SnapshotSource;
  /** Of the rank's node. */
  memory: SimMemory;
  /** Present layout. */
  layout: string;
  rank: number;
  nodeOf: (nodeId: string) => SimNode;
  /** The network to it from the rank's node is whole. */
  reaches: (node: SimNode) => boolean;
  /** A rank on that node, to name when the node does not answer. */
  rankOn: (nodeId: string) => number | undefined;
  /** The same state in durable storage; null: it is not there, or not whole. */
  durable: Content | null;
}

/** Every shard that a rank needs of a state in memory, read on its node and at the places told; all hold one content. */
export function readState(reader: Reader): Found {
  const { source, layout, rank } = reader;
  const from = layoutText(source.layout!);
  let content: Content | null = null;
  let insteadOf = "";
  for (const shard of shardsNeeded({ from, to: layout, rank })) {
    const found = readShard(reader, { from, shard, state: plain(source.state!) });
    if (found.failure !== null) return found;
    if (content !== null && content.digest !== found.content.digest)
      throw new Error(`rank ${rank} reads shards of different states`);
    content = found.content;
    insteadOf ||= found.insteadOf;
  }
  return { content: content!, insteadOf, failure: null };
}

/** Chunk by chunk from whoever holds it undamaged; what memory lacks comes from the checkpoint. */
function readShard(
  { source, memory, nodeOf, reaches, rankOn, durable }: Reader,
  { from, shard, state }: { from: string; shard: number; state: StateName },
): Found {
  const isOfShard = (rank: number) => rank % shardCount(from) === shard;
  const missing = new Set(Array.from({ length: CHUNK_COUNT }, (_, chunk) => chunk));
  let content: Content | null = null;
  let insteadOf = "";
  const take = (copy: Copy, where: string) => {
    content ??= copy.content;
    for (const chunk of missing) {
      if (copy.damaged.has(chunk)) insteadOf = `chunk ${chunk} on ${where} is damaged`;
      else missing.delete(chunk);
    }
  };
  for (const copy of memory.copiesOf({ layout: from, isOfShard, state })) take(copy, "this node");
  let failure: Failure = { code: "SNAPSHOT_MISSING", operation: "restore" };
  for (const { rank, nodeId } of source.places.filter((place) => isOfShard(place.rank))) {
    if (missing.size === 0) break;
    const node = nodeOf(nodeId);
    const answers = node.agent?.alive && reaches(node);
    const copy = answers ? node.memory.find(`${from}/${rank}`, state) : null;
    if (copy !== null) take(copy, nodeId);
    if (!answers) {
      const peer = rankOn(nodeId);
      failure = { code: "COMM_PEER_DIED", operation: READ_MEMORY, ...(peer === undefined ? {} : { peer }) };
    }
  }
  if (missing.size === 0) return { content: content!, insteadOf, failure: null };
  return durable === null ? { content: null, failure } : { content: durable, insteadOf, failure: null };
}
