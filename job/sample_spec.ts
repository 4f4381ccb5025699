import { z } from "zod";
import type { ModelConfig } from "./model_config.js";
import { boundedText, notNegative, positive, wholeFrom, wholePair } from "./wanted.js";

/** All prompts of a job travel with it to every rank, and stand in the header of every state. */
const PROMPTS_MAX = 64;
const PROMPT_CHARS_MAX = 500;
/** Far more than any flow needs. */
const SAMPLING_STEPS_MAX = 1_000;

const count = wholeFrom(1);
const promptsWanted = `a list of at most ${PROMPTS_MAX} prompts`;

/** How pictures are drawn: of previews while training, and by `gokuctl sample` unless it is told otherwise. */
export const sampleSchema = z
  .strictObject({
    /** Steps between previews drawn while training; 0: none. */
    every_steps: wholeFrom(0).default(0),
    prompts: z
      .array(boundedText("a prompt", PROMPT_CHARS_MAX), { error: promptsWanted })
      .max(PROMPTS_MAX, { error: promptsWanted })
      .default([]),
    /** Picture i is drawn from (seed, i). */
    seed: wholeFrom(0).default(1),
    /** Width and height in pixels; null: the square of data.max_pixels. */
    size: wholePair.nullable().default(null),
    /** 1: pictures; more: clips. */
    frames: count.default(1),
    steps: count.max(SAMPLING_STEPS_MAX, { error: `at most ${SAMPLING_STEPS_MAX}` }).default(24),
    guidance: notNegative.default(3),
    shift: positive.default(1),
    /** Previews that stay; older ones are removed. */
    keep_last: count.default(100),
  })
  .prefault({});
export type SampleSpec = z.infer<typeof sampleSchema>;

export interface PictureSize {
  width: number;
  height: number;
  /** 1: a picture. */
  frames: number;
}

/** Attention is quadratic: what is this far beyond the pixels or frames that a model was trained on is a slip of the hand. */
const BEYOND_MAX = 16;

interface Trained {
  max_pixels: number;
  max_frames: number;
}

/** Size of a job's previews. Pure. */
export function previewSize({ sample, data }: { sample: SampleSpec; data: Trained }): PictureSize {
  const [width, height] = sample.size ?? squareOf(data);
  return { width, height, frames: sample.frames };
}

/** The square of as many pixels as the model was trained on. Pure. */
export function squareOf({ max_pixels }: Trained): [number, number] {
  const side = Math.floor(Math.sqrt(max_pixels));
  return [side, side];
}

/** Which of a picture's sizes is out of bounds, and what is wanted; null: none. Pure. */
export function sizeProblem(
  { width, height, frames }: PictureSize,
  data: Trained,
): { key: "size" | "frames"; trained: string; wanted: string } | null {
  if (width * height > BEYOND_MAX * data.max_pixels) {
    const trained = `${data.max_pixels} pixels (data.max_pixels)`;
    return { key: "size", trained, wanted: `at most ${BEYOND_MAX} times ${trained}` };
  }
  if (frames > BEYOND_MAX * data.max_frames) {
    const trained = `${data.max_frames} frames (data.max_frames)`;
    return { key: "frames", trained, wanted: `at most ${BEYOND_MAX} times ${trained}` };
  }
  return null;
}

/** Why a job's previews cannot be drawn, as a key of its section `sample` and what it wants; null: they can. Pure. */
export function previewProblem(
  job: { sample: SampleSpec; data: Trained },
  model: ModelConfig,
): { key: string; wanted: string } | null {
  const beyond = sizeProblem(previewSize(job), job.data);
  if (beyond !== null) return beyond;
  if (job.sample.every_steps === 0) return null;
  if (job.sample.prompts.length === 0)
    return { key: "prompts", wanted: "at least one prompt, since sample.every_steps asks for previews" };
  if (model.reference_frame)
    return { key: "every_steps", wanted: "0, since the model needs a reference frame, which no prompt has" };
  return null;
}
