import { z } from "zod";
import { CHECKPOINT_URI_WANTED, isCheckpointUri } from "./checkpoint_uri.js";
import {
  MODEL_PRESETS,
  type ModelConfig,
  type ModelPreset,
  modelConfigSchema,
  modelOverridesSchema,
} from "./model_config.js";
import { previewProblem, sampleSchema } from "./sample_spec.js";
import { deviceSchema, layoutSchema, nameSchema, recoveryKeys } from "./shared_sections.js";
import {
  fraction,
  fractionBelowOne,
  fractionPair,
  notNegative,
  oneOf,
  oneTrueFalse,
  positive,
  text,
  wholeFrom,
  wholeTriple,
} from "./wanted.js";

const count = wholeFrom(1);
const presets = Object.keys(MODEL_PRESETS) as [ModelPreset, ...ModelPreset[]];

const dataSchema = z.strictObject({
  /** Folder that is walked for pictures and clips with captions. */
  media: text("the path of a folder"),
  /** Pixels of a frame; larger media are scaled down to it, sides cropped to whole patches. */
  max_pixels: count.default(32 * 32),
  /** Clips are cut to 1 + k * stride[0] frames, at most this many. */
  max_frames: count.default(9),
  fps: positive.default(8),
  codec: z
    .strictObject({
      /** Pixels per latent along (t, y, x): powers of two, at most [4, 8, 8]. */
      stride: wholeTriple
        .refine((stride) => stride.every((s, axis) => [1, 2, 4, 8].includes(s) && s <= [4, 8, 8][axis]!), {
          error: "powers of two [t, y, x], at most [4, 8, 8]",
        })
        .default([2, 4, 4]),
    })
    .prefault({}),
  text_tokens: count.default(16),
  /** Encoded samples kept on disk beside the media, so that media are decoded once; 0: none. */
  store_mib: wholeFrom(0).default(1024),
});

/** The job file of a job that trains our model. Keys are a stable interface; unknown keys are errors; every default is shown by `gokuctl train --dry-run`. */
export const jobSchema = z
  .strictObject({
    name: nameSchema,
    seed: wholeFrom(0).default(1),
    model: modelOverridesSchema.extend({ preset: oneOf(...presets).default("goku-nano") }).prefault({}),
    device: deviceSchema,
    data: dataSchema,
    layout: layoutSchema.default("auto"),
    precision: oneOf("fp32", "bf16").default("fp32"),
    /** `auto`: selective, or full where only that fits the node's memory (choose_recompute.ts). */
    recompute: oneOf("auto", "none", "selective", "full").default("auto"),
    train: z.strictObject({
      steps: count,
      packs_per_step: count.default(4),
      tokens_per_pack: count.default(512),
    }),
    flow: z
      .strictObject({
        time: oneOf("logit_normal", "uniform").default("logit_normal"),
        shift: positive.default(1),
        drop_text: fraction.default(0.1),
      })
      .prefault({}),
    optimizer: z
      .strictObject({
        lr: positive.default(1e-3),
        betas: fractionPair.default([0.9, 0.95]),
        eps: positive.default(1e-8),
        weight_decay: notNegative.default(0.01),
        clip: positive.default(1),
        warmup_steps: wholeFrom(0).default(0),
        schedule: oneOf("constant", "cosine").default("constant"),
        ema: fractionBelowOne.default(0.999),
      })
      .prefault({}),
    checkpoint: z.strictObject({
      uri: text(CHECKPOINT_URI_WANTED).refine(isCheckpointUri, { error: CHECKPOINT_URI_WANTED }),
      every_steps: count.default(100),
      keep_last: count.default(3),
      /** Checkpoints whose step is a multiple of it stay for ever, besides the newest; null: only the newest stay. */
      keep_every: count.nullable().default(null),
      snapshot_every_steps: count.default(1),
      /** Copies of a rank's state in the memory of other nodes, in other failure domains. */
      replicas: wholeFrom(0).max(1, { error: "0 or 1" }).default(1),
      /** What each node sends of them at most; null: 2 for each of its cores, which takes a hundredth of their time. */
      replica_mib_per_second: positive.nullable().default(null),
    }),
    recovery: z
      .strictObject({
        ...recoveryKeys(1.5),
        /** A node that is slower than the others gives its ranks to a free one. */
        replace_stragglers: oneTrueFalse.default(false),
        /** Of a step whose losses or gradients are not finite, also when computed again. */
        bad_step: oneOf("skip", "roll_back", "stop").default("skip"),
        /** Of a step whose loss or gradient norm is a spike, also when computed again. */
        spike: oneOf("apply", "skip", "roll_back", "stop").default("apply"),
        /** With so many in a row the job ends: NOT_FINITE, or NUMBERS_SPIKED. */
        max_bad_steps: count.default(10),
        /** How far roll_back goes: so many steps are undone, the bad one among them. */
        roll_back_steps: count.default(100),
        /** So many in a row, then the job ends as with max_bad_steps. */
        max_roll_backs: count.default(3),
      })
      .prefault({}),
    sample: sampleSchema,
  })
  .superRefine((job, context) => {
    const fail = (path: string[], wanted: string) =>
      context.addIssue({ code: "custom", path, message: wanted });
    const config = modelConfigSchema.safeParse(modelFields(job.model));
    if (!config.success) {
      for (const issue of config.error.issues) fail(["model", ...issue.path.map(String)], issue.message);
      return;
    }
    const [strideT, strideY, strideX] = job.data.codec.stride;
    const { latent_channels: channels, patch } = config.data;
    if (channels > 3 * strideY * strideX) {
      fail(
        ["data", "codec", "stride"],
        `[t, y, x] with 3 * y * x of at least model.latent_channels ${channels} (here ${3 * strideY * strideX})`,
      );
    }
    if (patch[0] !== 1)
      fail(["model", "patch"], "1 as its first number, since a picture is one latent frame");
    const patchPixels = strideY * patch[1] * strideX * patch[2];
    if (job.data.max_pixels < patchPixels) {
      fail(
        ["data", "max_pixels"],
        `at least the ${patchPixels} pixels of one patch (codec stride ${strideT}x${strideY}x${strideX}, patch ${patch.join("x")})`,
      );
    }
    const { recovery, checkpoint } = job;
    const reach = 1 + (checkpoint.keep_last - 1) * checkpoint.every_steps;
    if ([recovery.bad_step, recovery.spike].includes("roll_back") && recovery.roll_back_steps > reach) {
      fail(
        ["recovery", "roll_back_steps"],
        `at most ${reach}, behind which no checkpoint may be left (1 + (checkpoint.keep_last - 1) * checkpoint.every_steps): raise checkpoint.keep_last`,
      );
    }
    const problem = previewProblem(job, config.data);
    if (problem !== null) fail(["sample", problem.key], problem.wanted);
  });
export type Job = z.infer<typeof jobSchema>;

function modelFields(model: Job["model"]): Record<string, unknown> {
  const { preset, ...overrides } = model;
  const given = Object.entries(overrides).filter(([, value]) => value !== undefined);
  return { ...MODEL_PRESETS[preset], ...Object.fromEntries(given) };
}

/** Shape of the job's model: its preset, then the job's own keys over it. */
export function modelConfig(job: Pick<Job, "model">): ModelConfig {
  return modelConfigSchema.parse(modelFields(job.model));
}
