import type { Job } from "../../job/job.js";
import type { ModelConfig } from "../../job/model_config.js";
import { patchSize } from "../../job/parameters.js";
import { STREAM } from "../../job/philox.js";
import type { PackBatch } from "../data/pack_batch.js";
import type { Native } from "../engine/native.js";
import type { Arena, Tensor } from "../engine/tensor.js";
import { drawDropText, drawNoise, drawTime } from "./draws.js";
import { type PackShape, packShape } from "./pack_context.js";
import type { ComputeDType } from "./transformer.js";

/** One pack, ready to compute: this rank's tokens of it, noised, and what the loss compares with. */
export interface LocalPack {
  /** Index of the pack within its step. */
  slot: number;
  shape: PackShape;
  /** Noised patches [N, P], compute dtype; with a reference frame its patches beside them, [N, 2 P]. */
  patches: Tensor;
  /** data - noise, f32 [N, P]. */
  target: Tensor;
  /** [L, W], compute dtype. */
  text: Tensor;
  /** Flow time, f32 [S]. */
  time: Tensor;
  /** weight_i / (n_i * P * samples of the step). */
  lossWeights: Float64Array;
}

/** The numbers of a pack that are not in its data; sizes as in the whole pack. */
export interface PackNumbers {
  /** Flow time of every sample. */
  time: Float32Array;
  textLengths: readonly number[];
  text: Float32Array;
  /** Noise of this rank's tokens, f32 [N, P]; the caller frees it. */
  noise(arena: Arena, shape: PackShape, P: number): Tensor;
  /** Patches of the reference frame beside every token of the pack, [tokens, P]; asked for where the model has one. */
  reference(): Float32Array;
}

/** Where the numbers come from; parity cases bring their own. */
export type NumberSource = (batch: PackBatch, step: number) => PackNumbers;

/** The numbers of training: drawn by counters from (seed, step, place). */
export function drawnNumbers(
  arena: Arena,
  options: { job: Job; model: ModelConfig; emptyText: { length: number; data: Float32Array } },
): NumberSource {
  const { job, model, emptyText } = options;
  const seed = BigInt(job.seed);
  return (batch, step) => {
    const { places } = batch;
    return {
      time: Float32Array.from(places, (place) => drawTime(arena, job.flow, { seed, step, place })),
      ...dropText(arena.native, batch, {
        seed,
        step,
        chance: job.flow.drop_text,
        emptyText,
        width: model.text_width,
      }),
      noise: (stepArena, shape, P) =>
        drawNoise(stepArena, shape, P, { seed, stream: STREAM.NOISE, step, places }),
      reference: () => firstFrames(batch, patchSize(model)),
    };
  };
}

/** The pack's text, with the empty caption in place of those dropped in this step. */
function dropText(
  native: Native,
  batch: PackBatch,
  options: {
    seed: bigint;
    step: number;
    chance: number;
    emptyText: { length: number; data: Float32Array };
    width: number;
  },
): { textLengths: number[]; text: Float32Array } {
  const { seed, step, chance, emptyText, width } = options;
  const dropped = batch.places.map((place) => drawDropText(native, chance, { seed, step, place }));
  if (!dropped.includes(true)) return { textLengths: batch.textLengths, text: batch.text };
  const textLengths = batch.textLengths.map((length, i) => (dropped[i] ? emptyText.length : length));
  const text = new Float32Array(textLengths.reduce((a, b) => a + b, 0) * width);
  let from = 0;
  let to = 0;
  for (const [i, length] of batch.textLengths.entries()) {
    text.set(dropped[i] ? emptyText.data : batch.text.subarray(from, from + length * width), to);
    from += length * width;
    to += textLengths[i]! * width;
  }
  return { textLengths, text };
}

/** Image-to-video (paper 2.5): beside every patch stands the patch of the first frame at its place. */
function firstFrames(batch: PackBatch, P: number): Float32Array {
  const reference = new Float32Array(batch.data.length);
  let at = 0;
  for (const [t, y, x] of batch.grids) {
    const frame = y * x * P;
    const first = batch.data.subarray(at, at + frame);
    for (let i = 0; i < t; i++, at += frame) reference.set(first, at);
  }
  return reference;
}

export interface LocalPackOptions {
  model: ModelConfig;
  dtype: ComputeDType;
  slot: number;
  sequence: { parts: number; index: number };
  /** Samples of the whole step. */
  sampleCount: number;
}

/** Cuts this rank's tokens out of a pack and noises them: x_t = t data + (1 - t) noise. */
export function localPack(
  arena: Arena,
  batch: PackBatch,
  numbers: PackNumbers,
  options: LocalPackOptions,
): LocalPack {
  const { model, dtype } = options;
  const P = patchSize(model);
  const shape = packShape(batch.grids, numbers.textLengths, options.sequence);
  const rows = shape.local.length;
  const mine = (values: Float32Array) =>
    values.subarray(shape.local.start * P, (shape.local.start + rows) * P);

  const time = arena.from(numbers.time, "f32", shape.samples);
  const data = arena.from(mine(batch.data), "f32", rows, P);
  const noise = numbers.noise(arena, shape, P);
  const noised = arena.alloc(dtype, rows, P);
  const target = arena.alloc("f32", rows, P);
  if (rows > 0) arena.native.flowPath(noised.id, target.id, data.id, noise.id, time.id, shape.offsets, P);
  data.free();
  noise.free();
  return {
    slot: options.slot,
    shape,
    patches: model.reference_frame
      ? besideReference(arena, noised, arena.from(mine(numbers.reference()), dtype, rows, P))
      : noised,
    target,
    text: arena.from(numbers.text, dtype, shape.textOffsets[shape.samples]!, model.text_width),
    time,
    lossWeights: Float64Array.from(batch.weights, (weight, i) => {
      const tokens = shape.packOffsets[i + 1]! - shape.packOffsets[i]!;
      return weight / (tokens * P * options.sampleCount);
    }),
  };
}

/** [patches, reference] on the channel axis; takes over both. */
export function besideReference(arena: Arena, patches: Tensor, reference: Tensor): Tensor {
  const [rows, P] = patches.shape as [number, number];
  const both = arena.alloc(patches.dtype, rows, 2 * P);
  if (rows > 0) {
    arena.native.copy2d(both.id, 0, 2 * P, patches.id, 0, P, rows, P);
    arena.native.copy2d(both.id, P, 2 * P, reference.id, 0, P, rows, P);
  }
  patches.free();
  reference.free();
  return both;
}
