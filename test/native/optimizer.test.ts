import assert from "node:assert/strict";
import { test } from "node:test";
import type { TensorId } from "../../worker/engine/native.js";
import {
  assertSameBitsForAnyThreads,
  native,
  randomArray,
  representable,
  Tensors,
} from "./kernel_support.js";

interface Settings {
  lr: number;
  beta1: number;
  beta2: number;
  eps: number;
  weightDecay: number;
  gradScale: number;
  emaDecay: number;
}
const SETTINGS: Settings = {
  lr: 1e-3,
  beta1: 0.9,
  beta2: 0.95,
  eps: 1e-8,
  weightDecay: 0.5,
  gradScale: 0.25,
  emaDecay: 0.999,
};

interface State {
  master: Float64Array;
  m: Float64Array;
  v: Float64Array;
  ema: Float64Array;
}

/** One step in f64, as the reference writes it. */
function adamw(state: State, grad: Float64Array, s: Settings, step: number): void {
  for (let i = 0; i < grad.length; i++) {
    const g = grad[i]! * s.gradScale;
    const m = s.beta1 * state.m[i]! + (1 - s.beta1) * g;
    const v = s.beta2 * state.v[i]! + (1 - s.beta2) * g * g;
    const meanHat = m / (1 - s.beta1 ** step);
    const squareHat = v / (1 - s.beta2 ** step);
    const decayed = state.master[i]! * (1 - s.lr * s.weightDecay);
    state.m[i] = m;
    state.v[i] = v;
    state.master[i] = decayed - (s.lr * meanHat) / (Math.sqrt(squareHat) + s.eps);
    state.ema[i] = s.emaDecay * state.ema[i]! + (1 - s.emaDecay) * state.master[i]!;
  }
}

type Ids = Record<keyof State, TensorId>;
function place(tensors: Tensors, state: State): Ids {
  const [master, m] = [tensors.from("f32", state.master), tensors.from("f32", state.m)];
  return { master, m, v: tensors.from("f32", state.v), ema: tensors.from("f32", state.ema) };
}
function start(count: number): State {
  const master = randomArray(1, "f32", count);
  return { master, m: new Float64Array(count), v: new Float64Array(count), ema: master.slice() };
}
function run(
  ids: Ids,
  grad: TensorId,
  weights: TensorId | 0,
  at: [number, number],
  s: Settings,
  step: number,
): void {
  native.adamwStep(
    ids.master,
    ids.m,
    ids.v,
    ids.ema,
    grad,
    weights,
    at[0],
    at[1],
    s.lr,
    s.beta1,
    s.beta2,
    s.eps,
    s.weightDecay,
    s.gradScale,
    s.emaDecay,
    step,
  );
}

/** Largest |a - b| / (|b| + floor). */
function worst(found: Float64Array, wanted: Float64Array, floor: number): number {
  return found.reduce((most, value, i) => {
    const error = Math.abs(value - wanted[i]!) / (Math.abs(wanted[i]!) + floor);
    return Math.max(error, most); // a NaN becomes and stays the worst
  }, 0);
}

for (const dtype of ["f32", "bf16"] as const) {
  test(`adamwStep() follows the reference over three steps, weights in ${dtype}`, () => {
    for (const count of [1, 7, 8, 33, 16_500]) {
      const tensors = new Tensors();
      const state = start(count);
      const ids = place(tensors, state);
      const weights = tensors.alloc(dtype, count);
      for (const step of [1, 2, 3]) {
        const grad = randomArray(10 + step, "f32", count, 3);
        adamw(state, grad, SETTINGS, step);
        run(ids, tensors.from("f32", grad), weights, [0, count], SETTINGS, step);
      }
      // A handful of roundings a step in m and v; where m nearly cancels they weigh more, hence the floors, at the
      // size of the terms. A weight sees an update of lr with that error, and 2 roundings of its own a step.
      const unit = 2 ** -24;
      assert.ok(!!(worst(tensors.read(ids.m), state.m, 0.1) <= 12 * unit), "m");
      assert.ok(!!(worst(tensors.read(ids.v), state.v, 1e-3) <= 20 * unit), "v");
      assert.ok(!!(worst(tensors.read(ids.master), state.master, 0.1) <= 8 * unit), "master");
      assert.ok(!!(worst(tensors.read(ids.ema), state.ema, 0.1) <= 12 * unit), "ema");
      assert.deepEqual(tensors.read(weights), representable(dtype, tensors.read(ids.master)));
      tensors.release();
    }
  });
}

