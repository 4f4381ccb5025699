import { STATE_KINDS } from "../checkpoint/state.js";
import { type ModelConfig, modelConfigSchema } from "../job/model_config.js";
import { parameterSpecs } from "../job/parameters.js";

/** A model of about so much training state: 16 bytes a parameter, blocks of width 512. */
export function modelOfBytes(stateBytes: number): ModelConfig {
  const of = (depth: number) =>
    modelConfigSchema.parse({ depth, width: 512, heads: 8, text_width: 512, latent_channels: 16 });
  const bytes = (depth: number) => stateBytesOf(of(depth));
  const block = bytes(2) - bytes(1);
  return of(Math.max(1, Math.round((stateBytes - bytes(1)) / block) + 1));
}

export function stateBytesOf(model: ModelConfig): number {
  const parameters = parameterSpecs(model).reduce((sum, { count }) => sum + count, 0);
  return 4 * STATE_KINDS.length * parameters;
}
