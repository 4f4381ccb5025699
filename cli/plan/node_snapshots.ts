import { snapshotLayout } from "../../checkpoint/snapshot.js";
import { chooseKeepers, type KeeperPlan } from "../../controller/core/choose_keepers.js";
import type { Layout } from "../../job/layout.js";
import type { FlatUnit } from "../../job/sharding.js";
import { REPLICA_SLOTS } from "../../worker/agent/snapshot_store.js";
import { SLOT_COUNT, SLOT_COUNT_REPLICATED } from "../../worker/rank/slots.js";

/** Shared memory that the training state takes on the node that needs the most. */
export interface NodeSnapshots {
  /** One state of one rank: the file of a slot. */
  slotBytes: number;
  /** Slots of each rank. */
  slotCount: number;
  /** Of the node's own ranks. */
  ownBytes: number;
  /** Copies of other nodes' states, two for each rank kept: the one that is there, and the one that is coming. */
  keptRanks: number;
  keptBytes: number;
  /** Of its own states that the node sends in one transfer. */
  sentBytes: number;
  keepers: KeeperPlan;
}

/**
 * @param options.replicas of the job. Each node is taken for a failure domain of its own, which is how agents start.
 */
export function nodeSnapshots(options: {
  units: readonly FlatUnit[];
  layout: Layout;
  nodes: number;
  slots: number;
  replicas: number;
}): NodeSnapshots {
  const { units, layout, nodes, slots, replicas } = options;
  const width = String(nodes).length;
  const nodeId = (index: number) => `node-${String(index).padStart(width, "0")}`;
  const rankNodes = Array.from({ length: layout.worldSize }, (_, rank) => nodeId(Math.floor(rank / slots)));
  const keepers = chooseKeepers({
    replicas,
    layout,
    rankNodes,
    nodes: Array.from({ length: nodes }, (_, i) => ({
      nodeId: nodeId(i),
      failureDomain: nodeId(i),
      slots,
      serves: true,
    })),
  });
  const ofShard = new Map<number, number>();
  const bytesOf = (rank: number) => {
    const shard = rank % layout.shardGroupSize;
    const known = ofShard.get(shard);
    if (known !== undefined) return known;
    const { bytes } = snapshotLayout(units, layout, rank);
    ofShard.set(shard, bytes);
    return bytes;
  };
  const replicated = keepers.keepers.some((keeper) => keeper !== null);
  const slotCount = replicated ? SLOT_COUNT_REPLICATED : SLOT_COUNT;
  const perNode = Array.from({ length: nodes }, (_, node) => {
    const own = Array.from({ length: slots }, (_, i) => node * slots + i);
    const kept = keepers.kept.get(nodeId(node)) ?? [];
    return {
      slotBytes: Math.max(...own.map(bytesOf)),
      slotCount,
      ownBytes: slotCount * sum(own.map(bytesOf)),
      keptRanks: kept.length,
      keptBytes: REPLICA_SLOTS * sum(kept.map(bytesOf)),
      sentBytes: sum(own.filter((rank) => keepers.keepers[rank] !== null).map(bytesOf)),
      keepers,
    };
  });
  return perNode.reduce((most, node) =>
    node.ownBytes + node.keptBytes > most.ownBytes + most.keptBytes ? node : most,
  );
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((a, b) => a + b, 0);
}
