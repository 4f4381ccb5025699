/**
 * The Goku transformer (arXiv 2502.04896, section 2.2; block layout as its authors published it), over the engine.
 * Names and equations are those of the reference; N tokens of this rank, D width, S samples, L text tokens.
 */
import type { ModelConfig } from "../../job/model_config.js";
import { attention } from "../engine/operations/attention.js";
import { layerNormModulate } from "../engine/operations/layer_norm_modulate.js";
import { linear, linearGelu } from "../engine/operations/linear.js";
import type { Modulation } from "../engine/operations/modulation.js";
import { qkNormRope, type Rope } from "../engine/operations/qk_norm_rope.js";
import { addResidual, gateResidual } from "../engine/operations/residual.js";
import { rmsNorm } from "../engine/operations/rms_norm.js";
import { silu } from "../engine/operations/silu.js";
import type { ParameterSet } from "../engine/parameter.js";
import type { Tape, Value } from "../engine/tape.js";
import type { Tensor } from "../engine/tensor.js";
import type { PackShape } from "./pack_context.js";

/** Activations of the residual stream; vectors of samples (time, modulation) and the velocity are f32 always. */
export type ComputeDType = "f32" | "bf16";

/** One pack as the model sees it. */
export interface ModelPack {
  shape: PackShape;
  rope: Rope;
  /** Text encoder output [L, W], compute dtype. */
  text: Value;
}

/** Moves self-attention from tokens to heads and back, where a sequence is spread over ranks. */
export interface SequenceExchange {
  /** Heads of this rank. */
  readonly heads: number;
  /** [tokens of this rank, H*d] each -> [tokens of the pack, heads*d]. */
  toHeads(tape: Tape, values: readonly [Value, Value, Value], shape: PackShape): [Value, Value, Value];
  /** [tokens of the pack, heads*d] -> [tokens of this rank, H*d]. */
  toTokens(tape: Tape, value: Value, shape: PackShape): Value;
}

export interface ModelContext {
  config: ModelConfig;
  dtype: ComputeDType;
  /** null: every rank has whole sequences. */
  exchange: SequenceExchange | null;
}

/** SiLU of the timestep embedding, f32 [S, D]: what every block modulates by. t: f32 [S]. */
export function timeVector(tape: Tape, root: ParameterSet, t: Tensor, context: ModelContext): Value {
  const { frequency_width } = context.config;
  const sinusoid = tape.alloc("f32", t.count, frequency_width);
  tape.native.timestepSinusoid(sinusoid.id, t.id, frequency_width);
  const input = tape.input(sinusoid);
  const hidden = linear(
    tape,
    input,
    root.get("time_embed.fc1.weight"),
    root.get("time_embed.fc1.bias"),
    "f32",
  );
  const embedding = linear(
    tape,
    silu(tape, hidden),
    root.get("time_embed.fc2.weight"),
    root.get("time_embed.fc2.bias"),
    "f32",
  );
  return silu(tape, embedding);
}

/** Residual stream [N, D] from patches [N, P] (or [N, 2 P] with a reference beside each). */
export function embedPatches(tape: Tape, root: ParameterSet, patches: Value, context: ModelContext): Value {
  const { config, dtype } = context;
  let x = patches;
  if (config.reference_frame) {
    x = linear(tape, x, root.get("reference_proj.weight"), root.get("reference_proj.bias"), dtype);
  }
  return linear(tape, x, root.get("patch_embed.weight"), root.get("patch_embed.bias"), dtype);
}

