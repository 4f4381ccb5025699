import { evenSplit } from "../../job/layout.js";
import type { ModelConfig } from "../../job/model_config.js";
import type { Rope } from "../engine/operations/qk_norm_rope.js";
import type { Arena } from "../engine/tensor.js";

/** Tokens [start, start + length) of a pack: what one member of a sequence group computes on. */
export interface TokenRange {
  start: number;
  length: number;
}

/** Where samples begin and end: everything about a pack that is not a number of the model. */
export interface PackShape {
  samples: number;
  /** Tokens of the whole pack. */
  tokens: number;
  /** Int32Array[S + 1] over the whole pack. */
  packOffsets: Int32Array;
  /** This rank's tokens, and the samples' bounds within them (a sample may own no row here). */
  local: TokenRange;
  offsets: Int32Array;
  /** Int32Array[S + 1] over text tokens; every rank has all of them. */
  textOffsets: Int32Array;
  /** Int32Array[3 S] of patch counts (t, y, x). */
  grids: Int32Array;
}

/** @param sequence place in the sequence group: tokens are split evenly, the first parts one larger. */
export function packShape(
  grids: readonly (readonly [number, number, number])[],
  textLengths: readonly number[],
  sequence: { parts: number; index: number } = { parts: 1, index: 0 },
): PackShape {
  const packOffsets = runningSum(grids.map(([t, y, x]) => t * y * x));
  const tokens = packOffsets[grids.length]!;
  const local = evenSplit({ count: tokens, ...sequence });
  const offsets = packOffsets.map((at) => Math.min(Math.max(at - local.start, 0), local.length));
  return {
    samples: grids.length,
    tokens,
    packOffsets,
    local,
    offsets,
    textOffsets: runningSum(textLengths),
    grids: Int32Array.from(grids.flat()),
  };
}

function runningSum(counts: readonly number[]): Int32Array {
  const sums = new Int32Array(counts.length + 1);
  for (let i = 0; i < counts.length; i++) sums[i + 1] = sums[i]! + counts[i]!;
  return sums;
}

/** Rotary tables of this rank's tokens; the caller frees both. */
export function packRope(arena: Arena, shape: PackShape, model: ModelConfig): Rope {
  const d = model.width / model.heads;
  const { start, length } = shape.local;
  const cos = arena.alloc("f32", length, d / 2);
  const sin = arena.alloc("f32", length, d / 2);
  if (length > 0) arena.native.ropeTable(cos.id, sin.id, shape.grids, start, length, d, model.rope_theta);
  return { cos, sin };
}
