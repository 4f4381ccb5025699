import assert from "node:assert/strict";
import { test } from "node:test";
import { packShape } from "../../../worker/model/pack_context.js";

test("packShape() of one rank has the pack's own bounds", () => {
  const shape = packShape(
    [
      [1, 2, 2],
      [2, 1, 3],
    ],
    [3, 1],
  );
  assert.deepEqual([...shape.packOffsets], [0, 4, 10]);
  assert.deepEqual([...shape.offsets], [0, 4, 10]);
  assert.deepEqual([...shape.textOffsets], [0, 3, 4]);
  assert.deepEqual(shape.local, { start: 0, length: 10 });
  assert.deepEqual([...shape.grids], [1, 2, 2, 2, 1, 3]);
});

test("packShape() over a sequence group gives every row to exactly one rank and one sample", () => {
  const grids = [
    [1, 1, 5],
    [1, 1, 1],
    [2, 1, 2],
  ] as [number, number, number][];
  for (const parts of [2, 3, 7, 13]) {
    const owned: number[] = [];
    for (let index = 0; index < parts; index++) {
      const shape = packShape(grids, [1, 1, 1], { parts, index });
      assert.equal(shape.offsets[0], 0);
      assert.equal(shape.offsets[3], shape.local.length);
      for (let sample = 0; sample < 3; sample++) {
        for (let row = shape.offsets[sample]!; row < shape.offsets[sample + 1]!; row++) owned.push(sample);
      }
    }
    assert.deepEqual(owned, [0, 0, 0, 0, 0, 1, 2, 2, 2, 2]);
  }
});
