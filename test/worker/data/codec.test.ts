import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { PhiloxRandom } from "../../../job/philox.js";
import { type CodecSettings, WaveletCodec } from "../../../worker/data/codec.js";
import type { RgbClip } from "../../../worker/data/rgb_clip.js";
import { makeScene, renderScene } from "../../../worker/data/shapes/scene.js";
import { coefficientOrder, haarBlock, type Stride } from "../../../worker/data/wavelet.js";

const TEST_STREAM = 98;

function settings(stride: Stride, channels: number): CodecSettings {
  return { kind: "haar", version: 1, stride, channels, patch: [1, 2, 2] };
}

function noise(frames: number, height: number, width: number): RgbClip {
  const random = new PhiloxRandom(4, TEST_STREAM);
  return {
    frames,
    height,
    width,
    data: Uint8Array.from({ length: frames * height * width * 3 }, () => Math.floor(random.uniform() * 256)),
  };
}

describe("haarBlock()", () => {
  for (const stride of [
    [1, 4, 4],
    [2, 4, 4],
    [4, 8, 8],
    [8, 1, 2],
    [1, 1, 1],
  ] as const) {
    it(`keeps length and angles of ${stride.join("x")} blocks, and is undone by its inverse`, () => {
      const random = new PhiloxRandom(7, TEST_STREAM);
      const count = 3 * stride[0] * stride[1] * stride[2];
      const block = Float64Array.from({ length: count }, () => random.uniform() - 0.5);
      const other = Float64Array.from({ length: count }, () => random.uniform() - 0.5);
      const before = [block.slice(), other.slice()] as const;
      haarBlock(block, stride, false);
      haarBlock(other, stride, false);
      // sums of `count` products of numbers below 1: a few roundings of 2^-53 each
      assert.ok(Math.abs(dot(block, other) - dot(...before)) < count * 2 ** -48);
      assert.ok(Math.abs(dot(block, block) - dot(before[0], before[0])) < count * 2 ** -48);
      haarBlock(block, stride, true);
      for (const [i, value] of before[0].entries()) assert.ok(Math.abs(block[i]! - value) < 2 ** -45);
    });
  }
});

describe("coefficientOrder()", () => {
  it("is a permutation that begins with the three colour means", () => {
    const order = coefficientOrder([4, 8, 8]);
    assert.equal(new Set(order.map(({ index }) => index)).size, 3 * 4 * 8 * 8);
    assert.deepEqual(
      order.slice(0, 3).map(({ colour, t, y, x }) => [colour, t, y, x]),
      [
        [0, 0, 0, 0],
        [1, 0, 0, 0],
        [2, 0, 0, 0],
      ],
    );
  });

  it("never changes: latents in checkpoints depend on it", () => {
    const text = coefficientOrder([2, 4, 4])
      .slice(0, 16)
      .map(({ colour, t, y, x }) => `${colour}${t}${y}${x}`)
      .join(" ");
    assert.equal(text, "0000 1000 2000 0100 0001 0010 1100 2100 1001 1010 2001 2010 0101 0110 0002 0003");
  });
});

describe("WaveletCodec", () => {
  it("gives back every byte of a picture when it has room for all coefficients", () => {
    for (const [stride, channels] of [
      [[2, 4, 4], 48],
      [[4, 2, 4], 24],
      [[1, 8, 8], 192],
    ] as const) {
      const codec = new WaveletCodec(settings(stride, channels));
      const picture = noise(1, 16, 24);
      const shape = codec.latentShape(picture);
      assert.deepEqual(shape, { channels, t: 1, y: 16 / stride[1], x: 24 / stride[2] });
      assert.deepEqual(codec.decode(codec.encode(picture), shape).data, picture.data);
    }
  });

  it("gives back every byte of a clip when nothing is cut off", () => {
    const codec = new WaveletCodec(settings([4, 2, 2], 48));
    const clip = noise(9, 8, 8);
    const shape = codec.latentShape(clip);
    assert.equal(shape.t, 3);
    assert.deepEqual(codec.decode(codec.encode(clip), shape).data, clip.data);
  });

  it("keeps all energy: latents of pixels from -1 to 1 have the pixels' sum of squares", () => {
    const clip = noise(5, 8, 8);
    const latents = new WaveletCodec(settings([4, 4, 4], 192)).encode(clip);
    const pixels = Float64Array.from(clip.data, (value) => value / 127.5 - 1);
    const ratio = dot(latents, latents) / dot(pixels, pixels);
    assert.ok(Math.abs(ratio - 1) < 1e-6, String(ratio)); // float32 latents
  });

  for (const [stride, decibel] of [
    [[2, 4, 4], 34.5],
    [[4, 4, 4], 30],
  ] as const) {
    it(`keeps moving shapes at ${decibel} dB with stride ${stride.join("x")} and 48 channels, and first frames exactly`, () => {
      const codec = new WaveletCodec(settings(stride, 48));
      let square = 0;
      let count = 0;
      for (let number = 0; number < 24; number++) {
        const clip = renderScene(makeScene({ kind: "moving", number, seed: 3, size: 32, frames: 9 }));
        const back = codec.decode(codec.encode(clip), codec.latentShape(clip));
        const frameBytes = 32 * 32 * 3;
        assert.deepEqual(back.data.subarray(0, frameBytes), clip.data.subarray(0, frameBytes));
        for (let i = frameBytes; i < clip.data.length; i++, count++)
          square += (clip.data[i]! - back.data[i]!) ** 2;
      }
      const found = 10 * Math.log10(255 ** 2 / (square / count));
      assert.ok(found > decibel, `${found} dB`);
    });
  }

  it("puts a channel to the same use in first and later frames: a still clip has equal means", () => {
    const codec = new WaveletCodec(settings([2, 4, 4], 48));
    const picture = renderScene(makeScene({ kind: "single", number: 5, seed: 1, size: 32, frames: 1 }));
    const still: RgbClip = {
      ...picture,
      frames: 3,
      data: Buffer.concat([picture.data, picture.data, picture.data]),
    };
    const latents = codec.encode(still);
    const plane = 64;
    let kept = 0;
    for (let channel = 0; channel < 48; channel++) {
      for (let i = 0; i < plane; i++) {
        const first = latents[channel * 2 * plane + i]!;
        const later = latents[(channel * 2 + 1) * plane + i]!;
        // a mean over two frames carries the root of two, a difference is 0 without motion
        const twin = Math.abs(later - first * Math.SQRT2) < 1e-5;
        assert.ok(twin || Math.abs(later) < 1e-6, `channel ${channel}: ${first} and ${later}`);
        if (twin && Math.abs(first) > 0.01) kept += 1;
      }
    }
    assert.ok(kept > 100, String(kept));
  });

  it("refuses sizes that are not whole blocks or groups", () => {
    const codec = new WaveletCodec(settings([4, 4, 4], 48));
    for (const size of [
      { frames: 4, height: 8, width: 8 },
      { frames: 1, height: 6, width: 8 },
      { frames: 0, height: 8, width: 8 },
    ]) {
      assert.throws(() => codec.latentShape(size), RangeError);
    }
    assert.throws(() => new WaveletCodec(settings([3, 4, 4], 48)), RangeError);
  });
});

function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}
