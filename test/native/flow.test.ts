import assert from "node:assert/strict";
import { test } from "node:test";
import { assertClose, assertSameBitsForAnyThreads, native, randomArray, Tensors } from "./kernel_support.js";

/** Unit roundoff: half the distance between 1 and the next number. */
const ROUNDOFF = { f32: 2 ** -24, bf16: 2 ** -8 };

/** Rows of four samples, one of them without any; P numbers a row. Counts that are no multiples of a vector. */
const OFFSETS = Int32Array.of(0, 5, 5, 6, 20);
const P = 7;
const COUNT = 20 * P;
/** Large enough for several blocks of 16384 inside one sample. */
const LONG_OFFSETS = Int32Array.of(0, 1, 9001);

function sampleOf(element: number): number {
  const row = Math.floor(element / P);
  return OFFSETS.findIndex((start, i) => start <= row && row < OFFSETS[i + 1]!);
}

for (const dtype of ["f32", "bf16"] as const) {
  test(`flowPath() interpolates each sample at its own time, xt in ${dtype}`, () => {
    const tensors = new Tensors();
    const [data, noise] = [randomArray(1, "f32", COUNT), randomArray(2, "f32", COUNT)];
    const time = Float64Array.of(0, 0.5, 1, 0.3).map(Math.fround);
    const [xt, target] = [tensors.alloc(dtype, COUNT), tensors.alloc("f32", COUNT)];
    const [dataId, noiseId] = [tensors.from("f32", data), tensors.from("f32", noise)];
    native.flowPath(xt, target, dataId, noiseId, tensors.from("f32", time), OFFSETS, P);
    const wanted = data.map((x, i) => {
      const t = time[sampleOf(i)]!;
      return t * x + (1 - t) * noise[i]!;
    });
    // 1 - t, two products and a sum: four roundings, then the store.
    const tolerance = 4 * ROUNDOFF.f32 + (dtype === "bf16" ? ROUNDOFF.bf16 : 0);
    assertClose(tensors.read(xt), wanted, tolerance, "xt");
    assert.deepEqual(
      tensors.read(target),
      data.map((x, i) => Math.fround(x - noise[i]!)),
    );
    tensors.release();
  });

  test(`flowLoss() is the weighted sum of squares and its gradient, v in ${dtype}`, () => {
    const tensors = new Tensors();
    const [v, target] = [randomArray(3, dtype, COUNT), randomArray(4, "f32", COUNT)];
    const weights = Float64Array.of(0.5, 3, 0.01, 1 / 3);
    const perSample = new Float64Array(4).fill(777);
    const [vId, targetId] = [tensors.from(dtype, v), tensors.from("f32", target)];
    const dv = tensors.alloc(dtype, COUNT);
    const loss = native.flowLoss(dv, vId, targetId, weights, perSample, OFFSETS, P);
    const wanted = new Float64Array(4);
    v.forEach((value, i) => {
      wanted[sampleOf(i)]! += weights[sampleOf(i)]! * (value - target[i]!) ** 2;
    });
    // A difference is rounded once in f32 (relative error 2^-24), its square and the sums are f64.
    assertClose(perSample, wanted, 4 * ROUNDOFF.f32, "per sample");
    assert.equal(perSample[1], 0);
    assert.equal(
      loss,
      perSample.reduce((sum, part) => sum + part, 0),
    );
    const gradient = v.map((value, i) => 2 * weights[sampleOf(i)]! * (value - target[i]!));
    // The weight, the difference and the product are rounded once each, then the stored result.
    const tolerance = 3 * ROUNDOFF.f32 + (dtype === "bf16" ? ROUNDOFF.bf16 : 0);
    assertClose(tensors.read(dv), gradient, tolerance, "dv");
    assert.equal(native.flowLoss(0, vId, targetId, weights, perSample, OFFSETS, P), loss);
    tensors.release();
  });

  test(`eulerUpdate() moves x along the guided velocity, in ${dtype}`, () => {
    for (const count of [0, 1, 8, 100, 16401]) {
      const tensors = new Tensors();
      const [x, v1, v0] = [
        randomArray(5, "f32", count),
        randomArray(6, dtype, count),
        randomArray(7, dtype, count),
      ];
      const [guided, straight] = [tensors.from("f32", x), tensors.from("f32", x)];
      const [v1Id, v0Id] = [tensors.from(dtype, v1), tensors.from(dtype, v0)];
      native.eulerUpdate(guided, v1Id, v0Id, 4, 0.125);
      native.eulerUpdate(straight, v1Id, 0, 4, 0.125);
      const wanted = x.map((value, i) => value + 0.125 * (v0[i]! + 4 * (v1[i]! - v0[i]!)));
      // Five roundings of terms up to 8 times the result.
      assertClose(tensors.read(guided), wanted, 40 * ROUNDOFF.f32, "guided");
      const plain = x.map((value, i) => value + 0.125 * v1[i]!);
      assertClose(tensors.read(straight), plain, 4 * ROUNDOFF.f32, "without guidance");
      tensors.release();
    }
  });
}

test("flowLoss() of no samples, or of samples without rows, is 0", () => {
  const tensors = new Tensors();
  const none = tensors.alloc("f32", 0);
  assert.equal(
    native.flowLoss(none, none, none, new Float64Array(0), new Float64Array(0), Int32Array.of(0), P),
    0,
  );
  const perSample = new Float64Array(2).fill(5);
  assert.equal(
    native.flowLoss(none, none, none, new Float64Array(2), perSample, Int32Array.of(0, 0, 0), P),
    0,
  );
  assert.deepEqual([...perSample], [0, 0]);
  native.flowPath(none, none, none, none, tensors.alloc("f32", 2), Int32Array.of(0, 0, 0), P);
  tensors.release();
});

