import { GokuError } from "../job/errors.js";
import type { SafetensorsDtype } from "./safetensors.js";

/** Element types that weights come in, all of which float32 holds exactly. */
export const WEIGHT_DTYPES = ["F32", "F16", "BF16"] as const satisfies readonly SafetensorsDtype[];
export type WeightDtype = (typeof WEIGHT_DTYPES)[number];

/** Little-endian elements as float32: F32 keeps its bits, BF16 and F16 widen exactly, infinities and NaN included. */
export function widenFloats(bytes: Uint8Array, dtype: WeightDtype): Float32Array {
  // A copy where the elements are not aligned, which typed arrays insist on.
  const at = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  if (dtype === "F32") return new Float32Array(at.buffer, at.byteOffset, at.byteLength / 4);
  const narrow = new Uint16Array(at.buffer, at.byteOffset, at.byteLength / 2);
  const bits = new Uint32Array(narrow.length);
  if (dtype === "BF16") for (let i = 0; i < bits.length; i++) bits[i] = narrow[i]! << 16;
  else for (let i = 0; i < bits.length; i++) bits[i] = halfBits(narrow[i]!);
  return new Float32Array(bits.buffer);
}

/** Bits of the float32 with the value of an IEEE half; a NaN keeps its payload. */
function halfBits(half: number): number {
  const sign = (half & 0x8000) << 16;
  const exponent = (half >> 10) & 31;
  const fraction = half & 1023;
  if (exponent === 31) return sign | 0x7f800000 | (fraction << 13);
  if (exponent > 0) return sign | ((exponent + 112) << 23) | (fraction << 13);
  if (fraction === 0) return sign;
  // Below 2^-14 the half has no leading one; float32 has room to give it one.
  const shift = Math.clz32(fraction) - 21;
  return sign | ((113 - shift) << 23) | (((fraction << shift) & 1023) << 13);
}

/** CHECKPOINT_MISMATCH unless a tensor of that type can be widened. */
export function requireWeightDtype(dtype: SafetensorsDtype, tensor: string): WeightDtype {
  const known = WEIGHT_DTYPES.find((each) => each === dtype);
  if (known !== undefined) return known;
  throw new GokuError(
    "CHECKPOINT_MISMATCH",
    `Cannot widen ${tensor}: its elements are ${dtype}, want ${WEIGHT_DTYPES.join(", ")}`,
  );
}
