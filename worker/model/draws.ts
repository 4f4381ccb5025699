/**
 * Random numbers of samples. Each depends on (seed, step, place of the sample in its step, element) and on nothing
 * else: not on ranks, packs or history. Streams separate the uses (Philox4x32-10, see the reference).
 */
import type { Job } from "../../job/job.js";
import { STREAM } from "../../job/philox.js";
import type { Native } from "../engine/native.js";
import { type Arena, readFloats, type Tensor } from "../engine/tensor.js";
import type { PackShape } from "./pack_context.js";

/**
 * Standard normal noise f32 [tokens of this rank, P]; element e of a sample is channel e % P of its token e / P.
 * @param places the `which` of each sample.
 */
export function drawNoise(
  arena: Arena,
  shape: PackShape,
  P: number,
  draw: { seed: bigint; stream: number; step: number; places: readonly number[] },
): Tensor {
  const noise = arena.alloc("f32", shape.local.length, P);
  for (let i = 0; i < shape.samples; i++) {
    const row = shape.offsets[i]!;
    const rows = shape.offsets[i + 1]! - row;
    if (rows === 0) continue;
    const firstToken = shape.local.start + row - shape.packOffsets[i]!;
    arena.native.philoxNormal(
      noise.id,
      row * P,
      rows * P,
      draw.seed,
      draw.stream,
      draw.step,
      draw.places[i]!,
      firstToken * P,
      1,
    );
  }
  return noise;
}

/** Flow time of a sample, in [0, 1]: 0 is noise, 1 is data. Rounded to f32. */
export function drawTime(
  arena: Arena,
  flow: Job["flow"],
  draw: { seed: bigint; step: number; place: number },
): number {
  if (flow.time === "uniform") {
    return Math.fround(shiftTime(uniform(arena.native, STREAM.TIME, draw), flow.shift));
  }
  const z = arena.alloc("f32", 1);
  arena.native.philoxNormal(z.id, 0, 1, draw.seed, STREAM.TIME, draw.step, draw.place, 0, 1);
  const [value] = readFloats(arena.native, z);
  z.free();
  return Math.fround(shiftTime(1 / (1 + Math.exp(-value!)), flow.shift));
}

/** true: this sample is trained on the empty caption in this step. */
export function drawDropText(
  native: Native,
  chance: number,
  draw: { seed: bigint; step: number; place: number },
): boolean {
  return chance > 0 && uniform(native, STREAM.DROP_TEXT, draw) < chance;
}

/** Uniform in (0, 1) from the first word of (stream, step, place). */
function uniform(
  native: Native,
  stream: number,
  draw: { seed: bigint; step: number; place: number },
): number {
  const counter = Uint32Array.of(0, draw.place, draw.step, stream);
  const key = Uint32Array.of(Number(draw.seed & 0xffffffffn), Number(draw.seed >> 32n));
  return (native.philoxWords(counter, key)[0]! + 0.5) / 2 ** 32;
}

/** Resolution shift towards noise for shift > 1; identity at 1. */
export function shiftTime(t: number, shift: number): number {
  const noise = 1 - t;
  return 1 - (shift * noise) / (1 + (shift - 1) * noise);
}
