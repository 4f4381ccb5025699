import assert from "node:assert/strict";
import { test } from "node:test";
import type { DTypeName } from "../../worker/engine/native.js";
import { assertClose, assertSameBitsForAnyThreads, native, randomArray, Tensors } from "./kernel_support.js";

interface Shape {
  N: number;
  K: number;
  F: number;
}

/**
 * Below, at and beyond a vector, a tile (6 or 12 x 16 or 32), a row block (144), a K block (512) and a column block
 * (1024); where oneDNN multiplies bf16, its unit of tokens (64) and its parts (from 128 rows on).
 */
const SHAPES: Shape[] = [
  { N: 1, K: 1, F: 1 },
  { N: 1, K: 7, F: 17 },
  { N: 5, K: 385, F: 3 },
  { N: 13, K: 33, F: 31 },
  { N: 30, K: 20, F: 24 },
  { N: 64, K: 128, F: 48 },
  { N: 300, K: 32, F: 48 },
  { N: 97, K: 40, F: 129 },
  { N: 101, K: 771, F: 65 },
  { N: 14, K: 9, F: 1027 },
  { N: 9, K: 1030, F: 12 },
];

/** out[rows, columns] = sum over k of a(i, k) b(k, j), in f64. */
function product(
  rows: number,
  columns: number,
  depth: number,
  a: (i: number, k: number) => number,
  b: (k: number, j: number) => number,
): Float64Array {
  const out = new Float64Array(rows * columns);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      let sum = 0;
      for (let k = 0; k < depth; k++) sum += a(i, k) * b(k, j);
      out[i * columns + j] = sum;
    }
  }
  return out;
}

const gelu = (x: number): number =>
  0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));

/** Unit roundoff: half the distance between 1 and the next number. */
const ROUNDOFF = { f32: 2 ** -24, bf16: 2 ** -8 };

/**
 * A chain of K roundings, each half a unit (2^-24) of a partial sum that grows like sqrt(k) as the terms have random
 * signs, errs by about 2^-24 sqrt(K) / 2.4 of the result's size; three more for the bias or the sum with what stood
 * there, and for results smaller than their terms; then the stored result is rounded.
 */
const tolerance = (depth: number, stored: "f32" | "bf16"): number =>
  (Math.sqrt(depth) + 3) * ROUNDOFF.f32 + (stored === "bf16" ? ROUNDOFF.bf16 : 0);

function inputs(shape: Shape, dtype: DTypeName) {
  const { N, K, F } = shape;
  return {
    x: randomArray(1, dtype, N * K),
    w: randomArray(2, dtype, F * K),
    bias: randomArray(3, dtype, F),
    dy: randomArray(4, dtype, N * F),
  };
}

function withTensors(run: (tensors: Tensors) => void): void {
  const tensors = new Tensors();
  try {
    run(tensors);
  } finally {
    tensors.release();
  }
}

