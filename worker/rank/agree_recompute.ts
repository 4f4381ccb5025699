import { RECOMPUTES, type Recompute } from "../../job/block_memory.js";
import { chooseRecompute, gpuRoom, nodeRoom } from "../../job/choose_recompute.js";
import { cpuProductBytes } from "../../job/cpu_product_bytes.js";
import { modelConfig } from "../../job/job.js";
import { Layout } from "../../job/layout.js";
import { assumedPack } from "../../job/pack_size.js";
import { patchSize } from "../../job/parameters.js";
import { STATE_KIND_COUNT, stateKindBytes } from "../../job/state_bytes.js";
import { stepMemory } from "../../job/step_memory.js";
import type { CommId, Native } from "../engine/native.js";
import type { ToRank } from "../rank_messages.js";
import { announcedSteps, ownPacks } from "./own_packs.js";
import { REDUCE, reduceNumbers } from "./reduce_numbers.js";

type Prepare = Extract<ToRank, { kind: "prepare" }>;

/** What a place asks to recompute; `snapshotBytes`: one state of this rank. Pure. */
export function wantedRecompute(
  prepare: Prepare,
  node: { snapshotBytes: number; slotCount: number },
): { recompute: Recompute; reason: string } {
  const { job, rank, threads, localWorldSize, replicate, memoryBytes, gpu } = prepare;
  if (job.recompute !== "auto") return { recompute: job.recompute, reason: "set in the job" };
  const model = modelConfig(job);
  const layout = new Layout(prepare.layout);
  const { packs_per_step: packsPerStep } = job.train;
  const pack = assumedPack(job, model);
  const own = ownPacks(layout, rank, packsPerStep).filter((index) => index !== null).length;
  const packBytes = 4 * (pack.tokens * patchSize(model) + pack.textTokens * model.text_width);
  // A node that replicates keeps as much for others, two states of each.
  const states = node.slotCount + (replicate ? 2 : 0);
  const elementBytes = job.precision === "bf16" ? 2 : 4;
  const otherBytes = states * node.snapshotBytes + (own === 0 ? 0 : announcedSteps(own) * own * packBytes);
  return chooseRecompute({
    room:
      gpu === null
        ? nodeRoom({ memoryBytes, ranks: localWorldSize, otherBytes })
        : gpuRoom({ ...gpu, stateBytes: STATE_KIND_COUNT * stateKindBytes({ model, layout, rank }) }),
    tensorBytes: (recompute) =>
      stepMemory({
        model,
        layout,
        rank,
        precision: job.precision,
        recompute,
        packsPerStep,
        pack,
        productBytes: (product) => (gpu === null ? cpuProductBytes(product, { threads, elementBytes }) : 0),
        afterSelf: true,
      }).total,
  });
}

/**
 * The most that any rank of the world must recompute, on all of them: a block that runs again exchanges its tokens again,
 * so those who share a sequence must do alike. All ways give the same bits. Every rank of the world must call it.
 */
export function agreeRecompute(native: Native, world: CommId | null, own: Recompute): Recompute {
  if (world === null) return own;
  const [most] = reduceNumbers(native, world, Float64Array.of(RECOMPUTES.indexOf(own)), REDUCE.max);
  return RECOMPUTES[most!]!;
}
