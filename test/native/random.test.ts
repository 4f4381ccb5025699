import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { assertSameBitsForAnyThreads, native, Tensors } from "./kernel_support.js";

interface Golden {
  philox: { counter: number[]; key: number[]; words: number[] }[];
  normals: { seed: number; stream: number; step: number; which: number; values: number[] }[];
  initial: { name: string; shape: number[]; seed: number; elements: number[]; values: number[] }[];
}
const golden = JSON.parse(readFileSync("test/golden/random.json", "utf8")) as Golden;

/** The generator written from the paper with plain integers, and Box-Muller in f64: the slow twin. */
function philox(counter: readonly number[], key: readonly number[]): number[] {
  let c = counter.map(BigInt);
  let [k0, k1] = key.map(BigInt) as [bigint, bigint];
  const low = 0xffffffffn;
  for (let round = 0; round < 10; round++) {
    const a = 0xd2511f53n * c[0]!;
    const b = 0xcd9e8d57n * c[2]!;
    c = [(b >> 32n) ^ c[1]! ^ k0, b & low, (a >> 32n) ^ c[3]! ^ k1, a & low];
    k0 = (k0 + 0x9e3779b9n) & low;
    k1 = (k1 + 0xbb67ae85n) & low;
  }
  return c.map(Number);
}
function normal(seed: bigint, stream: number, step: number, which: number, element: number): number {
  const key = [Number(seed & 0xffffffffn), Number(seed >> 32n)];
  const x = philox([Math.floor(element / 4), which, step, stream], key);
  const pair = element % 4 < 2 ? 0 : 2;
  const [u1, u2] = [(x[pair]! + 0.5) / 2 ** 32, (x[pair + 1]! + 0.5) / 2 ** 32];
  const radius = Math.sqrt(-2 * Math.log(u1));
  const angle = 2 * Math.PI * u2;
  return Math.fround(radius * (element % 2 === 0 ? Math.cos(angle) : Math.sin(angle)));
}

interface Draw {
  seed: bigint;
  stream: number;
  step: number;
  which: number;
}
function draw(tensors: Tensors, at: Draw, elementStart: number, count: number, scale = 1): Float64Array {
  const out = tensors.alloc("f32", count);
  native.philoxNormal(out, 0, count, at.seed, at.stream, at.step, at.which, elementStart, scale);
  return tensors.read(out);
}

/** Distance between neighbouring f32 numbers at x. */
const unit = (x: number): number => 2 ** (Math.floor(Math.log2(Math.abs(x))) - 23);

test("philoxWords() gives the golden words and those of the twin", () => {
  for (const { counter, key, words } of golden.philox)
    assert.deepEqual([...native.philoxWords(Uint32Array.from(counter), Uint32Array.from(key))], words);
  for (let i = 0; i < 50; i++) {
    const counter = [i, i * 77_777_777, 2 ** 32 - 1 - i, i * i].map((word) => word >>> 0);
    const key = [(i * 2654435761) >>> 0, i];
    const found = native.philoxWords(Uint32Array.from(counter), Uint32Array.from(key));
    assert.deepEqual([...found], philox(counter, key));
  }
});

test("philoxNormal() gives the golden normals within one unit in the last place", () => {
  const tensors = new Tensors();
  for (const { seed, stream, step, which, values } of golden.normals) {
    const found = draw(tensors, { seed: BigInt(seed), stream, step, which }, 0, values.length);
    values.forEach((wanted, i) => {
      assert.ok(!!(Math.abs(found[i]! - wanted) <= unit(wanted)), `${found[i]}, want ${wanted}`);
    });
  }
  tensors.release();
});

test("philoxNormal() gives the golden initial values of linear weights", () => {
  const tensors = new Tensors();
  let compared = 0;
  for (const { name, shape, seed, elements, values } of golden.initial) {
    if (shape.length !== 2 || values.every((value) => value === 0)) continue;
    let which = 0x811c9dc5;
    for (const byte of Buffer.from(name)) which = Math.imul(which ^ byte, 0x01000193) >>> 0;
    const at = { seed: BigInt(seed), stream: 1, step: 0, which };
    elements.forEach((element, i) => {
      const found = draw(tensors, at, element, 1, 1 / Math.sqrt(shape[1]!))[0]!;
      const wanted = Math.fround(values[i]!);
      assert.ok(
        !!(Math.abs(found - wanted) <= unit(wanted)),
        `${name}[${element}]: ${found}, want ${wanted}`,
      );
      compared++;
    });
  }
  assert.ok(compared > 0);
  tensors.release();
});

