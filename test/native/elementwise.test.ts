import assert from "node:assert/strict";
import { test } from "node:test";
import type { DTypeName, TensorId } from "../../worker/engine/native.js";
import {
  assertSameBitsForAnyThreads,
  native,
  randomArray,
  representable,
  Tensors,
} from "./kernel_support.js";

const gelu = (x: number): number =>
  0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
const geluSlope = (x: number): number => {
  const u = Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3);
  const slope = Math.sqrt(2 / Math.PI) * (1 + 3 * 0.044715 * x * x);
  return 0.5 * (1 + Math.tanh(u)) + (0.5 * x * slope) / Math.cosh(u) ** 2;
};
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
const silu = (x: number): number => x * sigmoid(x);
const siluSlope = (x: number): number => sigmoid(x) * (1 + x * (1 - sigmoid(x)));

/**
 * Each result is within a few roundings of f32: the exponential errs by 2 units, and its argument, up to |u| = 20 where
 * the result still differs from 0 or x, turns its own half unit of rounding into |u| units of the result. Near the
 * roots of a slope two terms of size 1/4 cancel, hence the absolute part. A bf16 result is rounded once more.
 */
function bound(x: number, wanted: number, stored: DTypeName): number {
  const unit = 2 ** -24;
  const argument = Math.min(20, 0.8 * Math.abs(x + 0.044715 * x ** 3) + Math.abs(x));
  const arithmetic = (6 + 2 * argument) * unit * (Math.abs(wanted) + 0.25);
  return arithmetic + (stored === "bf16" ? 2 ** -8 * Math.abs(wanted) : 0);
}

function assertEach(
  found: Float64Array,
  xs: Float64Array,
  wanted: (i: number) => number,
  stored: DTypeName,
): void {
  assert.equal(found.length, xs.length);
  for (const [i, value] of found.entries()) {
    const difference = Math.abs(value - wanted(i));
    const limit = bound(xs[i]!, wanted(i), stored);
    assert.ok(!!(difference <= limit), `x ${xs[i]}: ${value}, want ${wanted(i)} within ${limit}`);
  }
}

const COUNTS = [0, 1, 7, 8, 17, 16384, 16385 + 40];

const FORWARD: [string, (y: TensorId, x: TensorId) => void, (x: number) => number][] = [
  ["geluForward", native.geluForward, gelu],
  ["siluForward", native.siluForward, silu],
];
const BACKWARD: [string, (dx: TensorId, dy: TensorId, x: TensorId) => void, (x: number) => number][] = [
  ["geluBackward", native.geluBackward, geluSlope],
  ["siluBackward", native.siluBackward, siluSlope],
];

for (const dtype of ["f32", "bf16"] as const) {
  for (const [name, run, twin] of FORWARD) {
    test(`${name}() equals its formula for every length, in ${dtype}`, () => {
      for (const count of COUNTS) {
        const tensors = new Tensors();
        const x = randomArray(count, dtype, count, 6);
        const y = tensors.alloc(dtype, count);
        run(y, tensors.from(dtype, x));
        assertEach(tensors.read(y), x, (i) => twin(x[i]!), dtype);
        tensors.release();
      }
    });
  }
  for (const [name, run, slope] of BACKWARD) {
    test(`${name}() equals its formula for every length, also in place, in ${dtype}`, () => {
      for (const count of COUNTS) {
        const tensors = new Tensors();
        const x = randomArray(count, dtype, count, 6);
        const dy = randomArray(count + 1, dtype, count);
        const [xId, dyId, dx] = [
          tensors.from(dtype, x),
          tensors.from(dtype, dy),
          tensors.alloc(dtype, count),
        ];
        run(dx, dyId, xId);
        const found = tensors.read(dx);
        assertEach(found, x, (i) => dy[i]! * slope(x[i]!), dtype);
        run(dyId, dyId, xId);
        assert.deepEqual(tensors.read(dyId), found);
        tensors.release();
      }
    });
  }
}

