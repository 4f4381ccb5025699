import type { LayoutSize } from "../../job/layout.js";
import type { CommEndpoint } from "../engine/native.js";

/** The variables torchrun gives a worker, so that code written for it finds its place. Pure. */
export function placeVariables(place: {
  jobId: string;
  /** Times that the job's ranks were started anew, and how often that may go wrong in a row. */
  restarts: number;
  maxRestarts: number;
  layout: LayoutSize;
  rank: number;
  localRank: number;
  localWorldSize: number;
}): Record<string, string> {
  const { dp_replicate, dp_shard, sp } = place.layout;
  return {
    RANK: String(place.rank),
    WORLD_SIZE: String(dp_replicate * dp_shard * sp),
    LOCAL_RANK: String(place.localRank),
    LOCAL_WORLD_SIZE: String(place.localWorldSize),
    ROLE_RANK: String(place.rank),
    ROLE_WORLD_SIZE: String(dp_replicate * dp_shard * sp),
    TORCHELASTIC_RUN_ID: place.jobId,
    TORCHELASTIC_RESTART_COUNT: String(place.restarts),
    TORCHELASTIC_MAX_RESTARTS: String(place.maxRestarts),
  };
}

/** What becomes known with the other members: where rank 0 is, and which node (in order of first rank) this one is. Pure. */
export function memberVariables(members: readonly CommEndpoint[], nodeId: string): Record<string, string> {
  const nodes = [...new Set(members.map((member) => member.nodeId))];
  return {
    MASTER_ADDR: members[0]!.host,
    MASTER_PORT: String(members[0]!.port),
    GROUP_RANK: String(nodes.indexOf(nodeId)),
    GROUP_WORLD_SIZE: String(nodes.length),
  };
}