for (const dtype of ["f32", "bf16"] as const) {
  for (const shape of SHAPES) {
    const { N, K, F } = shape;
    const name = `${dtype}, N ${N}, K ${K}, F ${F}`;

    test(`linearForward() equals the product in f64, plain, with bias, with GELU: ${name}`, () =>
      withTensors((tensors) => {
        const { x, w, bias } = inputs(shape, dtype);
        const plain = product(
          N,
          F,
          K,
          (i, k) => x[i * K + k]!,
          (k, j) => w[j * K + k]!,
        );
        const biased = plain.map((value, i) => value + bias[i % F]!);
        const [xId, wId, biasId] = [
          tensors.from(dtype, x),
          tensors.from(dtype, w),
          tensors.from(dtype, bias),
        ];
        const y = tensors.alloc(dtype, N * F);
        const before = tensors.alloc(dtype, N * F);
        native.linearForward(y, xId, wId, 0, N, K, F, 0);
        assertClose(tensors.read(y), plain, tolerance(K, dtype), "y");
        native.linearForward(y, xId, wId, biasId, N, K, F, 0);
        assertClose(tensors.read(y), biased, tolerance(K, dtype), "y with bias");
        native.linearForward(y, xId, wId, biasId, N, K, F, before);
        assertClose(tensors.read(before), biased, tolerance(K, dtype), "pre-activation");
        // GELU acts on the stored pre-activation, so that the backward pass differentiates what was computed; its own
        // error is a few units in the last place.
        assertClose(
          tensors.read(y),
          tensors.read(before).map(gelu),
          4 * ROUNDOFF.f32 + ROUNDOFF[dtype],
          "gelu",
        );
      }));

    test(`linearBackwardInput() equals the product in f64, written and added: ${name}`, () =>
      withTensors((tensors) => {
        const { w, dy } = inputs(shape, dtype);
        const wanted = product(
          N,
          K,
          F,
          (i, f) => dy[i * F + f]!,
          (f, j) => w[f * K + j]!,
        );
        const start = randomArray(5, dtype, N * K);
        const [dyId, wId, dx] = [tensors.from(dtype, dy), tensors.from(dtype, w), tensors.from(dtype, start)];
        native.linearBackwardInput(dx, dyId, wId, N, K, F, true);
        assertClose(
          tensors.read(dx),
          wanted.map((value, i) => value + start[i]!),
          tolerance(F, dtype),
          "dx added",
        );
        native.linearBackwardInput(dx, dyId, wId, N, K, F, false);
        assertClose(tensors.read(dx), wanted, tolerance(F, dtype), "dx");
      }));

    test(`linearBackwardWeight() equals the product in f64 and stays f32, written and added: ${name}`, () =>
      withTensors((tensors) => {
        const { x, dy } = inputs(shape, dtype);
        const wanted = product(
          F,
          K,
          N,
          (f, i) => dy[i * F + f]!,
          (i, j) => x[i * K + j]!,
        );
        const columns = product(
          1,
          F,
          N,
          () => 1,
          (i, f) => dy[i * F + f]!,
        );
        const [xId, dyId] = [tensors.from(dtype, x), tensors.from(dtype, dy)];
        const [dw, dbias] = [tensors.alloc("f32", F * K), tensors.alloc("f32", F)];
        native.linearBackwardWeight(dw, dbias, dyId, xId, N, K, F, false);
        assertClose(tensors.read(dw), wanted, tolerance(N, "f32"), "dw");
        assertClose(tensors.read(dbias), columns, tolerance(N, "f32"), "dbias");
        native.linearBackwardWeight(dw, dbias, dyId, xId, N, K, F, true);
        assertClose(
          tensors.read(dw),
          wanted.map((value) => 2 * value),
          tolerance(N, "f32"),
          "dw twice",
        );
        assertClose(
          tensors.read(dbias),
          columns.map((value) => 2 * value),
          tolerance(N, "f32"),
          "dbias twice",
        );
      }));
  }
}

test("linear operations take f32 and bf16 tensors mixed", () =>
  withTensors((tensors) => {
    const shape = { N: 19, K: 35, F: 21 };
    const { N, K, F } = shape;
    const x = randomArray(1, "bf16", N * K);
    const w = randomArray(2, "f32", F * K);
    const dy = randomArray(4, "bf16", N * F);
    const [xId, wId, dyId] = [tensors.from("bf16", x), tensors.from("f32", w), tensors.from("bf16", dy)];
    const [y, dx] = [tensors.alloc("f32", N * F), tensors.alloc("f32", N * K)];
    native.linearForward(y, xId, wId, 0, N, K, F, 0);
    native.linearBackwardInput(dx, dyId, wId, N, K, F, false);
    const yWanted = product(
      N,
      F,
      K,
      (i, k) => x[i * K + k]!,
      (k, j) => w[j * K + k]!,
    );
    const dxWanted = product(
      N,
      K,
      F,
      (i, f) => dy[i * F + f]!,
      (f, j) => w[f * K + j]!,
    );
    assertClose(tensors.read(y), yWanted, tolerance(K, "f32"), "y");
    assertClose(tensors.read(dx), dxWanted, tolerance(F, "f32"), "dx");
  }));

test("linear operations without rows write nothing but zero gradients of weights", () =>
  withTensors((tensors) => {
    const [K, F] = [5, 3];
    const none = tensors.alloc("f32", 0);
    const w = tensors.alloc("f32", F * K, 1);
    const [dw, dbias] = [tensors.alloc("f32", F * K), tensors.alloc("f32", F)];
    native.linearForward(none, none, w, 0, 0, K, F, none);
    native.linearBackwardInput(none, none, w, 0, K, F, false);
    native.linearBackwardWeight(dw, dbias, none, none, 0, K, F, true);
    assert.deepEqual(tensors.read(dw), new Float64Array(F * K).fill(777));
    assert.deepEqual(tensors.read(dbias), new Float64Array(F).fill(777));
    native.linearBackwardWeight(dw, dbias, none, none, 0, K, F, false);
    assert.deepEqual(tensors.read(dw), new Float64Array(F * K));
    assert.deepEqual(tensors.read(dbias), new Float64Array(F));
  }));

