import type { Exclusion } from "../../job/exclusion.js";

/**
 * What the data side hands to the trainer for one pack: whole samples, one after another, no padding.
 * The trainer draws noise, time and text dropout itself from (seed, step, place).
 */
export interface PackBatch {
  /** Global number of the pack, from 0; step s (from 1) of a job with k packs a step consumes packs (s-1)k .. sk-1. */
  packIndex: number;
  /** Patch counts (t, y, x) of every sample; an image has t = 1. */
  grids: [number, number, number][];
  /** Text tokens of every sample, at least 1 (an empty caption has one token). */
  textLengths: number[];
  /** [N, P] patches of the normalised latents, tokens t-major, then y, then x; inside a patch channel, dt, dy, dx. */
  data: Float32Array;
  /** [L, W] text encoder output. */
  text: Float32Array;
  /** Place of each sample within its step, over all packs of the step: the `which` of its random numbers. */
  places: number[];
  /** 0 for a sample that could not be read or is left out (its place and the divisor stay), else 1. */
  weights: number[];
  /** Sample names, for reports. */
  samples: string[];
}

/** Everything about a step that follows from sizes alone, without reading media. */
export interface StepPlan {
  step: number;
  packs: { packIndex: number; samples: string[]; tokens: number }[];
  /** Samples of the whole step: the divisor of the loss. */
  sampleCount: number;
  tokens: number;
  images: number;
  videos: number;
  /** tokens / (packs * tokens_per_pack). */
  fill: number;
}

/** Source of packs of one job. Implementations prefetch off the training thread. */
export interface PackSource {
  /** Digest of the data index (names, sizes, content digests, codec): pinned by checkpoints. */
  readonly digest: string;
  /** Latent statistics and codec settings, kept in checkpoints so that they can be sampled from alone. */
  readonly codec: unknown;
  plan(step: number): StepPlan;
  /** Pack `index` of step `step` (0 <= index < packs_per_step); resolves from prefetch when it was announced. */
  pack(step: number, index: number): Promise<PackBatch>;
  /** Every sample that is left out for good, by the votes of steps and by the state restored. */
  readonly exclusions: readonly Exclusion[];
  /**
   * A vote found these samples of a step unreadable, named by their places in it: from now on they are left out, unread, their
   * places kept with zeros of weight 0. Those that were left out before stay so. @throws GokuError DATA_UNREADABLE
   */
  exclude(step: number, places: readonly number[]): void;
  /** Goes on with the exclusions of a restored state instead. */
  restoreExclusions(exclusions: readonly Exclusion[]): void;
  /** Tells which packs this rank will ask for next, in order; what was told before and is not among them is dropped. */
  announce(packs: { step: number; index: number }[]): void;
  close(): Promise<void>;
}
