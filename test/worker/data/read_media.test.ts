import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, it } from "node:test";
import sharp from "sharp";
import { croppedSize, scaledSize } from "../../../worker/data/media_fit.js";
import {
  type MediaLimits,
  mediaKind,
  parsePpmFrames,
  readClips,
  readMedia,
} from "../../../worker/data/read_media.js";
import type { RgbClip } from "../../../worker/data/rgb_clip.js";
import { runFfmpeg } from "../../../worker/data/run_ffmpeg.js";
import { makeScene, renderScene } from "../../../worker/data/shapes/scene.js";
import { writeMovingClip, writePicture } from "./small_data_set.js";
import { temporaryFolder } from "./temporary.js";

const LIMITS: MediaLimits = { maxPixels: 1024, unitX: 8, unitY: 8, maxFrames: 9, fps: 8, strideT: 2 };

async function read(path: string, limits = LIMITS): Promise<RgbClip> {
  const result = await readMedia(path, mediaKind(path)!, limits);
  return "clip" in result ? result.clip : assert.fail(result.reason);
}

async function reason(path: string, limits = LIMITS): Promise<string> {
  const result = await readMedia(path, mediaKind(path)!, limits);
  return "reason" in result ? result.reason : assert.fail("it was read");
}

describe("readMedia()", () => {
  it("reads PNG exactly, JPEG and WebP nearly, whatever channels they have", async () => {
    const folder = await temporaryFolder();
    const scene = renderScene(makeScene({ kind: "single", number: 3, seed: 1, size: 32, frames: 1 }));
    await writePicture(join(folder, "a.png"), { number: 3 });
    assert.deepEqual((await read(join(folder, "a.png"))).data, scene.data);
    for (const name of ["a.jpg", "a.JPEG", "a.webp"]) {
      const raw = sharp(scene.data, { raw: { width: 32, height: 32, channels: 3 } });
      await writeFile(
        join(folder, name),
        await (name.endsWith("webp")
          ? raw.webp({ quality: 95 })
          : raw.jpeg({ quality: 95, chromaSubsampling: "4:4:4" })
        ).toBuffer(),
      );
      const found = await read(join(folder, name));
      assert.equal(found.data.length, scene.data.length);
      const apart =
        found.data.reduce((sum, value, i) => sum + Math.abs(value - scene.data[i]!), 0) / scene.data.length;
      assert.ok(apart < 4, `${name}: ${apart}`);
    }
    const grey = sharp(Buffer.alloc(256, 77), { raw: { width: 16, height: 16, channels: 1 } }).png({
      palette: false,
    });
    await grey.toColourspace("b-w").toFile(join(folder, "grey.png"));
    assert.deepEqual(new Set((await read(join(folder, "grey.png"))).data), new Set([77]));
    await sharp({
      create: { width: 16, height: 16, channels: 4, background: { r: 255, g: 0, b: 0, alpha: 0 } },
    }).toFile(join(folder, "clear.png"));
    assert.deepEqual(new Set((await read(join(folder, "clear.png"))).data), new Set([255])); // transparent shows white
  });

  it("scales a large picture down and turns it as its EXIF says", async () => {
    const folder = await temporaryFolder();
    const left = Buffer.from(
      Array.from({ length: 120 * 80 }, (_, i) => (i % 120 < 60 ? [255, 0, 0] : [0, 0, 255])).flat(),
    );
    await sharp(left, { raw: { width: 120, height: 80, channels: 3 } })
      .withMetadata({ orientation: 6 })
      .png()
      .toFile(join(folder, "turned.png"));
    const found = await read(join(folder, "turned.png"));
    assert.deepEqual([found.width, found.height], [24, 32]); // upright now: 80x120
    const at = (row: number) => [...found.data.subarray((row * 24 + 12) * 3, (row * 24 + 12) * 3 + 3)];
    assert.deepEqual(
      [at(2), at(29)],
      [
        [255, 0, 0],
        [0, 0, 255],
      ],
    ); // its left side is up
  });

  it("resamples clips to the frame rate and cuts them to whole groups", async () => {
    const folder = await temporaryFolder();
    const path = join(folder, "a.mp4");
    await writeMovingClip(path, { number: 1, frames: 9 });
    const clip = await read(path);
    assert.deepEqual([clip.frames, clip.height, clip.width], [9, 32, 32]);
    const scene = renderScene(makeScene({ kind: "moving", number: 1, seed: 1, size: 32, frames: 9 }));
    const apart =
      clip.data.reduce((sum, value, i) => sum + Math.abs(value - scene.data[i]!), 0) / scene.data.length;
    assert.ok(apart < 3, String(apart));
    assert.equal((await read(path, { ...LIMITS, strideT: 4, maxFrames: 8 })).frames, 5);
    assert.equal((await read(path, { ...LIMITS, fps: 4 })).frames, 5);
    assert.equal((await read(path, { ...LIMITS, maxFrames: 1 })).frames, 1);
  });

  it("reads WebM, and scales clips in ffmpeg to the size that scaledSize() says", async () => {
    const folder = await temporaryFolder();
    for (const [width, height] of [
      [100, 60],
      [33, 70],
      [300, 18],
    ] as const) {
      const path = join(folder, `${width}.webm`);
      await runFfmpeg(
        ["-f", "lavfi", "-i", `color=red:s=${width}x${height}:r=8:d=0.4`, "-c:v", "libvpx", "-y", path],
        { input: null, outputs: 0, outputBytesMax: 0 },
      );
      const clip = await read(path);
      const fitted = croppedSize(scaledSize({ width, height }, LIMITS), LIMITS)!;
      assert.deepEqual([clip.width, clip.height, clip.frames], [fitted.width, fitted.height, 3]);
      assert.ok(clip.data[0]! > 200 && clip.data[1]! < 40);
    }
  });

  it("says why a file cannot be read", async () => {
    const folder = await temporaryFolder();
    const write = async (name: string, bytes: string | Buffer) => {
      await writeFile(join(folder, name), bytes);
      return join(folder, name);
    };
    assert.match(await reason(await write("text.png", "this is no picture")), /unsupported image format/);
    assert.match(
      await reason(await write("text.mp4", "this is no clip")),
      /moov atom not found|Invalid data/,
    );
    const playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.mp4\n#EXT-X-ENDLIST\n";
    assert.match(await reason(await write("playlist.mp4", playlist)), /moov atom not found|Invalid data/);
    assert.match(await reason(await write("empty.webm", "")), /Invalid data|End of file|EBML/i);
    const whole = await sharp({
      create: {
        width: 64,
        height: 64,
        channels: 3,
        background: "#123456",
        noise: { type: "gaussian", mean: 99, sigma: 40 },
      },
    })
      .png()
      .toBuffer();
    assert.notEqual(await reason(await write("cut.png", whole.subarray(0, whole.length / 2))), "");
    await sharp({ create: { width: 4, height: 4, channels: 3, background: "#123456" } }).toFile(
      join(folder, "tiny.png"),
    );
    assert.equal(await reason(join(folder, "tiny.png")), "4x4 pixels are smaller than one patch of 8x8");
    assert.match(await reason(join(folder, "absent.png")), /ENOENT/);
  });
});