test("activations of the largest and of special numbers are their limits", () => {
  const tensors = new Tensors();
  const x = Float64Array.of(-Infinity, -1e30, -200, -0, 0, 200, 1e9, Infinity, Number.NaN);
  const id = tensors.from("f32", x);
  const y = tensors.alloc("f32", x.length);
  native.geluForward(y, id);
  const found = tensors.read(y);
  assert.deepEqual([...found.slice(1, 8)].map(Math.abs), [0, 0, 0, 0, 200, Math.fround(1e9), Infinity]);
  assert.ok(Number.isNaN(found[8]!));
  native.siluForward(y, id);
  assert.deepEqual([...tensors.read(y).slice(1, 8)].map(Math.abs), [
    0,
    0,
    0,
    0,
    200,
    Math.fround(1e9),
    Infinity,
  ]);
  const one = tensors.alloc("f32", x.length, 1);
  for (const backward of [native.geluBackward, native.siluBackward]) {
    backward(y, one, id);
    const slopes = tensors.read(y);
    [0, 0, 0, 0.5, 0.5, 1, 1, 1].forEach((wanted, i) => {
      assert.ok(!!(Math.abs(slopes[i]! - wanted) < 1e-30), `slope at ${x[i]}: ${slopes[i]}, want ${wanted}`);
    });
    assert.ok(Number.isNaN(slopes[8]!));
  }
  tensors.release();
});

test("elementwise operations give the same bits with any number of threads and at any place of a run", () => {
  const count = 70_001;
  const x = randomArray(9, "f32", count, 5);
  assertSameBitsForAnyThreads((tensors) => {
    const [id, y] = [tensors.from("f32", x), tensors.alloc("f32", count)];
    native.geluForward(y, id);
    native.tensorAdd(y, id);
    return [y];
  }, "geluForward");
  const tensors = new Tensors();
  const whole = tensors.alloc("f32", count);
  native.geluForward(whole, tensors.from("f32", x));
  for (const [start, length] of [
    [1, 5],
    [3, 20_000],
    [count - 1, 1],
  ] as const) {
    const part = tensors.alloc("f32", length);
    native.geluForward(part, tensors.from("f32", x.slice(start, start + length)));
    assert.deepEqual(tensors.read(part), tensors.read(whole).slice(start, start + length));
  }
  tensors.release();
});

for (const [to, from] of [
  ["f32", "f32"],
  ["f32", "bf16"],
  ["bf16", "f32"],
  ["bf16", "bf16"],
] as const) {
  test(`tensorCast() and tensorAdd() from ${from} to ${to} round once`, () => {
    for (const count of COUNTS) {
      const tensors = new Tensors();
      const source = randomArray(count, from, count, 10);
      const start = randomArray(count + 1, to, count, 10);
      const [src, dst] = [tensors.from(from, source), tensors.from(to, start)];
      native.tensorCast(dst, src);
      assert.deepEqual(tensors.read(dst), representable(to, source));
      const sum = tensors.from(to, start);
      native.tensorAdd(sum, src);
      // Sums of two such numbers are exact in f64, so rounding happens in f32 only, then (bf16) in the store.
      assert.deepEqual(
        tensors.read(sum),
        representable(
          to,
          start.map((value, i) => Math.fround(value + source[i]!)),
        ),
      );
      tensors.release();
    }
  });
}

test("tensorCast() between f64 and narrower types rounds once, ties to even", () => {
  const wide = native.tensorAlloc(2, 4);
  const narrow = native.tensorAlloc(1, 4);
  // 1 + 2^-8 is half way between two bf16 numbers; what lies 2^-40 above must go up although f32 cannot tell.
  const values = Float64Array.of(1 + 2 ** -8, 1 + 2 ** -8 + 2 ** -40, -(1 + 3 * 2 ** -8), 1e300);
  native.tensorWrite(wide, 0, new Uint8Array(values.buffer));
  native.tensorCast(narrow, wide);
  const back = new Float64Array(4);
  native.tensorCast(wide, narrow);
  native.tensorRead(wide, 0, new Uint8Array(back.buffer));
  assert.deepEqual([...back], [1, 1 + 2 ** -7, -(1 + 2 ** -6), Infinity]);
  native.tensorFree(wide);
  native.tensorFree(narrow);
});

