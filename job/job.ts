import { z } from "zod";
import { MODEL_PRESETS, modelConfigSchema } from "./model_config.js";

const count = z.number().int().min(1);
const fraction = z.number().min(0).max(1);
const presets = Object.keys(MODEL_PRESETS) as [keyof typeof MODEL_PRESETS];

const layoutSchema = z.union([
  z.literal("auto"),
  z.object({ dp_replicate: count.default(1), dp_shard: count.default(1), sp: count.default(1) }).strict(),
]);

/** The job file. Keys are a stable interface; unknown keys are errors; every default is shown by `gokuctl train --dry-run`. */
export const jobSchema = z
  .object({
    name: z.string().regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, "use 1 to 63 of a-z, 0-9 and '-', no '-' at the ends"),
    seed: z.number().int().min(0).max(Number.MAX_SAFE_INTEGER).default(1),
    model: z.object({ preset: z.enum(presets) }).extend(modelConfigSchema.shape).partial().strict().default({ preset: "goku-nano" }),
    device: z.enum(["auto", "cpu"]).default("auto"),
    data: z
      .object({
        media: z.string().min(1),
        /** Pixel grid every sample must fit; larger ones are scaled down to it, sides rounded to whole patches. */
        max_pixels: count.default(32 * 32),
        max_frames: count.default(9),
        fps: z.number().positive().default(8),
        codec: z.object({ stride: z.tuple([count, count, count]).default([4, 4, 4]) }).strict().prefault({}),
        text_tokens: count.default(16),
      })
      .strict(),
    layout: layoutSchema.default("auto"),
    precision: z.enum(["fp32", "bf16"]).default("fp32"),
    recompute: z.enum(["auto", "none", "full"]).default("auto"),
    train: z.object({ steps: count, packs_per_step: count.default(4), tokens_per_pack: count.default(512) }).strict(),
    flow: z
      .object({
        time: z.enum(["logit_normal", "uniform"]).default("logit_normal"),
        shift: z.number().positive().default(1),
        drop_text: fraction.default(0.1),
      })
      .strict()
      .prefault({}),
    optimizer: z
      .object({
        lr: z.number().positive().default(1e-3),
        betas: z.tuple([fraction, fraction]).default([0.9, 0.95]),
        eps: z.number().positive().default(1e-8),
        weight_decay: z.number().min(0).default(0.01),
        clip: z.number().positive().default(1),
        warmup_steps: z.number().int().min(0).default(0),
        schedule: z.enum(["constant", "cosine"]).default("constant"),
        ema: fraction.default(0.999),
      })
      .strict()
      .prefault({}),
    checkpoint: z
      .object({
        uri: z.string().regex(/^file:\/\/./, "want file://PATH"),
        every_steps: count.default(100),
        keep_last: count.default(3),
        snapshot_every_steps: count.default(1),
      })
      .strict(),
    recovery: z
      .object({
        max_attempts: z.number().int().min(0).default(5),
        /** A rank that shows no progress for this long is replaced; learnt from the run, never below this floor. */
        stall_seconds: z.number().positive().default(5),
        /** How long a lost node may come back before the job goes on without it (layout auto) or fails. */
        node_grace_seconds: z.number().positive().default(60),
      })
      .strict()
      .prefault({}),
    sample: z
      .object({
        prompts: z.array(z.string().min(1)).default([]),
        steps: count.default(24),
        guidance: z.number().min(0).default(3),
        shift: z.number().positive().default(1),
      })
      .strict()
      .prefault({}),
  })
  .strict();
export type Job = z.infer<typeof jobSchema>;
