import assert from "node:assert/strict";
import { test } from "node:test";
import type { PackBatch } from "../../../worker/data/pack_batch.js";
import { loadNative } from "../../../worker/engine/load_native.js";
import { Arena, readFloats } from "../../../worker/engine/tensor.js";
import { drawnNumbers, type LocalPack, localPack } from "../../../worker/model/local_pack.js";
import { fleetJob, TINY } from "../parallel/fleet.js";

const native = loadNative();
const P = 8;

/** Two samples: a clip of two frames of one patch each, and an image of three patches. */
function batch(weights: number[]): PackBatch {
  return {
    packIndex: 0,
    grids: [
      [2, 1, 1],
      [1, 1, 3],
    ],
    textLengths: [1, 2],
    data: Float32Array.from({ length: 5 * P }, (_, i) => i),
    text: Float32Array.from({ length: 3 * TINY.text_width }, (_, i) => i),
    places: [0, 1],
    weights,
    samples: ["clip", "image"],
  };
}

const emptyText = { length: 2, data: new Float32Array(2 * TINY.text_width).fill(-1) };

function make(
  arena: Arena,
  options: { dropText: number; weights?: number[]; referenceFrame?: boolean },
): LocalPack {
  const model = { ...TINY, reference_frame: options.referenceFrame ?? false };
  const job = fleetJob({ packs: 1, steps: 1, flow: { drop_text: options.dropText } });
  const whole = batch(options.weights ?? [1, 1]);
  const numbers = drawnNumbers(arena, { job, model, emptyText })(whole, 3);
  const sequence = { parts: 1, index: 0 };
  return localPack(arena, whole, numbers, { model, dtype: "f32", slot: 0, sequence, sampleCount: 7 });
}

test("localPack() noises data so that patches and target give both ends of the path back", () => {
  const arena = new Arena(native);
  const pack = make(arena, { dropText: 0 });
  const [patches, target, time] = [pack.patches, pack.target, pack.time].map((tensor) =>
    readFloats(native, tensor),
  );
  const { data } = batch([1, 1]);
  for (const [i, velocity] of target!.entries()) {
    const t = time![i < 2 * P ? 0 : 1]!;
    // x_t + (1 - t) (data - noise) = data; values up to 40, so an error of some 40 * 2^-23.
    assert.ok(Math.abs(patches![i]! + (1 - t) * velocity - data[i]!) < 2e-5);
  }
  arena.freeAll();
});

test("a sample without weight keeps its place in the divisor", () => {
  const arena = new Arena(native);
  assert.deepEqual([...make(arena, { dropText: 0 }).lossWeights], [1 / (2 * P * 7), 1 / (3 * P * 7)]);
  assert.deepEqual([...make(arena, { dropText: 0, weights: [1, 0] }).lossWeights], [1 / (2 * P * 7), 0]);
  arena.freeAll();
});

test("dropped captions give way to the empty one, whose length differs", () => {
  const arena = new Arena(native);
  const kept = make(arena, { dropText: 0 });
  assert.deepEqual(readFloats(native, kept.text), batch([1, 1]).text);
  assert.deepEqual([...kept.shape.textOffsets], [0, 1, 3]);
  const dropped = make(arena, { dropText: 1 });
  assert.deepEqual([...dropped.shape.textOffsets], [0, 2, 4]);
  assert.ok(readFloats(native, dropped.text).every((value) => value === -1));
  arena.freeAll();
});

test("the reference of every patch is the first frame's patch at its place", () => {
  const arena = new Arena(native);
  const pack = make(arena, { dropText: 0, referenceFrame: true });
  assert.deepEqual(pack.patches.shape, [5, 2 * P]);
  const rows = readFloats(native, pack.patches);
  const { data } = batch([1, 1]);
  const first = [0, 0, 2, 3, 4]; // the clip's second frame refers to its first
  for (const [row, from] of first.entries()) {
    assert.deepEqual(rows.slice(row * 2 * P + P, (row + 1) * 2 * P), data.slice(from * P, (from + 1) * P));
  }
  arena.freeAll();
});
