import { setImmediate } from "node:timers/promises";
import type { ModelConfig } from "../../job/model_config.js";
import { patchSize } from "../../job/parameters.js";
import { STREAM } from "../../job/philox.js";
import { Tape, Value } from "../engine/tape.js";
import { type Arena, readFloats, type Tensor } from "../engine/tensor.js";
import { drawNoise, shiftTime } from "./draws.js";
import { besideReference } from "./local_pack.js";
import { type PackShape, packRope, packShape } from "./pack_context.js";
import {
  block,
  type ComputeDType,
  embedPatches,
  head,
  type ModelContext,
  type ModelPack,
  timeVector,
} from "./transformer.js";
import type { WholeWeights } from "./whole_weights.js";

/** Text encoder output of every sample, one after another. */
export interface SampleText {
  lengths: readonly number[];
  /** [sum of lengths, W]. */
  data: Float32Array;
}

export interface SampleRequest {
  /** Patch counts (t, y, x) of every sample; all are drawn together as one pack. */
  grids: readonly (readonly [number, number, number])[];
  text: SampleText;
  /** What guidance leads away from; used when guidance is not 1. */
  emptyText: SampleText;
  steps: number;
  guidance: number;
  shift: number;
  /** Start [N, P], or what to draw it from: sample i gets numbers of (seed, places[i]). */
  noise: Float32Array | { seed: bigint; places: readonly number[] };
  /** Patches of the reference frame beside every token [N, P]; null for a model without one. */
  reference: Float32Array | null;
}

/**
 * Euler from t = 0 (noise) to t = 1 (data) on a shifted uniform grid, with classifier-free guidance
 * v = v0 + guidance (v1 - v0). Returns latent patches [N, P] in the order of `grids`.
 *
 * @param onStep told after each step; the event loop turns in between.
 */
export async function sampleLatents(
  arena: Arena,
  model: ModelConfig,
  dtype: ComputeDType,
  weights: WholeWeights,
  request: SampleRequest,
  onStep: (done: number, of: number) => void = () => {},
): Promise<Float32Array> {
  const { native } = arena;
  const { steps, guidance } = request;
  const context: ModelContext = { config: model, dtype, exchange: null };
  const shape = packShape(request.grids, request.text.lengths);
  const guided = openPack(arena, context, request.grids, request.text);
  const unguided = guidance === 1 ? null : openPack(arena, context, request.grids, request.emptyText);
  const x = startNoise(arena, shape, patchSize(model), request);
  const knots = Array.from({ length: steps + 1 }, (_, i) => shiftTime(i / steps, request.shift));
  for (let i = 0; i < steps; i++) {
    const at = knots[i]!;
    const v1 = velocity(arena, weights, x, at, guided, request.reference, context);
    const v0 = unguided ? velocity(arena, weights, x, at, unguided, request.reference, context) : null;
    native.eulerUpdate(x.id, v1.id, v0?.id ?? 0, guidance, knots[i + 1]! - at);
    v1.free();
    v0?.free();
    onStep(i + 1, steps);
    await setImmediate();
  }
  closePack(guided);
  if (unguided) closePack(unguided);
  const latents = readFloats(native, x);
  x.free();
  return latents;
}

function openPack(
  arena: Arena,
  context: ModelContext,
  grids: SampleRequest["grids"],
  text: SampleText,
): ModelPack {
  const shape = packShape(grids, text.lengths);
  const tokens = shape.textOffsets[shape.samples]!;
  return {
    shape,
    rope: packRope(arena, shape, context.config),
    text: new Value(arena.from(text.data, context.dtype, tokens, context.config.text_width), false),
  };
}

function closePack(pack: ModelPack): void {
  for (const tensor of [pack.rope.cos, pack.rope.sin, pack.text.tensor]) tensor.free();
}

function startNoise(arena: Arena, shape: PackShape, P: number, { noise }: SampleRequest): Tensor {
  if (noise instanceof Float32Array) return arena.from(noise, "f32", shape.tokens, P);
  return drawNoise(arena, shape, P, {
    seed: noise.seed,
    stream: STREAM.SAMPLER,
    step: 0,
    places: noise.places,
  });
}

/** Velocity f32 [N, P] at x [N, P] and flow time t, the same for all samples; the caller frees it. */
function velocity(
  arena: Arena,
  weights: WholeWeights,
  x: Tensor,
  t: number,
  pack: ModelPack,
  reference: Float32Array | null,
  context: ModelContext,
): Tensor {
  const tape = new Tape(arena, { recording: false, frugal: false });
  return tape.scope(() => {
    const times = tape.input(
      arena.from(new Float32Array(pack.shape.samples).fill(t), "f32", pack.shape.samples),
    );
    const patches = reference
      ? besideReference(arena, x.retain(), arena.from(reference, "f32", ...x.shape))
      : x.retain();
    const timeSilu = timeVector(tape, weights.root, times.tensor, context);
    let stream = embedPatches(tape, weights.root, tape.input(patches), context);
    for (const parameters of weights.blocks) {
      const from = stream;
      stream = tape.scope(() => block(tape, parameters, from, timeSilu, pack, context));
      tape.drop(from);
    }
    return head(tape, weights.root, stream, timeSilu, pack, context);
  }).tensor;
}
