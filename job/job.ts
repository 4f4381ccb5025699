import { z } from "zod";
import { CHECKPOINT_URI_WANTED, isCheckpointUri } from "./checkpoint_uri.js";
import {
  MODEL_PRESETS,
  type ModelConfig,
  type ModelPreset,
  modelConfigSchema,
  modelOverridesSchema,
} from "./model_config.js";
import {
  fraction,
  fractionBelowOne,
  fractionPair,
  notNegative,
  oneOf,
  positive,
  text,
  wholeFrom,
  wholeTriple,
} from "./wanted.js";

const count = wholeFrom(1);
/** A key of the stable interface for what is not built yet: only 0, its way of saying no, is taken. */
const notYet = (what: string) => z.literal(0, { error: `0, since ${what} not supported yet` }).default(0);
const presets = Object.keys(MODEL_PRESETS) as [ModelPreset, ...ModelPreset[]];
const NAME_WANTED = "1 to 63 of a-z, 0-9 and '-', with no '-' at the ends";

const layoutSchema = z.union(
  [
    z.literal("auto"),
    z.strictObject({ dp_replicate: count.default(1), dp_shard: count.default(1), sp: count.default(1) }),
  ],
  { error: "auto, or any of dp_replicate, dp_shard and sp" },
);

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

/** The job file. Keys are a stable interface; unknown keys are errors; every default is shown by `gokuctl train --dry-run`. */
export const jobSchema = z
  .strictObject({
    name: text(NAME_WANTED).regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, { error: NAME_WANTED }),
    seed: wholeFrom(0).default(1),
    model: modelOverridesSchema.extend({ preset: oneOf(...presets).default("goku-nano") }).prefault({}),
    device: oneOf("auto", "cpu").default("auto"),
    data: dataSchema,
    layout: layoutSchema.default("auto"),
    precision: oneOf("fp32", "bf16").default("fp32"),
    /** `auto` is one fixed choice between the others; it does not look at the memory there is. */
    recompute: oneOf("auto", "none", "full").default("auto"),
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
        max_attempts: wholeFrom(0).default(5),
        /** A rank that shows no progress for this long is replaced; learnt from the run, never below this floor. */
        stall_seconds: positive.default(5),
        /** How long a lost node may come back before the job goes on without it (layout auto) or fails. */
        node_grace_seconds: positive.default(60),
        /** Nodes held ready to replace a lost one. */
        spares: notYet("spare nodes are"),
      })
      .prefault({}),
    sample: z
      .strictObject({
        /** Steps between previews drawn while training; 0: none. */
        every_steps: notYet("previews while training are"),
        prompts: z.array(text("a prompt"), { error: "a list of prompts" }).default([]),
        steps: count.default(24),
        guidance: notNegative.default(3),
        shift: positive.default(1),
      })
      .prefault({}),
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