test("adamwStep() of a range changes that range only, to the bits a step of everything gives", () => {
  const count = 1000;
  const grad = randomArray(5, "f32", count);
  const tensors = new Tensors();
  const whole = place(tensors, start(count));
  const gradId = tensors.from("f32", grad);
  run(whole, gradId, 0, [0, count], SETTINGS, 1);
  for (const [from, length] of [
    [0, 1],
    [3, 500],
    [991, 9],
    [10, 0],
  ] as const) {
    const parts = place(tensors, start(count));
    const before = start(count);
    run(parts, gradId, 0, [from, length], SETTINGS, 1);
    for (const key of ["master", "m", "v", "ema"] as const) {
      const wanted = before[key].slice();
      wanted.set(tensors.read(whole[key]).slice(from, from + length), from);
      assert.deepEqual(tensors.read(parts[key]), wanted, `${key} of ${length} from ${from}`);
    }
  }
  tensors.release();
});

test("adamwStep() gives the same bits with any number of threads", () => {
  const count = 100_003;
  assertSameBitsForAnyThreads((tensors) => {
    const ids = place(tensors, start(count));
    const weights = tensors.alloc("bf16", count);
    run(ids, tensors.from("f32", randomArray(6, "f32", count)), weights, [0, count], SETTINGS, 4);
    return [ids.master, ids.m, ids.v, ids.ema, weights];
  }, "adamwStep");
});

test("adamwStep() without weight decay leaves a weight without gradient alone", () => {
  const tensors = new Tensors();
  const state = start(20);
  const ids = place(tensors, state);
  run(ids, tensors.alloc("f32", 20, 0), 0, [0, 20], { ...SETTINGS, weightDecay: 0 }, 1);
  assert.deepEqual(tensors.read(ids.master), state.master);
  tensors.release();
});

test("sumSquares() adds in f64 over any range, in both types", () => {
  const tensors = new Tensors();
  for (const dtype of ["f32", "bf16"] as const) {
    const values = randomArray(3, dtype, 40_000, 1e3);
    const id = tensors.from(dtype, values);
    for (const [from, count] of [
      [0, 0],
      [5, 1],
      [3, 17],
      [0, 40_000],
      [1, 39_000],
    ] as const) {
      const wanted = values.slice(from, from + count).reduce((sum, x) => sum + x * x, 0);
      const found = native.sumSquares(id, from, count);
      // Squares of f32 are exact in f64; only the order of the additions differs.
      assert.ok(!!(Math.abs(found - wanted) <= count * 2 ** -53 * wanted), `${found}, want ${wanted}`);
    }
  }
  tensors.release();
});

test("sumSquares() lets NaN and infinities through, beyond the range of f32 too", () => {
  const tensors = new Tensors();
  const values = randomArray(3, "f32", 100);
  const large = tensors.from("f32", Float64Array.of(3e38, 3e38));
  assert.ok(Number.isFinite(native.sumSquares(large, 0, 2)));
  values[50] = Number.NaN;
  assert.ok(Number.isNaN(native.sumSquares(tensors.from("f32", values), 0, 100)));
  assert.ok(!Number.isNaN(native.sumSquares(tensors.from("f32", values), 0, 50)));
  values[50] = Number.NEGATIVE_INFINITY;
  assert.equal(native.sumSquares(tensors.from("f32", values), 0, 100), Number.POSITIVE_INFINITY);
  tensors.release();
});

test("sumSquares() gives the same bits with any number of threads", () => {
  const tensors = new Tensors();
  const id = tensors.from("f32", randomArray(8, "f32", 200_001));
  const before = native.cpuInfo().threads;
  const sums = [1, 2, 4].map((threads) => {
    native.threadsSet(threads);
    return native.sumSquares(id, 1, 200_000);
  });
  native.threadsSet(before);
  assert.deepEqual(sums, [sums[0], sums[0], sums[0]]);
  tensors.release();
});

test("the optimizer refuses ranges, types and steps that do not fit", () => {
  const tensors = new Tensors();
  const ids = place(tensors, start(10));
  const grad = tensors.alloc("f32", 10, 0);
  const halves = tensors.alloc("bf16", 10, 0);
  const refused = (message: RegExp) => ({ code: "NATIVE_ARGUMENT", message });
  assert.throws(() => run(ids, grad, 0, [5, 6], SETTINGS, 1), refused(/\[5, 11\) of a tensor of 10/));
  assert.throws(
    () => run(ids, grad, 0, [0, 10], SETTINGS, 0),
    refused(/args\[15\]: 0, want a whole number from 1/),
  );
  assert.throws(
    () => run(ids, halves, 0, [0, 10], SETTINGS, 1),
    refused(/args\[4\]: tensor is bf16, want f32/),
  );
  assert.throws(() => run(ids, grad, tensors.alloc("f32", 9), [0, 10], SETTINGS, 1), refused(/weights/));
  assert.throws(() => native.sumSquares(grad, 2, 9), refused(/\[2, 11\) of a tensor of 10/));
  tensors.release();
});
