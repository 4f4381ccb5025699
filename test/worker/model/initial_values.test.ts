import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { loadNative } from "../../../worker/engine/load_native.js";
import { Arena, readFloats } from "../../../worker/engine/tensor.js";
import { writeInitialValues } from "../../../worker/model/initial_values.js";

interface Golden {
  philox: { counter: number[]; key: number[]; words: number[] }[];
  normals: { seed: number; stream: number; step: number; which: number; values: number[] }[];
  initial: { name: string; shape: number[]; seed: number; elements: number[]; values: number[] }[];
}
const golden = JSON.parse(readFileSync(path.resolve("test/golden/random.json"), "utf8")) as Golden;
const native = loadNative();

/** Distance in units in the last place between float32 numbers of one sign. */
function ulps(a: number, b: number): number {
  const bits = (value: number) => new Int32Array(Float32Array.of(value).buffer)[0]!;
  return Math.sign(a) === Math.sign(b) ? Math.abs(bits(a) - bits(b)) : Number.POSITIVE_INFINITY;
}

test("philoxWords() gives the reference's words", () => {
  for (const { counter, key, words } of golden.philox) {
    assert.deepEqual([...native.philoxWords(Uint32Array.from(counter), Uint32Array.from(key))], words);
  }
});

test("philoxNormal() is within one unit in the last place of the reference, from any first element", () => {
  const arena = new Arena(native);
  for (const { seed, stream, step, which, values } of golden.normals) {
    for (const first of [0, 1, 3, 6]) {
      const out = arena.alloc("f32", 10);
      const count = values.length - first;
      native.philoxNormal(out.id, 0, count, BigInt(seed), stream, step, which, first, 1);
      for (const [i, value] of readFloats(native, out, 0, count).entries()) {
        assert.ok(
          ulps(value, values[first + i]!) <= 1,
          `element ${first + i}: ${value}, want ${values[first + i]}`,
        );
      }
      out.free();
    }
  }
});

test("writeInitialValues() gives the reference's values, element by element", () => {
  const arena = new Arena(native);
  for (const { name, shape, seed, elements, values } of golden.initial) {
    const count = shape.reduce((a, b) => a * b, 1);
    const out = arena.alloc("f32", count);
    writeInitialValues(arena, out, 0, { name, shape }, { start: 0, count }, BigInt(seed));
    const found = readFloats(native, out);
    for (const [i, element] of elements.entries()) {
      const want = Math.fround(values[i]!);
      const near = want === 0 ? found[element] === 0 : ulps(found[element]!, want) <= 1;
      assert.ok(near, `${name} element ${element}: ${found[element]}, want ${want}`);
    }
    out.free();
  }
});

test("writeInitialValues() of a range equals that range of the whole", () => {
  const arena = new Arena(native);
  const parameter = { name: "blocks.0.mlp.fc1.weight", shape: [24, 10] };
  const whole = arena.alloc("f32", 240);
  writeInitialValues(arena, whole, 0, parameter, { start: 0, count: 240 }, 7n);
  const part = arena.zeros("f32", 100);
  writeInitialValues(arena, part, 11, parameter, { start: 37, count: 62 }, 7n);
  assert.deepEqual(readFloats(native, part, 11, 62), readFloats(native, whole, 37, 62));
  assert.deepEqual([...readFloats(native, part, 0, 11)], new Array(11).fill(0));
  arena.freeAll();
});

test("reference_proj starts as the identity beside zeros", () => {
  const arena = new Arena(native);
  const out = arena.alloc("f32", 18);
  writeInitialValues(
    arena,
    out,
    0,
    { name: "reference_proj.weight", shape: [3, 6] },
    { start: 0, count: 18 },
    1n,
  );
  assert.deepEqual([...readFloats(native, out)], [1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
  arena.freeAll();
});
