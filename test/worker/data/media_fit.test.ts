import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { croppedSize, scaledSize, usedFrames } from "../../../worker/data/media_fit.js";

const LIMITS = { maxPixels: 1024, unitX: 8, unitY: 8 };

function fit(width: number, height: number, limits = LIMITS) {
  return croppedSize(scaledSize({ width, height }, limits), limits);
}

describe("scaledSize() and croppedSize()", () => {
  const table: [width: number, height: number, fitted: { width: number; height: number } | null][] = [
    [32, 32, { width: 32, height: 32 }],
    [1920, 1080, { width: 40, height: 24 }],
    [1080, 1920, { width: 24, height: 40 }],
    [33, 30, { width: 32, height: 24 }],
    [1000, 10, { width: 128, height: 8 }], // one unit high, the long side takes what is left
    [10, 1000, { width: 8, height: 128 }],
    [8, 8, { width: 8, height: 8 }],
    [16, 7, null],
    [1, 1, null],
  ];
  for (const [width, height, fitted] of table) {
    it(`fits ${width}x${height} as ${fitted ? `${fitted.width}x${fitted.height}` : "nothing"}`, () =>
      assert.deepEqual(fit(width, height), fitted));
  }

  it("never enlarges, never passes the limit, and keeps whole units, whatever the size", () => {
    for (const limits of [LIMITS, { maxPixels: 36_864, unitX: 16, unitY: 32 }]) {
      for (let width = 1; width < 900; width += 37) {
        for (let height = 1; height < 900; height += 41) {
          const scaled = scaledSize({ width, height }, limits);
          const size = fit(width, height, limits);
          assert.ok(scaled.width <= width && scaled.height <= height);
          if (size === null) {
            assert.ok(width < limits.unitX || height < limits.unitY, `${width}x${height}`);
            continue;
          }
          assert.ok(size.width * size.height <= limits.maxPixels);
          assert.ok(size.width % limits.unitX === 0 && size.height % limits.unitY === 0);
        }
      }
    }
  });
});

describe("usedFrames()", () => {
  it("is 1 + k groups, within the limit", () => {
    const used = (frames: number) => usedFrames(frames, { maxFrames: 10, strideT: 4 });
    assert.deepEqual([1, 2, 4, 5, 8, 9, 10, 97].map(used), [1, 1, 1, 5, 5, 9, 9, 9]);
  });
});