describe("readClips()", () => {
  it("reads several clips at once, also when one among them is broken", async () => {
    const folder = await temporaryFolder();
    const paths = ["a.mp4", "b.mp4", "c.mp4"].map((name) => join(folder, name));
    await writeMovingClip(paths[0]!, { number: 1, frames: 5 });
    await writeFile(paths[1]!, "broken");
    await writeMovingClip(paths[2]!, { number: 2, frames: 3 });
    const found = await readClips(paths, LIMITS);
    assert.deepEqual(
      found.map((result) => ("clip" in result ? result.clip.frames : "broken")),
      [5, "broken", 3],
    );
    const alone = await readClips([paths[0]!, paths[2]!], LIMITS);
    assert.deepEqual(alone, [found[0], found[2]]);
  });
});

describe("parsePpmFrames()", () => {
  const frame = (width: number, height: number, value: number) =>
    Buffer.concat([Buffer.from(`P6\n${width} ${height}\n255\n`), Buffer.alloc(width * height * 3, value)]);

  it("reads frames one after another", () => {
    const clip = parsePpmFrames(Buffer.concat([frame(2, 1, 7), frame(2, 1, 9)]));
    assert.deepEqual(
      [clip.frames, clip.width, clip.height, [...clip.data]],
      [2, 2, 1, [7, 7, 7, 7, 7, 7, 9, 9, 9, 9, 9, 9]],
    );
  });

  it("refuses what is no frame, is cut short or changes size", () => {
    assert.throws(() => parsePpmFrames(Buffer.alloc(0)), /no frame/);
    assert.throws(() => parsePpmFrames(Buffer.from("P5 1 1 255 x")), /frame 0 is not a picture/);
    assert.throws(() => parsePpmFrames(frame(2, 2, 1).subarray(0, 20)), /frame 0 is cut short/);
    assert.throws(
      () => parsePpmFrames(Buffer.concat([frame(2, 1, 7), frame(1, 2, 9)])),
      /frame 1 has another size/,
    );
  });
});

describe("runFfmpeg()", () => {
  it("ends a command that hangs or writes without end", async () => {
    const endless = ["-f", "lavfi", "-i", "color=red:s=64x64", "-f", "rawvideo", "pipe:3"];
    await assert.rejects(
      runFfmpeg(endless, { input: null, outputs: 1, outputBytesMax: 1 << 20 }),
      /wrote more than 1048576 bytes/,
    );
    const waiting = ["-re", "-f", "lavfi", "-i", "color=red:s=16x16:r=1", "-f", "null", "-"];
    await assert.rejects(
      runFfmpeg(waiting, { input: null, outputs: 0, outputBytesMax: 0, timeoutMs: 200 }),
      /took longer than 0.2 s/,
    );
  });

  it("says what is missing without ffmpeg", async () => {
    const path = process.env.PATH;
    process.env.PATH = "/nowhere";
    try {
      await assert.rejects(runFfmpeg(["-version"], { input: null, outputs: 0, outputBytesMax: 0 }), {
        code: "NOT_FOUND",
        message: /install the package ffmpeg/,
      });
    } finally {
      process.env.PATH = path;
    }
  });
});
