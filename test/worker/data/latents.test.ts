import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { PhiloxRandom } from "../../../job/philox.js";
import { sampleGrid } from "../../../job/sample_grid.js";
import { type CodecSettings, type LatentShape, WaveletCodec } from "../../../worker/data/codec.js";
import {
  type CodecRecord,
  decodeLatents,
  fromPatches,
  patchNumbers,
  StatisticsSum,
  tokenGrid,
  toPatches,
} from "../../../worker/data/latents.js";
import { makeScene, renderScene } from "../../../worker/data/shapes/scene.js";

const SETTINGS: CodecSettings = {
  kind: "haar",
  version: 1,
  stride: [2, 4, 4],
  channels: 48,
  patch: [1, 2, 2],
};

function plain(channels: number, patch: [number, number, number]): CodecRecord {
  const statistics = { mean: Array<number>(channels).fill(0), deviation: Array<number>(channels).fill(1) };
  return { ...SETTINGS, channels, patch, first: statistics, later: statistics };
}

describe("toPatches()", () => {
  it("orders tokens t, y, x and numbers channel, dt, dy, dx, as the reference's patchify", () => {
    const shape: LatentShape = { channels: 2, t: 2, y: 2, x: 4 };
    const latents = Float32Array.from({ length: 32 }, (_, i) => i); // value = ((c*2 + t)*2 + y)*4 + x
    const patches = new Float32Array(32);
    toPatches(latents, shape, plain(2, [1, 2, 2]), patches, 0);
    assert.deepEqual([...patches.subarray(0, 8)], [0, 1, 4, 5, 16, 17, 20, 21]); // t 0, x 0..1
    assert.deepEqual([...patches.subarray(8, 16)], [2, 3, 6, 7, 18, 19, 22, 23]); // t 0, x 2..3
    assert.deepEqual([...patches.subarray(16, 24)], [8, 9, 12, 13, 24, 25, 28, 29]); // t 1
  });

  it("is undone by fromPatches() with other statistics for first and later frames", () => {
    const random = new PhiloxRandom(1, 97);
    const shape: LatentShape = { channels: 48, t: 3, y: 4, x: 6 };
    const latents = Float32Array.from({ length: 48 * 72 }, () => random.between(-3, 3));
    const numbers = (low: number, high: number) =>
      Array.from({ length: 48 }, () => random.between(low, high));
    const record: CodecRecord = {
      ...SETTINGS,
      first: { mean: numbers(-1, 1), deviation: numbers(0.5, 2) },
      later: { mean: numbers(-1, 1), deviation: numbers(0.5, 2) },
    };
    const patches = new Float32Array(latents.length + 5);
    toPatches(latents, shape, record, patches, 5);
    const back = fromPatches(patches.subarray(5), shape, record);
    for (const [i, value] of latents.entries()) assert.ok(Math.abs(back[i]! - value) < 1e-5);
  });
});

describe("StatisticsSum", () => {
  it("makes normalised latents of mean 0 and deviation 1 in every channel that varies", () => {
    const codec = new WaveletCodec(SETTINGS);
    const clips = Array.from({ length: 16 }, (_, number) =>
      renderScene(makeScene({ kind: "moving", number, seed: 1, size: 32, frames: 9 })),
    );
    const sum = new StatisticsSum(48);
    for (const clip of clips) sum.add(codec.encode(clip), codec.latentShape(clip));
    const record: CodecRecord = { ...SETTINGS, ...sum.result() };
    const totals = Array.from({ length: 48 }, () => ({ sum: 0, square: 0, count: 0 }));
    for (const clip of clips) {
      const shape = codec.latentShape(clip);
      const patches = new Float32Array(shape.t * shape.y * shape.x * 48);
      toPatches(codec.encode(clip), shape, record, patches, 0);
      for (const [i, value] of patches.entries()) {
        const total = totals[Math.floor((i % 192) / 4)]!;
        total.sum += value;
        total.square += value * value;
        total.count += 1;
      }
    }
    for (const { sum: s, square, count } of totals) {
      assert.ok(Math.abs(s / count) < 1e-3);
      assert.ok(Math.abs(square / count - 1) < 1e-2);
    }
  });

  it("does not blow up constant channels, and leaves later frames alone where there are none", () => {
    const sum = new StatisticsSum(2);
    sum.add(Float32Array.from([3, 3, 3, 3, 1, -1, 1, -1]), { channels: 2, t: 1, y: 2, x: 2 });
    const { first, later } = sum.result();
    assert.deepEqual(first, { mean: [3, 0], deviation: [0.01, 1] });
    assert.deepEqual(later, { mean: [0, 0], deviation: [1, 1] });
  });
});

describe("decodeLatents()", () => {
  it("gives the pixels of a picture's own patches", () => {
    const codec = new WaveletCodec(SETTINGS);
    const picture = renderScene(makeScene({ kind: "pair", number: 3, seed: 1, size: 32, frames: 1 }));
    const shape = codec.latentShape(picture);
    const sum = new StatisticsSum(48);
    sum.add(codec.encode(picture), shape);
    const record: CodecRecord = { ...SETTINGS, ...sum.result() };
    const grid = tokenGrid(shape, SETTINGS.patch);
    assert.deepEqual(grid, [1, 4, 4]);
    const patches = new Float32Array(16 * patchNumbers(SETTINGS));
    toPatches(codec.encode(picture), shape, record, patches, 0);
    assert.deepEqual(decodeLatents(patches, grid, record), picture);
  });

  it("refuses patches of another size", () => {
    assert.throws(() => decodeLatents(new Float32Array(7), [1, 1, 1], plain(48, [1, 2, 2])), RangeError);
  });
});

describe("sampleGrid()", () => {
  it("rounds down to whole groups and patches, at least one", () => {
    assert.deepEqual(sampleGrid({ frames: 9, height: 32, width: 40 }, SETTINGS), [5, 4, 5]);
    assert.deepEqual(sampleGrid({ frames: 10, height: 39, width: 3 }, SETTINGS), [5, 4, 1]);
    assert.deepEqual(sampleGrid({ frames: 1, height: 8, width: 8 }, SETTINGS), [1, 1, 1]);
  });
});
