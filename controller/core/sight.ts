import type { RankSighting } from "./localise_stall.js";
import type { GenerationState } from "./state.js";
import { isInSight, type Turn } from "./turn.js";

/** Pages of reachable nodes; a rank whose page was never told counts as unseen. */
export function sight(turn: Turn, generation: GenerationState): RankSighting[] {
  return generation.rankNodes.map((nodeId, rank) => ({
    rank,
    nodeId,
    page: isInSight(turn, nodeId) ? generation.pages[rank]! : null,
    unchangedMs: turn.nowMs - generation.changedMs[rank]!,
  }));
}
