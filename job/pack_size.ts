import type { Job } from "./job.js";
import type { ModelConfig } from "./model_config.js";

/** As much as a pack of the job can hold of each: what memory is planned for. */
export interface PackSize {
  tokens: number;
  samples: number;
  /** Tokens of all captions together. */
  textTokens: number;
}

/**
 * A full pack where the data are not known: pictures as large as the job allows, each with the longest caption. Clips of the same
 * frame size make fewer samples of as many tokens; smaller pictures make more, which takes more memory for text and modulation.
 */
export function assumedPack(job: Job, model: ModelConfig): PackSize {
  const [, strideY, strideX] = job.data.codec.stride;
  const [, patchY, patchX] = model.patch;
  const pictureTokens = Math.max(1, Math.floor(job.data.max_pixels / (strideY * patchY * strideX * patchX)));
  const tokens = job.train.tokens_per_pack;
  const samples = Math.max(1, Math.floor(tokens / pictureTokens));
  return { tokens, samples, textTokens: samples * job.data.text_tokens };
}
