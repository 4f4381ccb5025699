import type { ModelConfig } from "./model_config.js";

export interface ParameterSpec {
  name: string;
  shape: readonly number[]; // Linear weights are [out, in]
  count: number;
}

/** Canonical names and shapes, in checkpoint order (arXiv 2502.04896, section 2.2; block layout as its authors published it). */
export function parameterSpecs(config: ModelConfig): ParameterSpec[] {
  const D = config.width;
  const W = config.text_width;
  const P = patchSize(config);
  const M = config.width * config.mlp_ratio;
  const specs: ParameterSpec[] = [];
  const add = (name: string, ...shape: number[]) =>
    specs.push({ name, shape, count: shape.reduce((a, b) => a * b, 1) });
  if (config.reference_frame) {
    add("reference_proj.weight", P, 2 * P);
    add("reference_proj.bias", P);
  }
  add("patch_embed.weight", D, P);
  add("patch_embed.bias", D);
  add("time_embed.fc1.weight", D, config.frequency_width);
  add("time_embed.fc1.bias", D);
  add("time_embed.fc2.weight", D, D);
  add("time_embed.fc2.bias", D);
  for (let i = 0; i < config.depth; i++) {
    const block = `blocks.${i}.`;
    add(`${block}norm1.linear.weight`, 6 * D, D);
    add(`${block}norm1.linear.bias`, 6 * D);
    for (const [attention, source] of [
      ["attn1.", D],
      ["attn2.", W],
    ] as const) {
      add(`${block}${attention}q_proj.weight`, D, D);
      add(`${block}${attention}k_proj.weight`, D, source);
      add(`${block}${attention}v_proj.weight`, D, source);
      add(`${block}${attention}o_proj.weight`, D, D);
      add(`${block}${attention}q_norm.weight`, D);
      add(`${block}${attention}k_norm.weight`, D);
    }
    add(`${block}norm2.weight`, D);
    add(`${block}norm3.weight`, D);
    add(`${block}mlp.fc1.weight`, M, D);
    add(`${block}mlp.fc1.bias`, M);
    add(`${block}mlp.fc2.weight`, D, M);
    add(`${block}mlp.fc2.bias`, D);
  }
  add("final_norm.linear.weight", 2 * D, D);
  add("final_norm.linear.bias", 2 * D);
  add("final_proj.weight", P, D);
  add("final_proj.bias", P);
  return specs;
}

/** Numbers in one patch: latent channels * pt * ph * pw. */
export function patchSize(config: ModelConfig): number {
  return config.latent_channels * config.patch[0] * config.patch[1] * config.patch[2];
}
