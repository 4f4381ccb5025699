import type { ModelConfig } from "../../../job/model_config.js";
import { patchSize } from "../../../job/parameters.js";
import type { PackBatch, PackSource, StepPlan } from "../../../worker/data/pack_batch.js";

const GRIDS: [number, number, number][] = [
  [1, 2, 3],
  [3, 2, 2],
  [1, 1, 1],
  [2, 3, 1],
  [1, 4, 2],
];

/** Packs made of numbers that depend on their index alone: images and videos, captions of any length, unless `sizes` says which. */
export function syntheticPack(
  model: ModelConfig,
  packIndex: number,
  packsPerStep: number,
  sizes: { grids: [number, number, number][]; textLengths: number[] } | null = null,
): PackBatch {
  const random = generator(packIndex + 1);
  const samples = 1 + (packIndex % 3);
  const grids =
    sizes?.grids ?? Array.from({ length: samples }, (_, i) => GRIDS[(packIndex + i) % GRIDS.length]!);
  const textLengths = sizes?.textLengths ?? grids.map((_, i) => 1 + ((packIndex + 2 * i) % 4));
  const tokens = grids.reduce((sum, [t, y, x]) => sum + t * y * x, 0);
  const floats = (count: number) => Float32Array.from({ length: count }, random);
  const slot = packIndex % packsPerStep;
  return {
    packIndex,
    grids,
    textLengths,
    data: floats(tokens * patchSize(model)),
    text: floats(textLengths.reduce((a, b) => a + b) * model.text_width),
    places: grids.map((_, i) => slot * Math.max(3, grids.length) + i),
    weights: grids.map(() => 1),
    samples: grids.map((_, i) => `pack ${packIndex} sample ${i}`),
  };
}

export function syntheticPlan(step: number, batches: readonly PackBatch[]): StepPlan {
  const grids = batches.flatMap((batch) => batch.grids);
  const tokens = (some: PackBatch["grids"]) => some.reduce((sum, [t, y, x]) => sum + t * y * x, 0);
  const videos = grids.filter(([t]) => t > 1).length;
  return {
    step,
    packs: batches.map((batch) => ({
      packIndex: batch.packIndex,
      samples: batch.samples,
      tokens: tokens(batch.grids),
    })),
    sampleCount: grids.length,
    tokens: tokens(grids),
    images: grids.length - videos,
    videos,
    fill: 1,
  };
}

/** Packs of a job, made as they are asked for. */
export function syntheticSource({
  model,
  packsPerStep,
  digest,
  change = (pack) => pack,
}: {
  model: ModelConfig;
  packsPerStep: number;
  digest: string;
  /** May do something to the packs of a step. */
  change?: (pack: PackBatch, step: number) => PackBatch;
}): PackSource {
  const pack = (step: number, index: number) =>
    change(syntheticPack(model, (step - 1) * packsPerStep + index, packsPerStep), step);
  const packs = (step: number) => Array.from({ length: packsPerStep }, (_, index) => pack(step, index));
  return {
    digest,
    codec: null,
    plan: (step) => syntheticPlan(step, packs(step)),
    pack: async (step, index) => pack(step, index),
    exclusions: [],
    exclude: () => {},
    restoreExclusions: () => {},
    announce: () => {},
    close: async () => {},
  };
}

/** 32-bit linear congruential generator in [-1, 1). */
function generator(seed: number): () => number {
  let state = Math.imul(seed, 2654435761) >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  };
}
