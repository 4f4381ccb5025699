import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { PhiloxRandom } from "../../../job/philox.js";
import type { RgbClip } from "../../../worker/data/rgb_clip.js";
import { makeScene, renderScene, type SceneKind } from "../../../worker/data/shapes/scene.js";
import {
  COLOUR_NAMES,
  COLOURS,
  type ColourName,
  SHAPE_NAMES,
  type ShapeName,
} from "../../../worker/data/shapes/vocabulary.js";
import { colourName, judgePicture, recognise } from "../../../worker/media/judge_picture.js";

const TEST_STREAM = 96;

function drawn(kind: SceneKind, number: number): { picture: RgbClip; colour: ColourName; shape: ShapeName } {
  const scene = makeScene({ kind, number, seed: 21, size: 32, frames: 1 });
  const [, colour, shape] = /(\w+) (circle|square|triangle|cross)/.exec(scene.caption) as unknown as [
    string,
    ColourName,
    ShapeName,
  ];
  return { picture: renderScene(scene), colour, shape };
}

function spoiled(picture: RgbClip, change: (value: number, i: number) => number): RgbClip {
  return {
    ...picture,
    data: Uint8Array.from(picture.data, (value, i) =>
      Math.max(0, Math.min(255, Math.round(change(value, i)))),
    ),
  };
}

describe("judgePicture()", () => {
  it("is right about at least 98 of 100 clean pictures, and refuses every other colour and shape", () => {
    const count = 96;
    let right = 0;
    for (let number = 0; number < count; number++) {
      const { picture, colour, shape } = drawn("single", number);
      const verdict = judgePicture(picture, { colour, shape });
      if (verdict.colourRight && verdict.shapeRight) right += 1;
      const otherColour = COLOUR_NAMES[(COLOUR_NAMES.indexOf(colour) + 1 + (number % 5)) % 6]!;
      const otherShape = SHAPE_NAMES[(SHAPE_NAMES.indexOf(shape) + 1 + (number % 3)) % 4]!;
      const wrong = judgePicture(picture, { colour: otherColour, shape: otherShape });
      assert.deepEqual([wrong.colourRight, wrong.shapeRight], [false, false], wrong.reason);
    }
    assert.ok(right >= 0.98 * count, `${right} of ${count}`);
  });

  it("still recognises noisy and blurred figures", () => {
    const random = new PhiloxRandom(1, TEST_STREAM);
    let right = 0;
    for (let number = 0; number < 24; number++) {
      const { picture, colour, shape } = drawn("single", number);
      const blurred = spoiled(picture, (value, i) => {
        const near = [-96, -3, 3, 96].map((step) => picture.data[i + step] ?? value);
        return (value * 2 + near.reduce((a, b) => a + b, 0)) / 6 + random.between(-20, 20);
      });
      const verdict = judgePicture(blurred, { colour, shape });
      if (verdict.colourRight && verdict.shapeRight) right += 1;
    }
    assert.ok(right >= 22, `${right} of 24`);
  });

  it("sees nothing in noise, plain colour, shading and stripes", () => {
    const random = new PhiloxRandom(2, TEST_STREAM);
    const blank: RgbClip = { frames: 1, height: 32, width: 32, data: new Uint8Array(3072).fill(90) };
    const pictures = {
      noise: spoiled(blank, () => random.between(0, 256)),
      plain: blank,
      shading: spoiled(blank, (_, i) => 60 + i / 80),
      stripes: spoiled(blank, (_, i) => (Math.floor(i / 96) % 4 < 2 ? 230 : 40)),
      speck: spoiled(blank, (value, i) => (i >= 1500 && i < 1512 ? 250 : value)),
    };
    for (const [name, picture] of Object.entries(pictures)) {
      const seen = recognise(picture);
      assert.deepEqual([seen.colourFound, seen.shapeFound], [null, null], `${name}: ${seen.reason}`);
      assert.notEqual(seen.reason, "");
    }
  });

  it("does not take two shapes, a half shape or a shape without colour for the whole", () => {
    const pair = recognise(drawn("pair", 7).picture);
    assert.equal(pair.shapeFound, null);
    assert.match(pair.reason, /scattered/);
    const { picture } = drawn("single", 4);
    const light = spoiled(picture, (_, i) => {
      const at = i - (i % 3);
      return (picture.data[at]! + picture.data[at + 1]! + picture.data[at + 2]!) / 3;
    });
    assert.equal(recognise(light).colourFound, null);
    const circle = Array.from({ length: 24 }, (_, i) => drawn("single", i)).find(
      ({ shape }) => shape === "circle",
    )!.picture;
    const thin = spoiled(circle, (value, i) => (Math.floor(i / 3) % 32 > 15 ? circle.data[i % 3]! : value));
    assert.notEqual(recognise(thin).shapeFound, "circle");
  });
});

describe("colourName()", () => {
  it("names the colours of the data set, lighter and darker, and no grey, black or in-between", () => {
    for (const name of COLOUR_NAMES) {
      const [r, g, b] = COLOURS[name];
      for (const light of [0.7, 1, 1.06]) assert.equal(colourName(r * light, g * light, b * light), name);
    }
    for (const [r, g, b] of [
      [128, 128, 128],
      [255, 255, 255],
      [20, 0, 0],
      [200, 190, 195],
    ] as const)
      assert.equal(colourName(r, g, b), null);
    assert.equal(colourName(255, 0, 144), null); // pink: 33 degrees from red, 46 from purple
  });
});
