import assert from "node:assert/strict";
import { readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, it } from "node:test";
import sharp from "sharp";
import { readMedia } from "../../../worker/data/read_media.js";
import { makeScene, renderScene } from "../../../worker/data/shapes/scene.js";
import { fitText, textSvg, textWidth, wrapText } from "../../../worker/media/stroke_font.js";
import { writeClip } from "../../../worker/media/write_clip.js";
import { lossCurveSvg, niceTicks, smooth, writeLossCurve } from "../../../worker/media/write_loss_curve.js";
import { picturePng, writeSheet } from "../../../worker/media/write_sheet.js";
import { temporaryFolder } from "../data/temporary.js";

const picture = renderScene(makeScene({ kind: "single", number: 0, seed: 1, size: 32, frames: 1 }));
const clip = renderScene(makeScene({ kind: "moving", number: 0, seed: 1, size: 32, frames: 9 }));

async function pixels(path: string) {
  const { data, info } = await sharp(path).raw().toBuffer({ resolveWithObject: true });
  return {
    width: info.width,
    height: info.height,
    at: (x: number, y: number) => [
      ...data.subarray((y * info.width + x) * info.channels, (y * info.width + x) * info.channels + 3),
    ],
  };
}

describe("picturePng()", () => {
  it("is the picture alone, pixel by pixel", async () => {
    const { data, info } = await sharp(await picturePng(picture))
      .raw()
      .toBuffer({ resolveWithObject: true });
    assert.deepEqual([info.width, info.height, info.channels], [32, 32, 3]);
    assert.ok(data.equals(picture.data));
  });
});

describe("writeSheet()", () => {
  it("shows every tile enlarged by whole pixels, with a mark and a label below", async () => {
    const path = join(await temporaryFolder(), "deep", "sheet.png");
    await writeSheet(path, [
      { clip: picture, caption: "a red circle", mark: "right" },
      { clip: picture, caption: "unmarked" },
      { clip, caption: "a clip" },
    ]);
    const sheet = await pixels(path);
    const pixel = (x: number, y: number) => [
      ...picture.data.subarray((y * 32 + x) * 3, (y * 32 + x) * 3 + 3),
    ];
    for (const [x, y] of [
      [3, 4],
      [16, 16],
      [31, 31],
    ] as const)
      assert.deepEqual(sheet.at(16 + x * 4 + 1, 16 + y * 4 + 2), pixel(x, y));
    assert.deepEqual(sheet.at(14, 60), [0x2e, 0x9e, 0x5b]);
    assert.deepEqual(sheet.at(16 + 128 + 8, 60), [255, 255, 255]);
    const inked = (top: number, height: number) => {
      let count = 0;
      for (let y = top; y < top + height; y++)
        for (let x = 16; x < 140; x++) if (sheet.at(x, y)[0]! < 128) count += 1;
      return count;
    };
    assert.ok(inked(146, 15) > 60);
    // the clip is wider than what is left of the first row: its frames stand side by side in the next
    const rowTop = 16 + 128 + 2 * 15 + 12;
    const frameAt = (frame: number, x: number, y: number) =>
      sheet.at(16 + frame * 130 + x * 4 + 1, rowTop + y * 4 + 1);
    for (const frame of [0, 4, 8]) {
      const at = ((frame * 32 + 16) * 32 + 16) * 3;
      assert.deepEqual(frameAt(frame, 16, 16), [...clip.data.subarray(at, at + 3)]);
    }
    assert.ok(sheet.width > 9 * 128);
  });

  it("writes an empty sheet for no tiles", async () => {
    const path = join(await temporaryFolder(), "sheet.png");
    await writeSheet(path, [], { title: "nothing yet" });
    assert.ok((await pixels(path)).width >= 200);
  });

  it("leaves nothing behind when it cannot write", async () => {
    const folder = await temporaryFolder();
    await writeFile(join(folder, "file"), "");
    await assert.rejects(writeSheet(join(folder, "file", "sheet.png"), [{ clip: picture, caption: "" }]), {
      code: "STORAGE_FAILED",
    });
    assert.deepEqual(await readdir(folder), ["file"]);
  });
});

