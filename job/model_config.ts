import { z } from "zod";

const count = z.number().int().min(1);

/** Shape of the model; names as in the reference. A preset gives all of them, a job may override any. */
export const modelConfigSchema = z
  .object({
    depth: count,
    width: count,
    heads: count,
    text_width: count,
    latent_channels: count,
    patch: z.tuple([count, count, count]).default([1, 2, 2]),
    mlp_ratio: count.default(4),
    frequency_width: count.default(256),
    rope_theta: z.number().positive().default(10000),
    rotate_cross_queries: z.boolean().default(true),
    reference_frame: z.boolean().default(false),
    eps: z.number().positive().default(1e-6),
  })
  .strict()
  .refine((c) => c.width % c.heads === 0 && (c.width / c.heads) % 2 === 0, {
    message: "width must be a multiple of 2 * heads (rotary pairs)",
    path: ["width"],
  });
export type ModelConfig = z.infer<typeof modelConfigSchema>;

/** Published sizes (paper, table 1; FFN is 4x everywhere). goku-nano is ours, for one CPU. */
export const MODEL_PRESETS = {
  "goku-nano": { depth: 4, width: 128, heads: 4, text_width: 64, latent_channels: 48 },
  "goku-1b": { depth: 28, width: 1152, heads: 16, text_width: 2048, latent_channels: 16 },
  "goku-2b": { depth: 28, width: 1792, heads: 28, text_width: 2048, latent_channels: 16 },
  "goku-8b": { depth: 40, width: 3072, heads: 48, text_width: 2048, latent_channels: 16 },
} as const;
export type ModelPreset = keyof typeof MODEL_PRESETS;
