import type { ModelConfig } from "./model_config.js";

/**
 * What is kept from forward to backward. `none`: everything backward needs. `selective`: what norms, QK-norm with rotation and
 * GELU give is made again from their inputs, and no matrix product is. `full`: only the input of every block; the block
 * runs again before its backward. All three give the same bits.
 */
export type Recompute = "none" | "selective" | "full";
export const RECOMPUTES: readonly Recompute[] = ["none", "selective", "full"];

/** What one rank computes on at a time: a part of one pack. */
export interface BlockShape {
  model: ModelConfig;
  /** Bytes of a number of the residual stream. */
  elementBytes: 2 | 4;
  /** Tokens of this rank. */
  tokens: number;
  /** Samples of the pack. */
  samples: number;
  /** Text tokens of the pack; every rank has all of them. */
  textTokens: number;
  /** Self-attention runs on all tokens of the pack with some of the heads (Ulysses); null: where the tokens lie. */
  spread: { tokens: number; heads: number } | null;
}

/** Bytes of allocator memory that a tensor takes: whole lines of 64 bytes, at least one (native/allocator.cc). */
export function tensorBytes(count: number, elementBytes: number): number {
  return Math.max(64, Math.ceil((count * elementBytes) / 64) * 64);
}

/** Bytes of the tensors of a block, by the letters that worker/model/transformer.ts uses. */
export function blockTensors(shape: BlockShape) {
  const { model, elementBytes, tokens: N, samples: S, textTokens: L, spread } = shape;
  const D = model.width;
  const d = D / model.heads;
  return {
    /** [N, D]: a value of the residual stream, and most others. */
    stream: tensorBytes(N * D, elementBytes),
    /** [N, mlp_ratio D]: in the middle of the feed-forward layer. */
    hidden: tensorBytes(N * D * model.mlp_ratio, elementBytes),
    /** [L, D]: keys or values of the text. */
    text: tensorBytes(L * D, elementBytes),
    /** [tokens of the pack, heads of this rank * d], where the sequence is spread. */
    headSlice: spread ? tensorBytes(spread.tokens * spread.heads * d, elementBytes) : 0,
    /** f32 [S, 6 D]: shift, scale and gate of attention and feed-forward, and their gradients. */
    modulation: tensorBytes(S * 6 * D, 4),
    /** f32 [N]: 1/rms of every row; [L] of the text. */
    row: tensorBytes(N, 4),
    textRow: tensorBytes(L, 4),
    /** f32 [N, 2]: mean and 1/sd of every row. */
    rowPair: tensorBytes(2 * N, 4),
    /** f32 log-sum-exp of every query and head, in self- and in cross-attention. */
    selfLse: tensorBytes(spread ? spread.tokens * spread.heads : N * model.heads, 4),
    crossLse: tensorBytes(N * model.heads, 4),
  };
}

/**
 * Bytes that one block keeps from forward to backward, its input included: what the operations of worker/engine/operations
 * save (`tape.save`), each tensor once. `full` keeps the input alone.
 * @param rules.afterSelf whether the stream after self-attention is kept; else it is made again from the input and o_proj's
 *   output, which costs an elementwise pass
 */
export function blockKeptBytes(
  shape: BlockShape,
  recompute: Recompute,
  rules: { afterSelf: boolean } = { afterSelf: true },
): number {
  const t = blockTensors(shape);
  if (recompute === "full") return t.stream;
  const normSums = t.rowPair + 5 * t.row + t.textRow; // of norm1; norm2, norm3 and three QK-norms of tokens; that of text keys
  const products =
    t.stream + // the input, of which norm1 is made
    2 * t.stream + // q and k before QK-norm, whose backward reads them
    (shape.spread
      ? 3 * t.headSlice + t.headSlice + t.stream // q, k, v as attention has them, its output, and that back at its tokens
      : t.stream + t.stream) + // v, and attention's output, which o_proj reads, too
    t.stream + // o_proj's output: the gate's gradient reads it
    (rules.afterSelf || recompute === "none" ? t.stream : 0) + // the stream after self-attention: input of norm2
    t.stream + // q of cross-attention before QK-norm
    2 * t.text + // k before QK-norm and v of the text
    t.stream + // cross-attention's output: o_proj reads it
    t.stream + // the stream after cross-attention: input of norm3
    t.hidden + // fc1's output: GELU's backward reads it
    t.stream; // fc2's output: the gate's gradient reads it
  const made =
    t.stream + // norm1's output: three products read it
    (shape.spread ? 0 : 2 * t.stream) + // q and k after rotation; spread over heads they are kept there, not here
    t.stream + // norm2's output
    t.stream + // q of cross-attention after QK-norm
    t.text + // k of the text after QK-norm
    t.stream + // norm3's output
    t.hidden; // GELU's output: fc2 reads it
  return t.modulation + normSums + t.selfLse + t.crossLse + products + (recompute === "none" ? made : 0);
}

/**
 * Bytes that live beside what the blocks keep while a block's backward is at its widest, in the feed-forward layer: fc2's
 * input (made again unless it was kept) and that input's gradient, the gradient of the block's output on its way around the layer, and
 * the modulation's gradient. fc2's output is gone by then, and the branch's gradient has its place.
 */
export function blockBackwardBytes(shape: BlockShape, recompute: Recompute): number {
  const { stream, hidden, modulation } = blockTensors(shape);
  return stream + hidden + (recompute === "selective" ? hidden : 0) + modulation;
}
