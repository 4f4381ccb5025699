import { availableParallelism } from "node:os";
import { RECOMPUTES, type Recompute } from "../../job/block_memory.js";
import { chooseLayout } from "../../job/choose_layout.js";
import { feasibleLayouts } from "../../job/feasible_layouts.js";
import { type GpuMemory, gpuMemory } from "../../job/gpu_memory.js";
import { type Job, modelConfig } from "../../job/job.js";
import { Layout } from "../../job/layout.js";
import { assumedPack, type PackSize } from "../../job/pack_size.js";
import { parameterSpecs, patchSize } from "../../job/parameters.js";
import { type PreviewMemory, previewMemory } from "../../job/preview_memory.js";
import { GPU_FRACTION, SYSTEM_FRACTION } from "../../job/process_memory.js";
import { flatUnits } from "../../job/sharding.js";
import { threadsPerRank } from "../../worker/agent/plan_processes.js";
import type { DataReport } from "../../worker/data/pack_source.js";
import type { PlannedCluster } from "./cluster.js";
import { type CpuMemory, cpuMemory } from "./cpu_memory.js";
import { type NodeSnapshots, nodeSnapshots } from "./node_snapshots.js";

/** Left to what is not counted: on a node the system; on a GPU the context, NCCL, workspaces of libraries, fragments. */
export const RESERVED = { cpu: SYSTEM_FRACTION, gpu: GPU_FRACTION } as const;

/** One way to run the job: a layout and what is recomputed. */
export interface Candidate {
  layout: Layout;
  recompute: Recompute;
  /** Ranks that never have a pack. */
  idleRanks: number;
  memory: ({ device: "cpu" } & CpuMemory) | ({ device: "gpu" } & GpuMemory);
  snapshots: NodeSnapshots;
  /** Of what is scarce: a node's memory, or a GPU's. */
  neededBytes: number;
  /** What is missing of it, or of the node's shared memory, whichever is more; 0: it fits. */
  missingBytes: number;
  /** What lacks. */
  missing: "memory" | "shared memory" | null;
}

export interface JobPlan {
  job: Job;
  cluster: PlannedCluster;
  parameters: number;
  /** What memory is planned for, and whether it is known from the data or assumed from the job. */
  pack: PackSize;
  packBasis: "data" | "assumed";
  candidates: Candidate[];
  recommended: { candidate: Candidate; reason: string } | null;
  /** Of the process that draws previews, beside the recommended layout; null: the job draws none. */
  previews: PlannedPreviews | null;
  /** Why the job's own layout was not planned; null: it was, or it has none. */
  layoutNote: string | null;
}

export interface PlannedPreviews {
  memory: PreviewMemory;
  /** What the recommended layout leaves of a node's memory; null: not known, as for nodes with GPUs. */
  leftBytes: number | null;
  fits: boolean | null;
}

/** Every layout and way to recompute of a job on a cluster, and which to take. Pure but for the cores of this machine. */
export function planJob(
  job: Job,
  cluster: PlannedCluster,
  data: DataReport | null,
  pack: PackSize = data === null ? assumedPack(job, modelConfig(job)) : knownPack(data),
): JobPlan {
  const model = modelConfig(job);
  const units = flatUnits(parameterSpecs(model));
  const ranks = cluster.nodes * cluster.slots;
  const fixed = job.layout === "auto" ? null : new Layout(job.layout);
  const fits = fixed === null || fixed.worldSize === ranks;
  const planned: Job = fits ? job : { ...job, layout: "auto" };
  const layouts = feasibleLayouts({ ...cluster, heads: model.heads });
  if (fits && fixed !== null && !layouts.some((layout) => layout.toString() === fixed.toString()))
    layouts.push(fixed);
  const modes = job.recompute === "auto" ? RECOMPUTES : [job.recompute];
  const candidates = layouts.flatMap((layout) => {
    const snapshots = nodeSnapshots({ units, layout, ...cluster, replicas: job.checkpoint.replicas });
    return modes.map((recompute) => candidate({ job, cluster, layout, recompute, pack, snapshots, data }));
  });
  const recommended = recommend(candidates, planned, cluster);
  return {
    job,
    cluster,
    parameters: units.reduce((sum, unit) => sum + unit.count, 0),
    pack,
    packBasis: data === null ? "assumed" : "data",
    candidates,
    recommended,
    previews: plannedPreviews(job, cluster, recommended?.candidate ?? null),
    layoutNote: fits
      ? null
      : `layout ${fixed} of the job is for ${fixed!.worldSize} ranks, not ${ranks}: planned as layout auto`,
  };
}

/** Drawn on the processors of a node, also where GPUs train. */
function plannedPreviews(
  job: Job,
  { memoryBytes }: PlannedCluster,
  best: Candidate | null,
): PlannedPreviews | null {
  if (job.sample.every_steps === 0) return null;
  const memory = previewMemory(job);
  if (best?.memory.device !== "cpu" || memoryBytes === null) return { memory, leftBytes: null, fits: null };
  const leftBytes = Math.max(0, usable(memoryBytes, "cpu") - best.neededBytes);
  return { memory, leftBytes, fits: memory.total <= leftBytes };
}