describe("writeClip()", () => {
  it("writes an MP4 that reads back frame for frame", async () => {
    const folder = await temporaryFolder();
    const path = join(folder, "out", "clip.mp4");
    await writeClip(path, clip, { fps: 8 });
    assert.deepEqual(await readdir(join(folder, "out")), ["clip.mp4"]);
    const result = await readMedia(path, "video", {
      maxPixels: 1024,
      unitX: 8,
      unitY: 8,
      maxFrames: 99,
      fps: 8,
      strideT: 1,
    });
    const back = "clip" in result ? result.clip : assert.fail(result.reason);
    assert.deepEqual([back.frames, back.width, back.height], [9, 32, 32]);
    const apart =
      back.data.reduce((sum, value, i) => sum + Math.abs(value - clip.data[i]!), 0) / clip.data.length;
    assert.ok(apart < 4, String(apart));
  });

  it("gives odd sizes the even sides that players want", async () => {
    const path = join(await temporaryFolder(), "odd.mp4");
    await writeClip(
      path,
      { frames: 1, height: 255, width: 3, data: new Uint8Array(255 * 9).fill(99) },
      { fps: 8 },
    );
    const result = await readMedia(path, "video", {
      maxPixels: 1 << 20,
      unitX: 1,
      unitY: 1,
      maxFrames: 1,
      fps: 8,
      strideT: 1,
    });
    assert.ok("clip" in result && result.clip.width === 4 && result.clip.height === 256);
  });
});

describe("writeLossCurve()", () => {
  it("draws falling losses from the upper left to the lower right", async () => {
    const path = join(await temporaryFolder(), "loss.png");
    const points = Array.from({ length: 200 }, (_, i) => ({
      step: i + 1,
      loss: 2 * Math.exp(-i / 40) + 0.2,
    }));
    await writeLossCurve(path, points, { title: "Loss", marks: [{ step: 100, label: "rank 2 killed" }] });
    const chart = await pixels(path);
    assert.deepEqual([chart.width, chart.height], [960, 440]);
    const blueRows = (x: number) =>
      Array.from({ length: 440 }, (_, y) => y).filter((y) => chart.at(x, y)[2]! - chart.at(x, y)[0]! > 80);
    const rows = [150, 300, 800].map((x) => blueRows(x)[0]!);
    assert.ok(rows[0]! < rows[1]! && rows[1]! < rows[2]!, String(rows));
  });

  it("draws a chart without points, with one, and with losses that are no numbers", () => {
    for (const points of [
      [],
      [{ step: 1, loss: 1 }],
      [
        { step: 1, loss: 1 },
        { step: 2, loss: Number.NaN },
        { step: 3, loss: Number.POSITIVE_INFINITY },
        { step: 4, loss: 0.5 },
      ],
    ]) {
      const svg = lossCurveSvg(points);
      assert.doesNotMatch(svg, /NaN|Infinity|undefined/);
    }
  });
});

describe("niceTicks()", () => {
  it("encloses the range with round steps", () => {
    assert.deepEqual(niceTicks(0, 600, 8).ticks, [0, 100, 200, 300, 400, 500, 600]);
    assert.deepEqual(
      niceTicks(0.31, 1.87, 6).ticks.map((v) => v.toFixed(1)),
      ["0.0", "0.5", "1.0", "1.5", "2.0"],
    );
    assert.equal(niceTicks(0.001, 0.004, 6).digits, 4);
    assert.equal(niceTicks(0, 1, 8).end, 1);
  });
});

describe("smooth()", () => {
  it("keeps straight lines, and evens out what jumps", () => {
    const flat = smooth(Array.from({ length: 300 }, (_, i) => ({ step: i, loss: i % 2 })));
    for (const { loss } of flat.slice(20, -20)) assert.ok(Math.abs(loss - 0.5) < 0.01);
    const line = smooth(Array.from({ length: 300 }, (_, i) => ({ step: i, loss: 3 * i })));
    assert.ok(Math.abs(line[150]!.loss - 450) < 1e-9);
  });
});

describe("stroke font", () => {
  it("has a glyph for every printable letter that a caption may hold", () => {
    const box = textSvg("é", 0, 0, { size: 10, colour: "#000000" });
    const boxPath = /d="([^"]+)"/.exec(box)![1]!;
    for (let code = 33; code < 127; code++) {
      const character = String.fromCharCode(code);
      if ("$@^`{|}~".includes(character)) continue;
      assert.ok(!textSvg(character, 0, 0, { size: 10, colour: "#000000" }).includes(boxPath), character);
    }
  });

  it("measures, cuts and wraps to a width", () => {
    assert.equal(textWidth("", 10), 0);
    assert.ok(textWidth("wide words", 10) > textWidth("ill", 10));
    const cut = fitText("a red circle left of a blue square", 10, 80);
    assert.ok(cut.endsWith("...") && textWidth(cut, 10) <= 80);
    assert.deepEqual(wrapText("a red circle left of a blue square", { size: 10, width: 400, linesMax: 2 }), [
      "a red circle left of a blue square",
    ]);
    const lines = wrapText("a red circle left of a blue square and more", {
      size: 10,
      width: 110,
      linesMax: 2,
    });
    assert.equal(lines.length, 2);
    assert.ok(lines.every((line) => textWidth(line, 10) <= 110));
  });
});
