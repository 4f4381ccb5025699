import type { DataReport } from "../../worker/data/pack_source.js";
import { checkpointFigures } from "./checkpoint_figures.js";
import { type Candidate, type JobPlan, type PlannedPreviews, usable } from "./plan_job.js";

/** The plan for programs: all of what planText() says, in bytes. */
export function planJson(plan: JobPlan, data: DataReport | null) {
  const { job, cluster, pack, recommended } = plan;
  return {
    job: job.name,
    parameters: plan.parameters,
    precision: job.precision,
    device: cluster.device,
    measured:
      cluster.device === "cpu"
        ? "formulas held against the engine by tests"
        : "not on a device: computed from shapes",
    gpu: cluster.gpu && { name: cluster.gpu.name, memory_bytes: cluster.gpu.memoryBytes },
    nodes: cluster.nodes,
    ranks_per_node: cluster.slots,
    memory_bytes: cluster.memoryBytes,
    usable_bytes:
      cluster.gpu !== null
        ? usable(cluster.gpu.memoryBytes, "gpu")
        : cluster.memoryBytes && usable(cluster.memoryBytes, "cpu"),
    shared_memory_bytes: cluster.sharedMemoryBytes,
    note: plan.layoutNote,
    step: {
      packs: job.train.packs_per_step,
      tokens_max: job.train.packs_per_step * job.train.tokens_per_pack,
      tokens_mean: data && Math.round(job.train.packs_per_step * job.train.tokens_per_pack * data.fill),
    },
    largest_pack: {
      known_from: plan.packBasis,
      tokens: pack.tokens,
      samples: pack.samples,
      text_tokens: pack.textTokens,
    },
    data: data && {
      images: data.images,
      videos: data.videos,
      left_out: data.leftOut.length,
      packs_per_epoch: data.packsPerEpoch,
      tokens_per_epoch: data.tokensPerEpoch,
      video_tokens: data.videoTokens,
      fill_mean: data.fill,
      fill_min: data.packTokensMin / data.tokensPerPack,
      samples_per_pack: {
        min: data.packSamplesMin,
        mean: data.samplesPacked / data.packsPerEpoch,
        max: data.packSamplesMax,
      },
    },
    previews: plan.previews && previewsJson(plan.previews),
    layouts: plan.candidates.map(candidateJson),
    recommended: recommended && {
      ...candidateJson(recommended.candidate),
      reason: recommended.reason,
      checkpoint: checkpointJson(plan, recommended.candidate),
    },
  };
}

function previewsJson({ memory, leftBytes, fits }: PlannedPreviews) {
  const { weights, activations, pictures, process, total } = memory;
  return {
    needed_bytes: { weights, activations, pictures, process, total },
    node_bytes_left: leftBytes,
    fits,
  };
}

function candidateJson({
  layout,
  recompute,
  idleRanks,
  memory,
  neededBytes,
  missingBytes,
  missing,
}: Candidate) {
  return {
    layout: layout.size,
    recompute,
    fits: missingBytes === 0,
    missing_bytes: missingBytes,
    missing,
    ranks_without_pack: idleRanks,
    needed_bytes: neededBytes,
    rank_bytes: rankJson(memory),
    node_bytes: memory.device === "gpu" ? null : nodeJson(memory),
  };
}

function rankJson(memory: Candidate["memory"]) {
  if (memory.device === "gpu") {
    const { parameters, gradients, optimizer, ema, activations, workspace, pack, total } = memory;
    return { parameters, gradients, optimizer, ema, activations, workspace, pack, total };
  }
  const { step, fragmentBytes: fragments, dataBytes: data, processBytes: process } = memory;
  const { weights, gradients, activations, workspace, pack, total } = step;
  return { weights, gradients, activations, workspace, pack, tensors: total, fragments, data, process };
}

function nodeJson({
  ranksBytes,
  nodeBaseBytes,
  uploadBytes,
  snapshots,
  nodeBytes,
}: Extract<Candidate["memory"], { device: "cpu" }>) {
  return {
    ranks: ranksBytes,
    processes: nodeBaseBytes,
    uploads: uploadBytes,
    snapshot_slots: snapshots.ownBytes,
    replicas_kept: snapshots.keptBytes,
    total: nodeBytes,
  };
}

function checkpointJson(plan: JobPlan, candidate: Candidate) {
  const figures = checkpointFigures(plan, candidate);
  return {
    durable_bytes: figures.durableBytes,
    storage_bytes: figures.storageBytes,
    slot_bytes: figures.slotBytes,
    slots_per_rank: figures.slotCount,
    shared_memory_bytes: figures.sharedBytes,
    replica_reason: candidate.snapshots.keepers.reason,
    replica_bytes_per_transfer: figures.sentBytes,
    transfer_seconds: figures.transferSeconds,
    lost_seconds_max: figures.lostSecondsMax,
  };
}