test("philoxNormal() equals the twin within one unit in the last place, nearly always exactly", () => {
  const tensors = new Tensors();
  const at = { seed: 0x123456789abcdefn, stream: 2, step: 7, which: 3 };
  const count = 5000;
  const found = draw(tensors, at, 3, count);
  let different = 0;
  for (let i = 0; i < count; i++) {
    const wanted = normal(at.seed, at.stream, at.step, at.which, 3 + i);
    assert.ok(
      !!(Math.abs(found[i]! - wanted) <= unit(wanted)),
      `element ${3 + i}: ${found[i]}, want ${wanted}`,
    );
    if (found[i] !== wanted) different++;
  }
  // Both are right to about 2^-51 before they are rounded to 2^-24: one in 2^27 may fall on the other side.
  assert.ok(different <= 1, `${different} of ${count} differ`);
  tensors.release();
});

test("philoxNormal() gives an element the same bits wherever a run of them begins", () => {
  const tensors = new Tensors();
  const at = { seed: 5n, stream: 2, step: 1, which: 0 };
  const whole = draw(tensors, at, 0, 9000);
  for (const [start, count] of [
    [0, 1],
    [1, 1],
    [2, 13],
    [15, 2],
    [16, 16],
    [4095, 4097],
    [8999, 1],
  ] as const) {
    assert.deepEqual(draw(tensors, at, start, count), whole.slice(start, start + count));
  }
  const far = 2 ** 34 - 5;
  assert.equal(draw(tensors, at, far, 5)[4], normal(5n, 2, 1, 0, far + 4));
  assertSameBitsForAnyThreads((held) => {
    const out = held.alloc("f32", 50_000);
    native.philoxNormal(out, 7, 49_990, 5n, 2, 1, 0, 11, 0.1);
    return [out];
  }, "philoxNormal");
  tensors.release();
});

test("philoxNormal() writes nothing outside its range and scales in f64", () => {
  const tensors = new Tensors();
  const out = tensors.alloc("f32", 30);
  native.philoxNormal(out, 5, 20, 1n, 2, 1, 0, 0, 1 / 3);
  const found = tensors.read(out);
  for (const i of [0, 4, 25, 29]) assert.equal(found[i], 777);
  for (let i = 0; i < 20; i++) assert.equal(found[5 + i], Math.fround(normal(1n, 2, 1, 0, i) / 3));
  tensors.release();
});

test("philoxNormal() has the moments of a standard normal", () => {
  const tensors = new Tensors();
  const count = 200_000;
  const values = draw(tensors, { seed: 9n, stream: 2, step: 1, which: 4 }, 0, count);
  const moment = (power: number): number => values.reduce((sum, x) => sum + x ** power, 0) / count;
  // Five standard errors: the variance of x^p is E x^2p - (E x^p)^2 = 1, 2, 15, 96.
  for (const [power, wanted, variance] of [
    [1, 0, 1],
    [2, 1, 2],
    [3, 0, 15],
    [4, 3, 96],
  ] as const) {
    const error = Math.abs(moment(power) - wanted);
    assert.ok(
      !!(error <= 5 * Math.sqrt(variance / count)),
      `moment ${power}: ${moment(power)}, want ${wanted}`,
    );
  }
  tensors.release();
});

test("philoxNormal() and philoxWords() refuse ranges and words that do not fit", () => {
  const tensors = new Tensors();
  const out = tensors.alloc("f32", 4);
  const halves = tensors.alloc("bf16", 4);
  const refused = (message: RegExp) => ({ code: "NATIVE_ARGUMENT", message });
  assert.throws(() => native.philoxNormal(out, 1, 4, 1n, 1, 1, 1, 0, 1), refused(/of a tensor of 4/));
  assert.throws(() => native.philoxNormal(out, 0, 4, 1n, 1, 1, 1, 2 ** 34, 1), refused(/beyond 2\^34/));
  assert.throws(() => native.philoxNormal(out, 0, 4, -1n, 1, 1, 1, 0, 1), refused(/args\[3\]/));
  assert.throws(() => native.philoxNormal(out, 0, 4, 1n, 2 ** 32, 1, 1, 0, 1), refused(/args\[4\]/));
  assert.throws(() => native.philoxNormal(halves, 0, 4, 1n, 1, 1, 1, 0, 1), refused(/want f32/));
  assert.throws(() => native.philoxWords(new Uint32Array(3), new Uint32Array(2)), refused(/3 words, want 4/));
  tensors.release();
});
