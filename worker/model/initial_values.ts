import { fnv1a, STREAM } from "../../job/philox.js";
import type { Arena, Tensor } from "../engine/tensor.js";

/**
 * Writes the initial values of elements [start, start + count) of a parameter to out[offset ...]. They depend on name
 * and element, never on a shard. Linear weights N(0, 1/fan_in); modulation linears, final_proj and biases 0; norm
 * weights 1; reference_proj.weight = [identity, 0], so that image-to-video starts as text-to-video.
 */
export function writeInitialValues(
  arena: Arena,
  out: Tensor,
  offset: number,
  parameter: { name: string; shape: readonly number[] },
  range: { start: number; count: number },
  seed: bigint,
): void {
  const { name, shape } = parameter;
  if (name === "reference_proj.weight") {
    writeIdentity(arena, out, offset, shape[1]!, range);
  } else if (isZero(name) || shape.length === 1) {
    const view = arena.view(out, offset, range.count);
    arena.native.tensorFill(view.id, isZero(name) ? 0 : 1);
    view.free();
  } else {
    const scale = 1 / Math.sqrt(shape[1]!);
    arena.native.philoxNormal(
      out.id,
      offset,
      range.count,
      seed,
      STREAM.INIT,
      0,
      fnv1a(name),
      range.start,
      scale,
    );
  }
}

function isZero(name: string): boolean {
  return (
    name.endsWith(".bias") ||
    name.endsWith("norm1.linear.weight") ||
    name === "final_norm.linear.weight" ||
    name === "final_proj.weight"
  );
}

function writeIdentity(
  arena: Arena,
  out: Tensor,
  offset: number,
  columns: number,
  range: { start: number; count: number },
): void {
  const values = new Float32Array(range.count);
  for (let i = 0; i < range.count; i++) {
    const element = range.start + i;
    if (Math.floor(element / columns) === element % columns) values[i] = 1;
  }
  arena.native.tensorWrite(out.id, offset, new Uint8Array(values.buffer));
}
