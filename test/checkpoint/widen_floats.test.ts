import assert from "node:assert/strict";
import { test } from "node:test";
import { requireWeightDtype, type WeightDtype, widenFloats } from "../../checkpoint/widen_floats.js";
import { refuses } from "./fixtures.js";

/** All 2^16 patterns, little-endian. */
const ALL = new Uint8Array(Uint16Array.from({ length: 65536 }, (_, i) => i).buffer);

/** Slow twin, by the definition of the format: sign, exponent of so many bits, fraction of so many. */
function halfOf(
  bits: number,
  { exponentBits, fractionBits }: { exponentBits: number; fractionBits: number },
): number {
  const sign = bits >> 15 ? -1 : 1;
  const exponent = (bits >> fractionBits) & (2 ** exponentBits - 1);
  const fraction = (bits & (2 ** fractionBits - 1)) / 2 ** fractionBits;
  const bias = 2 ** (exponentBits - 1) - 1;
  if (exponent === 2 ** exponentBits - 1) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exponent ? 2 ** (exponent - bias) * (1 + fraction) : 2 ** (1 - bias) * fraction);
}

for (const [dtype, exponentBits, fractionBits] of [
  ["F16", 5, 10],
  ["BF16", 8, 7],
] as const) {
  test(`widenFloats() widens each of the 65,536 patterns of ${dtype} exactly`, () => {
    const wide = widenFloats(ALL, dtype);
    for (let bits = 0; bits < 65536; bits++)
      if (!Object.is(wide[bits], halfOf(bits, { exponentBits, fractionBits })))
        assert.fail(`pattern ${bits}`);
  });
}

test("widenFloats() keeps the bits of F32, and reads bytes at any place", () => {
  const bits = new Uint32Array([0x7fc12345, 0x80000000, 1]);
  for (const shift of [0, 1, 2, 3, 4]) {
    const holder = new Uint8Array(16);
    holder.set(new Uint8Array(bits.buffer), shift);
    const wide = widenFloats(holder.subarray(shift, shift + 12), "F32");
    assert.deepEqual(new Uint32Array(wide.buffer, wide.byteOffset, 3), bits);
    const half = widenFloats(holder.subarray(shift, shift + 12), "F16");
    assert.equal(half.length, 6);
  }
});

test("requireWeightDtype() refuses types that float32 cannot hold, or that are no weights", () => {
  for (const dtype of ["F32", "F16", "BF16"] as WeightDtype[])
    assert.equal(requireWeightDtype(dtype, "a"), dtype);
  for (const dtype of ["F64", "I64", "F8_E4M3"] as const)
    assert.throws(
      () => requireWeightDtype(dtype, "a"),
      refuses("CHECKPOINT_MISMATCH", /want F32, F16, BF16/),
    );
});
