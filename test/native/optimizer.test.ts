import assert from "node:assert/strict";
import { test } from "node:test";
import { crc32 } from "node:zlib";
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
/** A step of `from` into `to` (itself: in place); `segments` left out: all of it decays. */
function run(
  from: Ids,
  to: Ids,
  grad: TensorId,
  options: {
    weights?: TensorId;
    segments: number[];
    settings?: Partial<Settings>;
    step: number;
    checksums?: Uint32Array;
  },
): void {
  const s = { ...SETTINGS, ...options.settings };
  native.adamwStep(
    from.master,
    from.m,
    from.v,
    from.ema,
    to.master,
    to.m,
    to.v,
    to.ema,
    grad,
    options.weights ?? 0,
    Float64Array.from(options.segments),
    s.lr,
    s.beta1,
    s.beta2,
    s.eps,
    s.weightDecay,
    s.gradScale,
    s.emaDecay,
    options.step,
    options.checksums ?? new Uint32Array(0),
  );
}

const KINDS = ["master", "ema", "m", "v"] as const; // in the order of the checksums

function read(tensors: Tensors, ids: Ids): Record<keyof State, Float64Array> {
  return {
    master: tensors.read(ids.master),
    m: tensors.read(ids.m),
    v: tensors.read(ids.v),
    ema: tensors.read(ids.ema),
  };
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
        run(ids, ids, tensors.from("f32", grad), { weights, segments: [0, count, 1], step });
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

/** Awkward for vectors, pieces (4,096 elements) and chunks (1 MiB), and large enough to be written past the caches. */
const COUNTS = [1, 100, 4096, 262_144, 300_003];

test("adamwStep() into other tensors gives the bits of one in place, and leaves the old state alone", () => {
  for (const count of COUNTS) {
    const tensors = new Tensors();
    const [there, from] = [place(tensors, start(count)), place(tensors, start(count))];
    const to = place(tensors, start(count));
    const grad = tensors.from("f32", randomArray(5, "f32", count));
    const before = read(tensors, from);
    run(there, there, grad, { segments: [0, count, 1], step: 1 });
    run(from, to, grad, { segments: [0, count, 1], step: 1 });
    assert.deepEqual(read(tensors, to), read(tensors, there), `count ${count}`);
    assert.deepEqual(read(tensors, from), before, `count ${count}`);
    tensors.release();
  }
});

test("adamwStep() gives checksums that zlib computes of what it wrote, in place and elsewhere", () => {
  for (const count of COUNTS) {
    for (const elsewhere of [false, true]) {
      const tensors = new Tensors();
      const from = place(tensors, start(count));
      const to = elsewhere ? place(tensors, start(count)) : from;
      const chunks = Math.ceil((4 * count) / 2 ** 20);
      const checksums = new Uint32Array(4 * chunks);
      const grad = tensors.from("f32", randomArray(5, "f32", count));
      run(from, to, grad, { segments: [0, count, 1], step: 1, checksums });
      const wanted = KINDS.flatMap((kind) => {
        const bytes = new Uint8Array(4 * count);
        native.tensorRead(to[kind], 0, bytes);
        const one = new Uint32Array(chunks);
        native.tensorChecksums(to[kind], one);
        const sums = Array.from({ length: chunks }, (_, i) =>
          crc32(bytes.subarray(i * 2 ** 20, (i + 1) * 2 ** 20)),
        );
        assert.deepEqual([...one], sums, `tensorChecksums() of ${kind}, count ${count}`);
        return sums;
      });
      assert.deepEqual([...checksums], wanted, `count ${count}, elsewhere ${elsewhere}`);
      tensors.release();
    }
  }
});

test("adamwStep() decays the segments that decay, to the bits of a step where everything does or nothing", () => {
  const count = 10_000;
  const tensors = new Tensors();
  const grad = tensors.from("f32", randomArray(5, "f32", count));
  const [all, none, mixed] = [0, 1, 2].map(() => place(tensors, start(count))) as [Ids, Ids, Ids];
  run(all, all, grad, { segments: [0, count, 1], step: 1 });
  run(none, none, grad, { segments: [0, count, 0], step: 1 });
  const edges = [0, 1, 7, 4090, 4096, 4099, 9000, count];
  const segments = edges.slice(1).flatMap((edge, i) => [edges[i]!, edge - edges[i]!, i % 2]);
  run(mixed, mixed, grad, { segments, step: 1 });
  const [yes, no] = [tensors.read(all.master), tensors.read(none.master)];
  const wanted = yes.map((value, i) => (edges.filter((edge) => edge <= i).length % 2 === 0 ? value : no[i]!));
  assert.notDeepEqual(yes, no);
  assert.deepEqual(tensors.read(mixed.master), wanted);
  tensors.release();
});

test("adamwStep() gives the same bits with any number of threads", () => {
  const count = 600_003;
  assertSameBitsForAnyThreads((tensors) => {
    const ids = place(tensors, start(count));
    const weights = tensors.alloc("bf16", count);
    const checksums = new Uint32Array(4 * Math.ceil((4 * count) / 2 ** 20));
    const grad = tensors.from("f32", randomArray(6, "f32", count));
    run(ids, ids, grad, { weights, segments: [0, 11, 0, 11, count - 11, 1], step: 4, checksums });
    const sums = tensors.alloc("f32", checksums.length);
    native.tensorWrite(sums, 0, new Uint8Array(checksums.buffer));
    return [ids.master, ids.m, ids.v, ids.ema, weights, sums];
  }, "adamwStep");
});

test("adamwStep() without weight decay leaves a weight without gradient alone", () => {
  const tensors = new Tensors();
  const state = start(20);
  const ids = place(tensors, state);
  run(ids, ids, tensors.alloc("f32", 20, 0), { segments: [0, 20, 1], settings: { weightDecay: 0 }, step: 1 });
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

test("the optimizer refuses segments, sizes, types and steps that do not fit", () => {
  const tensors = new Tensors();
  const ids = place(tensors, start(10));
  const grad = tensors.alloc("f32", 10, 0);
  const halves = tensors.alloc("bf16", 10, 0);
  const all = { segments: [0, 10, 1], step: 1 };
  const refused = (message: RegExp) => ({ code: "NATIVE_ARGUMENT", message });
  for (const segments of [[], [0, 9, 1], [0, 11, 1], [0, 4, 1, 5, 5, 1], [0, 10], [0, -1, 1, -1, 11, 1]]) {
    assert.throws(
      () => run(ids, ids, grad, { segments, step: 1 }),
      refused(/segments cover \d+ of 10 elements/),
    );
  }
  assert.throws(
    () => run(ids, place(tensors, start(9)), grad, all),
    refused(/master has 9 elements, want 10/),
  );
  assert.throws(
    () => run(ids, ids, grad, { ...all, step: 0 }),
    refused(/args\[18\]: 0, want a whole number from 1/),
  );
  assert.throws(() => run(ids, ids, halves, all), refused(/args\[8\]: tensor is bf16, want f32/));
  assert.throws(
    () => run(ids, ids, grad, { ...all, weights: tensors.alloc("f32", 9) }),
    refused(/weights has 9 elements/),
  );
  assert.throws(
    () => run(ids, ids, grad, { ...all, checksums: new Uint32Array(3) }),
    refused(/room for 3 checksums, want 4 x 1/),
  );
  assert.throws(() => native.tensorChecksums(grad, new Uint32Array(2)), refused(/room for 2, want 1/));
  assert.throws(() => native.sumSquares(grad, 2, 9), refused(/\[2, 11\) of a tensor of 10/));
  tensors.release();
});