test("flowLoss() sums long samples in f64 and gives the same bits with any number of threads", () => {
  const count = 9001 * P;
  const tensors = new Tensors();
  const [v, target] = [randomArray(8, "f32", count), randomArray(9, "f32", count)];
  const [vId, targetId] = [tensors.from("f32", v), tensors.from("f32", target)];
  const weights = Float64Array.of(1, 1);
  const threadsBefore = native.cpuInfo().threads;
  const losses = [1, 2, 4].map((threads) => {
    native.threadsSet(threads);
    return native.flowLoss(0, vId, targetId, weights, new Float64Array(2), LONG_OFFSETS, P);
  });
  native.threadsSet(threadsBefore);
  assert.equal(losses[1], losses[0]);
  assert.equal(losses[2], losses[0]);
  const wanted = v.reduce((sum, value, i) => sum + Math.fround(value - target[i]!) ** 2, 0);
  // Only the order of 63,007 additions in f64 differs.
  assert.ok(!!(Math.abs(losses[0]! - wanted) <= 63_007 * 2 ** -53 * wanted), `${losses[0]}, want ${wanted}`);
  tensors.release();
  assertSameBitsForAnyThreads((held) => {
    const [xt, dv] = [held.alloc("bf16", count), held.alloc("bf16", count)];
    const [data, noise] = [held.from("f32", v), held.from("f32", target)];
    const difference = held.alloc("f32", count);
    native.flowPath(
      xt,
      difference,
      data,
      noise,
      held.from("f32", Float64Array.of(0.2, 0.7)),
      LONG_OFFSETS,
      P,
    );
    native.flowLoss(dv, xt, difference, weights, new Float64Array(2), LONG_OFFSETS, P);
    return [xt, dv];
  }, "flow");
});

test("flowLoss() lets a NaN through, into its own sample's part only", () => {
  const tensors = new Tensors();
  const v = randomArray(3, "f32", COUNT);
  v[5 * P] = Number.NaN;
  const perSample = new Float64Array(4);
  const loss = native.flowLoss(
    0,
    tensors.from("f32", v),
    tensors.alloc("f32", COUNT, 0),
    Float64Array.of(1, 1, 1, 1),
    perSample,
    OFFSETS,
    P,
  );
  assert.ok(Number.isNaN(loss));
  assert.deepEqual([...perSample].map(Number.isNaN), [false, false, true, false]);
  tensors.release();
});

test("timestepSinusoid() holds cosines, then sines, of angles formed in f64", () => {
  const tensors = new Tensors();
  const time = Float64Array.of(0, 1, 0.123, 0.9999).map(Math.fround);
  for (const width of [2, 6, 256]) {
    const out = tensors.alloc("f32", 4 * width);
    native.timestepSinusoid(out, tensors.from("f32", time), width);
    const found = tensors.read(out);
    for (let s = 0; s < 4; s++) {
      for (let j = 0; j < width / 2; j++) {
        const angle = 1000 * time[s]! * Math.exp((-Math.log(10000) * j) / (width / 2));
        // Rounded once to f32; the angle, up to 1000, is right to 2^-43, and so is its cosine.
        const tolerance = ROUNDOFF.f32 + 2 ** -42;
        assert.ok(!!(Math.abs(found[s * width + j]! - Math.cos(angle)) <= tolerance), `cos ${s} ${j}`);
        assert.ok(
          !!(Math.abs(found[s * width + width / 2 + j]! - Math.sin(angle)) <= tolerance),
          `sin ${s} ${j}`,
        );
      }
    }
  }
  tensors.release();
});

test("flow operations refuse what does not fit and name it", () => {
  const tensors = new Tensors();
  const x = tensors.alloc("f32", COUNT);
  const t = tensors.alloc("f32", 4);
  const refused = (message: RegExp) => ({ code: "NATIVE_ARGUMENT", message });
  const weights = new Float64Array(4);
  assert.throws(() => native.flowPath(x, x, x, x, x, OFFSETS, P), refused(/t has 140 elements, want 4/));
  assert.throws(() => native.flowPath(x, x, x, t, t, OFFSETS, P), refused(/4 elements, want 20 rows of 7/));
  assert.throws(
    () => native.flowPath(x, x, x, x, t, Int32Array.of(0, 6, 5), P),
    refused(/flowPath\.args\[5\]: offset 2 falls from 6 to 5/),
  );
  assert.throws(
    () => native.flowPath(x, x, x, x, t, Int32Array.of(1, 6), P),
    refused(/offsets that start at 0/),
  );
  assert.throws(
    () => native.flowLoss(0, x, x, weights, new Float64Array(3), OFFSETS, P),
    refused(/4 weights and 3 places, want 4/),
  );
  assert.throws(() => native.timestepSinusoid(x, t, 35.5), refused(/args\[2\]: 35.5, want a whole number/));
  assert.throws(() => native.timestepSinusoid(x, t, 35), refused(/width 35, want an even one/));
  assert.throws(() => native.eulerUpdate(x, t, 0, 1, 1), refused(/different counts/));
  tensors.release();
});
