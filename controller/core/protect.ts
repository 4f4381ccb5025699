import { jobTraits } from "../../job/command_job.js";
import { chooseKeepers, type KeeperNode } from "./choose_keepers.js";
import type { JobState } from "./state.js";
import { log, type Turn } from "./turn.js";

/**
 * Chooses where the replicas of a generation are kept, as soon as all its members are known (a new leader hears of them
 * one by one), and says how far that protects when it is not what was said last.
 */
export function protect(turn: Turn, job: JobState): void {
  const generation = job.generation!;
  if (generation.keepers !== null) return;
  const nodes: KeeperNode[] = [];
  for (const nodeId of generation.nodeRanks.keys()) {
    const node = turn.state.nodes.get(nodeId);
    if (node === undefined) return;
    const { failureDomain, slots, peerPort } = node;
    nodes.push({ nodeId, failureDomain, slots, serves: peerPort > 0 });
  }
  const { checkpoint } = jobTraits(job.record.job);
  if (checkpoint === null) {
    generation.keepers = {
      keepers: generation.rankNodes.map(() => null),
      kept: new Map(),
      covers: "nothing",
      reason: "",
    };
    return;
  }
  const { replicas } = checkpoint;
  const { layout, rankNodes } = generation;
  generation.keepers = chooseKeepers({ replicas, layout, rankNodes, nodes });
  const { covers, reason } = generation.keepers;
  if (reason === job.protection) return;
  job.protection = reason;
  const wanted = covers === "domain" || replicas === 0;
  log(turn, {
    level: wanted ? "info" : "warning",
    type: "replica",
    jobId: job.record.jobId,
    text: reason,
  });
}
