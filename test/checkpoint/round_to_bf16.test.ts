import assert from "node:assert/strict";
import { test } from "node:test";
import { roundToBf16 } from "../../checkpoint/round_to_bf16.js";
import { widenFloats } from "../../checkpoint/widen_floats.js";
import { Random } from "./fixtures.js";

/** All 2^16 patterns, little-endian. */
const ALL = new Uint8Array(Uint16Array.from({ length: 65536 }, (_, i) => i).buffer);

test("roundToBf16() gives the nearest bf16, the even one of two that are as near", () => {
  const one = (value: number) => {
    const bytes = roundToBf16(new Float32Array([value]));
    return new Uint16Array(bytes.buffer)[0]!;
  };
  const step = 2 ** -7; // of bf16 just above 1
  const cases: [value: number, bits: number][] = [
    [1, 0x3f80],
    [1 + step / 2, 0x3f80], // a tie, and 1 is even
    [1 + (3 * step) / 2, 0x3f82], // a tie, and 1 + 2 steps is even
    [1 + step / 2 + 2 ** -23, 0x3f81],
    [1 + step / 2 - 2 ** -23, 0x3f80],
    [-0, 0x8000],
    [3.4028234663852886e38, 0x7f80], // the largest float32 lies nearer to what bf16 has no finite number for
    [Number.NEGATIVE_INFINITY, 0xff80],
    [2 ** -149, 0x0000],
  ];
  for (const [value, bits] of cases) assert.equal(one(value), bits, `${value}`);
  // A NaN whose payload lies in the lower half alone would become an infinity.
  const quiet = roundToBf16(new Float32Array(new Uint32Array([0x7f800001, 0xffffffff]).buffer));
  assert.ok(widenFloats(quiet, "BF16").every(Number.isNaN));
});

test("roundToBf16() agrees with its slow twin on 100,000 patterns, and changes no bf16", () => {
  const same = roundToBf16(widenFloats(ALL, "BF16"));
  const quieted = Uint16Array.from({ length: 65536 }, (_, i) => ((i & 0x7fff) > 0x7f80 ? i | 0x40 : i));
  assert.deepEqual(new Uint16Array(same.buffer), quieted);
  const random = new Random(31);
  const patterns = Uint32Array.from({ length: 100_000 }, () => random.word());
  const values = new Float32Array(patterns.buffer);
  const rounded = widenFloats(roundToBf16(values), "BF16");
  const neighbour = (bits: number) => widenFloats(new Uint8Array(new Uint16Array([bits]).buffer), "BF16")[0]!;
  for (const [i, value] of values.entries()) {
    if (!Number.isFinite(value) || !Number.isFinite(rounded[i]!)) continue;
    const below = patterns[i]! >>> 16;
    const distance = Math.abs(value - rounded[i]!);
    const least = Math.min(Math.abs(value - neighbour(below)), Math.abs(value - neighbour(below + 1)));
    if (!(distance <= least)) assert.fail(`${value} became ${rounded[i]}`);
  }
});