/** One block: x [N, D] -> [N, D]. timeSilu: f32 [S, D]. Each scope lets go of its own temporaries. */
export function block(
  tape: Tape,
  p: ParameterSet,
  x: Value,
  timeSilu: Value,
  pack: ModelPack,
  context: ModelContext,
): Value {
  const { width: D, eps } = context.config;
  const { offsets } = pack.shape;
  const mod = linear(tape, timeSilu, p.get("norm1.linear.weight"), p.get("norm1.linear.bias"), "f32");
  const modulation: Modulation = { value: mod, offsets };

  const afterSelf = tape.scope(() => {
    const h = layerNormModulate(tape, x, modulation, { shift: 0, scale: D }, eps);
    return gateResidual(tape, x, selfAttention(tape, p, h, pack, context), modulation, 2 * D);
  });
  const afterCross = tape.scope(() => {
    const h = rmsNorm(tape, afterSelf, p.get("norm2.weight"), offsets, eps);
    return addResidual(tape, afterSelf, crossAttention(tape, p, h, pack, context));
  });
  return tape.scope(() => {
    const shiftScale = { value: mod, shift: 3 * D, scale: 4 * D };
    const h = rmsNorm(tape, afterCross, p.get("norm3.weight"), offsets, eps, shiftScale);
    return gateResidual(tape, afterCross, feedForward(tape, p, h, context), modulation, 5 * D);
  });
}

function selfAttention(tape: Tape, p: ParameterSet, h: Value, pack: ModelPack, context: ModelContext): Value {
  const { config, dtype, exchange } = context;
  const { heads, eps } = config;
  const project = (name: string) => linear(tape, h, p.get(`attn1.${name}.weight`), null, dtype);
  const q = qkNormRope(tape, project("q_proj"), p.get("attn1.q_norm.weight"), pack.rope, heads, eps);
  const k = qkNormRope(tape, project("k_proj"), p.get("attn1.k_norm.weight"), pack.rope, heads, eps);
  const v = project("v_proj");
  const offsets = { query: pack.shape.packOffsets, key: pack.shape.packOffsets };
  const headWidth = config.width / heads;
  let out: Value;
  if (exchange === null) {
    out = attention(tape, q, k, v, offsets, heads, headWidth);
  } else {
    const [qh, kh, vh] = exchange.toHeads(tape, [q, k, v], pack.shape);
    out = exchange.toTokens(
      tape,
      attention(tape, qh, kh, vh, offsets, exchange.heads, headWidth),
      pack.shape,
    );
  }
  return linear(tape, out, p.get("attn1.o_proj.weight"), null, dtype);
}

/** Queries turn where the authors' block turns them; text keys never do. */
function crossAttention(
  tape: Tape,
  p: ParameterSet,
  h: Value,
  pack: ModelPack,
  context: ModelContext,
): Value {
  const { config, dtype } = context;
  const { heads, eps } = config;
  const project = (x: Value, name: string) => linear(tape, x, p.get(`attn2.${name}.weight`), null, dtype);
  const rope = config.rotate_cross_queries ? pack.rope : null;
  const q = qkNormRope(tape, project(h, "q_proj"), p.get("attn2.q_norm.weight"), rope, heads, eps);
  const k = qkNormRope(tape, project(pack.text, "k_proj"), p.get("attn2.k_norm.weight"), null, heads, eps);
  const v = project(pack.text, "v_proj");
  const offsets = { query: pack.shape.offsets, key: pack.shape.textOffsets };
  const out = attention(tape, q, k, v, offsets, heads, config.width / heads);
  return linear(tape, out, p.get("attn2.o_proj.weight"), null, dtype);
}

function feedForward(tape: Tape, p: ParameterSet, h: Value, context: ModelContext): Value {
  const hidden = linearGelu(tape, h, p.get("mlp.fc1.weight"), p.get("mlp.fc1.bias"), context.dtype);
  return linear(tape, hidden, p.get("mlp.fc2.weight"), p.get("mlp.fc2.bias"), context.dtype);
}

/** Velocity f32 [N, P] from the residual stream. */
export function head(
  tape: Tape,
  root: ParameterSet,
  x: Value,
  timeSilu: Value,
  pack: ModelPack,
  context: ModelContext,
): Value {
  const { width: D, eps } = context.config;
  const mod = linear(
    tape,
    timeSilu,
    root.get("final_norm.linear.weight"),
    root.get("final_norm.linear.bias"),
    "f32",
  );
  const h = layerNormModulate(
    tape,
    x,
    { value: mod, offsets: pack.shape.offsets },
    { shift: 0, scale: D },
    eps,
  );
  return linear(tape, h, root.get("final_proj.weight"), root.get("final_proj.bias"), "f32");
}