for (const dtype of ["f32", "bf16"] as const) {
  // Small results of long sums are where libraries share a sum among threads.
  for (const { N, K, F } of [
    { N: 1030, K: 24, F: 30 },
    { N: 200, K: 1100, F: 70 },
    { N: 3, K: 900, F: 5 },
    { N: 12, K: 60, F: 1100 },
  ]) {
    test(`linear operations give the same bits with any number of threads: ${dtype}, N ${N}, K ${K}, F ${F}`, () => {
      const { x, w, bias, dy } = inputs({ N, K, F }, dtype);
      assertSameBitsForAnyThreads((tensors) => {
        const [xId, wId] = [tensors.from(dtype, x), tensors.from(dtype, w)];
        const [biasId, dyId] = [tensors.from(dtype, bias), tensors.from(dtype, dy)];
        const results = {
          y: tensors.alloc(dtype, N * F),
          before: tensors.alloc(dtype, N * F),
          dx: tensors.alloc(dtype, N * K),
          dw: tensors.alloc("f32", F * K),
          dbias: tensors.alloc("f32", F),
        };
        native.linearForward(results.y, xId, wId, biasId, N, K, F, results.before);
        native.linearBackwardInput(results.dx, dyId, wId, N, K, F, true);
        native.linearBackwardWeight(results.dw, results.dbias, dyId, xId, N, K, F, false);
        return Object.values(results);
      }, "linear");
    });
  }
}

test("a row's result has the same bits whatever rows stand beside it", () =>
  withTensors((tensors) => {
    const { N, K, F } = { N: 110, K: 390, F: 37 };
    const { x, w } = inputs({ N, K, F }, "f32");
    const wId = tensors.from("f32", w);
    const all = tensors.alloc("f32", N * F);
    native.linearForward(all, tensors.from("f32", x), wId, 0, N, K, F, 0);
    for (const row of [0, 5, 95, 96, 109]) {
      const alone = tensors.alloc("f32", F);
      native.linearForward(alone, tensors.from("f32", x.slice(row * K, (row + 1) * K)), wId, 0, 1, K, F, 0);
      assert.deepEqual(tensors.read(alone), tensors.read(all).slice(row * F, (row + 1) * F), `row ${row}`);
    }
  }));

test("a NaN in one row of x reaches that row of y and no other", () =>
  withTensors((tensors) => {
    const { N, K, F } = { N: 8, K: 20, F: 18 };
    const { x, w } = inputs({ N, K, F }, "f32");
    x[3 * K + 4] = Number.NaN;
    const y = tensors.alloc("f32", N * F);
    native.linearForward(y, tensors.from("f32", x), tensors.from("f32", w), 0, N, K, F, 0);
    tensors.read(y).forEach((value, i) => {
      assert.equal(Number.isNaN(value), Math.floor(i / F) === 3, `element ${i}`);
    });
  }));

test("linear operations refuse tensors of a wrong size or type and name them", () =>
  withTensors((tensors) => {
    const six = tensors.alloc("f32", 6);
    const four = tensors.alloc("f32", 4);
    const halves = tensors.alloc("bf16", 6);
    const argument = (message: RegExp) => ({ code: "NATIVE_ARGUMENT", message });
    assert.throws(
      () => native.linearForward(four, six, six, 0, 2, 3, 1, 0),
      argument(/linearForward: y has 4/),
    );
    assert.throws(
      () => native.linearForward(four, six, six, six, 2, 3, 2, 0),
      argument(/linearForward: bias has 6 elements, want 1 x 2/),
    );
    assert.throws(
      () => native.linearBackwardWeight(halves, 0, four, six, 2, 3, 2, false),
      argument(/^linearBackwardWeight\.args\[0\]: tensor is bf16, want f32$/),
    );
    assert.throws(
      () => native.linearForward(four, six, six, 0, 2, -3, 2, 0),
      argument(/args\[5\]: -3, want a whole/),
    );
    assert.throws(
      () => native.linearForward(four, six, six, 0, 2, 2 ** 52, 2, 0),
      argument(/x has 6 elements/),
    );
  }));