test("a bf16 store keeps NaN and infinities and rounds ties to even", () => {
  const tensors = new Tensors();
  const x = Float64Array.of(Number.NaN, Infinity, -Infinity, 1 + 2 ** -8, 1 + 3 * 2 ** -8, 3.4e38, -0);
  const [src, dst] = [tensors.from("f32", x), tensors.alloc("bf16", x.length)];
  native.tensorCast(dst, src);
  assert.deepEqual([...tensors.read(dst)], [Number.NaN, Infinity, -Infinity, 1, 1 + 2 ** -6, Infinity, -0]);
  tensors.release();
});

test("tensorFill() writes every element of each type", () => {
  const tensors = new Tensors();
  for (const count of COUNTS) {
    for (const dtype of ["f32", "bf16"] as const) {
      const id = tensors.alloc(dtype, count, -2.5);
      assert.deepEqual(tensors.read(id), new Float64Array(count).fill(-2.5));
    }
  }
  const bytes = native.tensorAlloc(3, 5);
  native.tensorFill(bytes, 200);
  const found = new Uint8Array(5);
  native.tensorRead(bytes, 0, found);
  assert.deepEqual([...found], [200, 200, 200, 200, 200]);
  assert.throws(() => native.tensorFill(bytes, 256), { code: "NATIVE_ARGUMENT", message: /256 into u8/ });
  native.tensorFree(bytes);
  tensors.release();
});

test("copy2d() moves a block between rows of different widths and leaves the rest", () => {
  const tensors = new Tensors();
  const source = randomArray(1, "bf16", 5 * 9);
  const [src, dst] = [tensors.from("bf16", source), tensors.alloc("bf16", 6 * 7)];
  native.copy2d(dst, 7 + 2, 7, src, 9 + 3, 9, 3, 4);
  const wanted = new Float64Array(42).fill(776); // 777 as bf16
  for (let r = 0; r < 3; r++)
    for (let c = 0; c < 4; c++) wanted[(r + 1) * 7 + 2 + c] = source[(r + 1) * 9 + 3 + c]!;
  assert.deepEqual(tensors.read(dst), wanted);
  native.copy2d(dst, 0, 7, src, 0, 9, 0, 4);
  assert.deepEqual(tensors.read(dst), wanted);
  tensors.release();
});

test("copy2d() refuses what lies outside either tensor, however large the numbers", () => {
  const tensors = new Tensors();
  const [a, b] = [tensors.alloc("f32", 20), tensors.alloc("f32", 20)];
  const halves = tensors.alloc("bf16", 20);
  for (const place of [
    [1, 4, 0, 4, 5, 4],
    [0, 4, 1, 4, 5, 4],
    [0, 2 ** 52, 0, 4, 2 ** 52, 4],
    [0, 3, 0, 4, 2, 4],
  ] as const) {
    const [dstOffset, dstStride, srcOffset, srcStride, rows, cols] = place;
    assert.throws(() => native.copy2d(a, dstOffset, dstStride, b, srcOffset, srcStride, rows, cols), {
      code: "NATIVE_ARGUMENT",
    });
  }
  assert.throws(() => native.copy2d(a, 0, 4, halves, 0, 4, 1, 4), { message: /want the same dtype/ });
  tensors.release();
});

test("elementwise operations refuse tensors of different counts and of other types", () => {
  const tensors = new Tensors();
  const [a, b] = [tensors.alloc("f32", 3), tensors.alloc("f32", 4)];
  const wide = native.tensorAlloc(2, 3);
  const refused = { code: "NATIVE_ARGUMENT", message: /tensors of 3 and 4 elements, want the same count/ };
  assert.throws(() => native.geluForward(a, b), refused);
  assert.throws(() => native.tensorAdd(a, b), refused);
  assert.throws(() => native.siluBackward(a, a, b), refused);
  assert.throws(() => native.tensorCast(a, b), refused);
  assert.throws(() => native.geluForward(a, wide), {
    code: "NATIVE_ARGUMENT",
    message: /is f64, want f32 or bf16/,
  });
  native.tensorFree(wide);
  tensors.release();
});
