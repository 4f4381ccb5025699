import { z } from "zod";
import { oneTrueFalse, positive, wholeFrom, wholeTriple } from "./wanted.js";

const fields = {
  depth: wholeFrom(1),
  width: wholeFrom(1),
  heads: wholeFrom(1),
  text_width: wholeFrom(1),
  latent_channels: wholeFrom(1),
  patch: wholeTriple,
  mlp_ratio: wholeFrom(1),
  frequency_width: wholeFrom(2).refine((width) => width % 2 === 0, { error: "an even number of at least 2" }),
  rope_theta: positive,
  rotate_cross_queries: oneTrueFalse,
  reference_frame: oneTrueFalse,
  eps: positive,
};

/** What a job may override of its preset; nothing is filled in here. */
export const modelOverridesSchema = z.strictObject(fields).partial();

/** Shape of the model; names as in the reference. A preset gives all of them, a job may override any. */
export const modelConfigSchema = z
  .strictObject({
    ...fields,
    patch: fields.patch.default([1, 2, 2]),
    mlp_ratio: fields.mlp_ratio.default(4),
    frequency_width: fields.frequency_width.default(256),
    rope_theta: fields.rope_theta.default(10000),
    rotate_cross_queries: fields.rotate_cross_queries.default(true),
    reference_frame: fields.reference_frame.default(false),
    eps: fields.eps.default(1e-6),
  })
  .refine((config) => config.width % config.heads === 0 && (config.width / config.heads) % 2 === 0, {
    error: "a multiple of 2 * heads (rotary pairs)",
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