/** As much as any pack of the data can hold of each. */
function knownPack(data: DataReport): PackSize {
  const { packTokensMax, packSamplesMax, captionTokensMax } = data;
  return { tokens: packTokensMax, samples: packSamplesMax, textTokens: packSamplesMax * captionTokensMax };
}

function candidate(options: {
  job: Job;
  cluster: PlannedCluster;
  layout: Layout;
  recompute: Recompute;
  pack: PackSize;
  snapshots: NodeSnapshots;
  data: DataReport | null;
}): Candidate {
  const { job, cluster, layout, recompute, pack, snapshots, data } = options;
  const model = modelConfig(job);
  const packsPerStep = job.train.packs_per_step;
  const idleRanks = layout.idleRanks(packsPerStep);
  const common = { model, layout, precision: job.precision, recompute, packsPerStep, pack };
  if (cluster.gpu !== null) {
    const memory = { device: "gpu" as const, ...gpuMemory({ ...common, rank: 0 }) };
    const missingBytes = Math.max(0, memory.total - usable(cluster.gpu.memoryBytes, "gpu"));
    const missing = missingBytes > 0 ? ("memory" as const) : null;
    return {
      layout,
      recompute,
      idleRanks,
      memory,
      snapshots,
      neededBytes: memory.total,
      missingBytes,
      missing,
    };
  }
  const memory = {
    device: "cpu" as const,
    ...cpuMemory({
      ...common,
      slots: cluster.slots,
      encodedBytes: data === null ? null : 4 * data.tokensPerEpoch * patchSize(model),
      threads: threadsPerRank({ cores: availableParallelism(), ranks: cluster.slots }),
      snapshots,
      uploads: job.checkpoint.uri.startsWith("s3://"),
    }),
  };
  const ofMemory = memory.nodeBytes - usable(cluster.memoryBytes ?? Number.POSITIVE_INFINITY, "cpu");
  return {
    layout,
    recompute,
    idleRanks,
    memory,
    snapshots,
    neededBytes: memory.nodeBytes,
    ...lack(ofMemory, snapshots, cluster),
  };
}

/** @param ofMemory what is needed beyond what there is; negative: there is room */
function lack(
  ofMemory: number,
  { ownBytes, keptBytes }: NodeSnapshots,
  { sharedMemoryBytes }: PlannedCluster,
): Pick<Candidate, "missing" | "missingBytes"> {
  const ofShared = ownBytes + keptBytes - (sharedMemoryBytes ?? Number.POSITIVE_INFINITY);
  const missingBytes = Math.max(0, ofMemory, ofShared);
  if (missingBytes === 0) return { missing: null, missingBytes };
  return { missing: ofShared > ofMemory ? "shared memory" : "memory", missingBytes };
}

export function usable(bytes: number, device: "cpu" | "gpu"): number {
  return Math.floor(bytes * (1 - RESERVED[device]));
}

/**
 * The layout that the controller chooses, unless another one fits that saves running all blocks twice. Of the ways to recompute the one
 * that training takes: on a CPU selective unless only full fits, on a GPU the least that fits.
 */
function recommend(
  candidates: readonly Candidate[],
  job: Job,
  cluster: PlannedCluster,
): JobPlan["recommended"] {
  const slots = Array<number>(cluster.nodes).fill(cluster.slots);
  const chosen = chooseLayout({ slots, job });
  const own = new Layout(chosen.layout).toString();
  const order: readonly Recompute[] = cluster.device === "gpu" ? RECOMPUTES : ["selective", "full"];
  const allowed = (recompute: Recompute) => job.recompute !== "auto" || order.includes(recompute);
  const fitting = candidates.filter(
    ({ missingBytes, recompute }) => missingBytes === 0 && allowed(recompute),
  );
  const isOwn = ({ layout }: Candidate) => layout.toString() === own;
  const open = job.layout === "auto" ? fitting : fitting.filter(isOwn);
  const twice = ({ recompute }: Candidate) => Number(recompute === "full");
  const best = [...open].sort(
    (a, b) =>
      twice(a) - twice(b) ||
      Number(isOwn(b)) - Number(isOwn(a)) ||
      a.idleRanks - b.idleRanks ||
      a.layout.sp - b.layout.sp ||
      a.layout.dpReplicate - b.layout.dpReplicate ||
      order.indexOf(a.recompute) - order.indexOf(b.recompute),
  )[0];
  if (best === undefined) return null;
  const why = recomputeReason(best, candidates, job);
  if (isOwn(best)) return { candidate: best, reason: `${chosen.reason}; ${why}` };
  const fault = fitting.some(isOwn)
    ? "which fits only when every block runs forward twice"
    : "which does not fit";
  return {
    candidate: best,
    reason: `layout auto would choose ${own}, ${fault}, so the job must say its layout; ${why}`,
  };
}

function recomputeReason(
  { layout, recompute }: Candidate,
  candidates: readonly Candidate[],
  job: Job,
): string {
  if (job.recompute !== "auto") return `recompute ${recompute} is set in the job`;
  const less = candidates.filter((other) => other.layout === layout && other.missingBytes > 0);
  if (less.length > 0) return `${less.map((other) => other.recompute).join(" and ")} would not fit`;
  return recompute === "none" ? "nothing needs to be computed twice" : "selective costs about 2 % of a step";
}
