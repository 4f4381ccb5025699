import { LOAD_MEMORY_BYTES } from "../../checkpoint/load_plan.js";
import { uploadMemoryBytes } from "../../checkpoint/storage/s3_upload.js";
import type { Recompute } from "../../job/block_memory.js";
import { cpuProductBytes } from "../../job/cpu_product_bytes.js";
import type { Layout } from "../../job/layout.js";
import type { ModelConfig } from "../../job/model_config.js";
import type { PackSize } from "../../job/pack_size.js";
import { patchSize } from "../../job/parameters.js";
import { FRAGMENT_FRACTION, PROCESS_MEMORY } from "../../job/process_memory.js";
import { type StepMemory, stepMemory } from "../../job/step_memory.js";
import { SAMPLE_CACHE_BYTES } from "../../worker/data/sample_cache.js";
import { announcedSteps, ownPacks } from "../../worker/rank/own_packs.js";
import type { NodeSnapshots } from "./node_snapshots.js";

/** Memory of the rank that needs the most, and of its node. */
export interface CpuMemory {
  step: StepMemory;
  /** What the allocator holds beyond them between packs of different sizes, or after a restore; approximate. */
  fragmentBytes: number;
  /** Packs prepared ahead and the cache of encoded samples, at most. */
  dataBytes: number;
  /** Approximate. */
  processBytes: number;
  /** step, fragments, data and process of all ranks of a node. */
  ranksBytes: number;
  snapshots: NodeSnapshots;
  nodeBaseBytes: number;
  /** Parts of durable saves on their way to s3://; 0: they go to a folder, straight from the snapshots. */
  uploadBytes: number;
  nodeBytes: number;
}

export function cpuMemory(options: {
  model: ModelConfig;
  layout: Layout;
  slots: number;
  precision: "fp32" | "bf16";
  recompute: Recompute;
  packsPerStep: number;
  pack: PackSize;
  /** Bytes of all encoded samples; null: not known. */
  encodedBytes: number | null;
  threads: number;
  snapshots: NodeSnapshots;
  /** Durable saves go to s3://. */
  uploads: boolean;
}): CpuMemory {
  const { model, layout, slots, precision, packsPerStep, pack, snapshots, threads } = options;
  const elementBytes = precision === "bf16" ? 2 : 4;
  const stepOf = (rank: number) =>
    stepMemory({
      ...options,
      rank,
      productBytes: (product) => cpuProductBytes(product, { threads, elementBytes }),
      afterSelf: true,
    });
  const dataOf = (rank: number) => {
    const own = ownPacks(layout, rank, packsPerStep).filter((index) => index !== null).length;
    const packBytes = 4 * (pack.tokens * patchSize(model) + pack.textTokens * model.text_width);
    const prepared = own === 0 ? 0 : announcedSteps(own) * own * packBytes;
    return prepared + Math.min(SAMPLE_CACHE_BYTES, options.encodedBytes ?? SAMPLE_CACHE_BYTES);
  };
  // The ranks of the first node have the largest shards and the most packs.
  const ranks = Array.from({ length: slots }, (_, rank) => {
    const step = stepOf(rank);
    const data = dataOf(rank);
    const loaded = LOAD_MEMORY_BYTES - step.total - data; // of a restore before the first step
    return { step, data, fragments: Math.max(Math.round(FRAGMENT_FRACTION * step.total), loaded) };
  });
  const ranksBytes = ranks.reduce(
    (sum, { step, data, fragments }) => sum + step.total + fragments + data + PROCESS_MEMORY.rankBytes,
    0,
  );
  const most = ranks.reduce((a, b) => (b.step.total + b.data > a.step.total + a.data ? b : a));
  // Replicas of a shard share its writing evenly.
  const writtenBytes = Math.ceil(snapshots.slotBytes / layout.dpReplicate);
  const uploadBytes = options.uploads ? slots * uploadMemoryBytes(writtenBytes) : 0;
  return {
    step: most.step,
    fragmentBytes: most.fragments,
    dataBytes: most.data,
    processBytes: PROCESS_MEMORY.rankBytes,
    ranksBytes,
    snapshots,
    nodeBaseBytes: PROCESS_MEMORY.nodeBytes,
    uploadBytes,
    nodeBytes: ranksBytes + PROCESS_MEMORY.nodeBytes + uploadBytes + snapshots.ownBytes + snapshots.keptBytes,
  };
}
