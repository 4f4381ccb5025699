import { GokuError } from "../../job/errors.js";
import type { DataReport } from "../../worker/data/pack_source.js";
import { bytes, counted } from "../output.js";
import type { PlannedCluster } from "./cluster.js";
import { type Candidate, type JobPlan, planJob } from "./plan_job.js";

/** Larger clusters are not tried. */
const RANKS_MAX = 1024;

/** One line: what is missing where nothing fits, and the nearest thing that would. */
export function doesNotFit(plan: JobPlan, data: DataReport | null): GokuError {
  const { job, cluster } = plan;
  const least = leastMissing(plan);
  const where =
    cluster.gpu === null
      ? `${counted(cluster.nodes, "node")} of ${counted(cluster.slots, "rank")}`
      : `${counted(cluster.nodes * cluster.slots, "GPU")} of ${bytes(cluster.gpu.memoryBytes)}`;
  const lacks = `${bytes(least.missingBytes)} of ${least.missing}${cluster.gpu === null ? " on a node" : " on each GPU"}`;
  return new GokuError(
    "MEMORY_SHORT",
    `Cannot fit ${job.name} on ${where}: with layout ${least.layout} and recompute ${least.recompute} it lacks ${lacks}; ${nearest(plan, data)}`,
  );
}

/** Of the ways that the job allows. */
function leastMissing({ candidates, job }: JobPlan): Candidate {
  const own = job.layout;
  const allowed = candidates.filter(
    ({ layout }) =>
      own === "auto" ||
      (layout.dpReplicate === own.dp_replicate && layout.dpShard === own.dp_shard && layout.sp === own.sp),
  );
  const some = allowed.length > 0 ? allowed : candidates;
  return some.reduce((least, next) => (next.missingBytes < least.missingBytes ? next : least));
}

function nearest(plan: JobPlan, data: DataReport | null): string {
  const { job, cluster, pack } = plan;
  const free = { ...job, layout: "auto" as const, recompute: "auto" as const };
  const here = planJob(free, cluster, data, pack).recommended?.candidate;
  if (here !== undefined) return `layout ${here.layout} and recompute ${here.recompute} would fit`;
  const found: string[] = [];
  const larger = moreNodes(free, cluster, data, plan);
  if (larger !== null) found.push(larger);
  const smaller = smallerPacks(free, cluster, data, plan);
  if (smaller !== null) found.push(smaller);
  return found.length > 0
    ? `${found.join(", or ")}`
    : "no more of the same nodes and no shorter packs would fit, take nodes with more memory";
}

function moreNodes(
  job: JobPlan["job"],
  cluster: PlannedCluster,
  data: DataReport | null,
  { pack }: JobPlan,
): string | null {
  for (let nodes = 2 * cluster.nodes; nodes * cluster.slots <= RANKS_MAX; nodes *= 2) {
    const fit = planJob(job, { ...cluster, nodes }, data, pack).recommended?.candidate;
    if (fit === undefined) continue;
    const size = cluster.gpu === null ? `${nodes} such nodes` : `${nodes * cluster.slots} GPUs`;
    return `${size} would fit (layout ${fit.layout}, recompute ${fit.recompute})`;
  }
  return null;
}

function smallerPacks(
  job: JobPlan["job"],
  cluster: PlannedCluster,
  data: DataReport | null,
  { pack }: JobPlan,
): string | null {
  for (let parts = 2; pack.tokens / parts >= 16; parts *= 2) {
    const part = {
      tokens: Math.floor(pack.tokens / parts),
      samples: Math.ceil(pack.samples / parts),
      textTokens: Math.ceil(pack.textTokens / parts),
    };
    const fit = planJob(job, cluster, data, part).recommended?.candidate;
    if (fit === undefined) continue;
    return `train.tokens_per_pack ${part.tokens} would (layout ${fit.layout}, recompute ${fit.recompute})`;
  }
  return null;
}
