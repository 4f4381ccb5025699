import type { ModelConfig } from "../../job/model_config.js";
import { patchSize } from "../../job/parameters.js";
import type { PackShape } from "./pack_context.js";

/**
 * Multiply-adds of one rank's forward pass over one pack, of N own tokens, S samples and L text tokens. Matrix products:
 *
 *   patches in and out       2 N P D   (a reference frame beside them: N 2P P more)
 *   time and its modulation  S (F D + D^2 + 2 D^2), and 6 S D^2 in each block
 *   in each block, linear    N ((6 + 2 m) D^2) + 2 L W D
 *   self-attention           2 h d sum(n_i^2), of this rank's h heads and the whole samples of n_i tokens
 *   cross-attention          2 D sum(own n_i * l_i)
 *
 * Backward is twice that. Norms, activations and moved bytes are left out: they go with N. What ranks are compared by is
 * time over work, so only what differs from rank to rank in another way than this would show.
 */
export function packWork(shape: PackShape, model: ModelConfig, heads: number): number {
  const { width: D, text_width: W, frequency_width: F, mlp_ratio: m, depth } = model;
  const { samples: S, packOffsets, offsets, textOffsets } = shape;
  const N = shape.local.length;
  const P = patchSize(model);
  let ownSquares = 0;
  let ownText = 0;
  for (let i = 0; i < S; i++) {
    ownSquares += (packOffsets[i + 1]! - packOffsets[i]!) ** 2;
    ownText += (offsets[i + 1]! - offsets[i]!) * (textOffsets[i + 1]! - textOffsets[i]!);
  }
  const linear = N * (6 + 2 * m) * D * D + 2 * textOffsets[S]! * W * D + 6 * S * D * D;
  const attention = 2 * heads * (D / model.heads) * ownSquares + 2 * D * ownText;
  const ends = 2 * N * P * D + (model.reference_frame ? 2 * N * P * P : 0);
  const time = S * (F * D + 3 * D * D);
  return depth * (linear + attention) + ends + time;
}
