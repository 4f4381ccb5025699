import assert from "node:assert/strict";
import { readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, it } from "node:test";
import { modelConfig } from "../../../job/job.js";
import { buildIndex } from "../../../worker/data/build_index.js";
import { makeScene, renderScene } from "../../../worker/data/shapes/scene.js";
import { writeShapes } from "../../../worker/data/shapes/write_shapes.js";
import { smallJob } from "./small_data_set.js";
import { temporaryFolder } from "./temporary.js";

const SMALL = { singles: 5, pairs: 2, clips: 3 };

describe("makeScene()", () => {
  it("repeats for a seed, and deals every colour and shape equally often", () => {
    const captions = Array.from(
      { length: 48 },
      (_, number) => makeScene({ kind: "single", number, seed: 1, size: 32, frames: 1 }).caption,
    );
    const plain = captions.map((caption) => caption.replace(/small |large /, ""));
    assert.equal(new Set(plain).size, 24);
    for (const caption of new Set(plain)) assert.equal(plain.filter((other) => other === caption).length, 2);
    assert.deepEqual(
      makeScene({ kind: "pair", number: 3, seed: 1, size: 32, frames: 1 }),
      makeScene({ kind: "pair", number: 3, seed: 1, size: 32, frames: 1 }),
    );
    assert.notDeepEqual(
      makeScene({ kind: "pair", number: 3, seed: 2, size: 32, frames: 1 }),
      makeScene({ kind: "pair", number: 3, seed: 1, size: 32, frames: 1 }),
    );
  });

  it("places figures as the caption says, inside the picture, through the whole clip", () => {
    for (const kind of ["single", "pair", "moving"] as const) {
      for (let number = 0; number < 200; number++) {
        const { caption, figures } = makeScene({ kind, number, seed: 1, size: 32, frames: 9 });
        for (const { x, y, radius, velocityX, velocityY } of figures) {
          for (const frame of [0, 8]) {
            for (const centre of [x + velocityX * frame, y + velocityY * frame])
              assert.ok(centre > radius * 0.8 && centre < 32 - radius * 0.8, caption);
          }
        }
        const [one, other] = figures as [(typeof figures)[0], (typeof figures)[0] | undefined];
        if (/left of/.test(caption)) assert.ok(one.x < other!.x);
        if (/right of/.test(caption)) assert.ok(one.x > other!.x);
        if (/above/.test(caption)) assert.ok(one.y < other!.y);
        if (/below/.test(caption)) assert.ok(one.y > other!.y);
        if (/moving right/.test(caption)) assert.ok(one.velocityX > 0.5 && one.velocityY === 0);
        if (/moving up/.test(caption)) assert.ok(one.velocityY < -0.5 && one.velocityX === 0);
      }
    }
  });
});

describe("writeShapes()", () => {
  it("writes files that the loader reads back as they were drawn", async () => {
    const directory = join(await temporaryFolder(), "shapes");
    const progress: number[] = [];
    const done = await writeShapes({
      directory,
      ...SMALL,
      onProgress: ({ done, total }) => progress.push(done / total),
    });
    assert.deepEqual(done, { directory, images: 7, clips: 3, written: true });
    assert.equal(progress.at(-1), 1);
    const job = smallJob(directory);
    const { index } = await buildIndex({ job, model: modelConfig(job) });
    assert.deepEqual(index.skipped, []);
    const captions = new Map(index.samples.map(({ name, caption }) => [name, caption]));
    for (let number = 0; number < 3; number++) {
      const sample = index.samples.find(({ name }) => name === `clips/moving-0000${number}.mp4`)!;
      assert.deepEqual([sample.frames, sample.width, sample.height], [9, 32, 32]);
      assert.equal(
        sample.caption,
        makeScene({ kind: "moving", number, seed: 1, size: 32, frames: 9 }).caption,
      );
    }
    assert.equal(
      captions.get("images/pair-00001.png"),
      makeScene({ kind: "pair", number: 1, seed: 1, size: 32, frames: 1 }).caption,
    );
    const again = await writeShapes({ directory, ...SMALL });
    assert.equal(again.written, false);
  });

  it("leaves other people's folders and sets of other settings alone, and finishes one that was cut short", async () => {
    const directory = await temporaryFolder();
    const none = { singles: 2, pairs: 0, clips: 0 };
    await writeFile(join(directory, "thesis.txt"), "words");
    await assert.rejects(writeShapes({ directory, ...none }), {
      code: "CONFLICT",
      message: /is not empty \(thesis\.txt\), name another folder/,
    });
    assert.equal(await readFile(join(directory, "thesis.txt"), "utf8"), "words");
    await rm(join(directory, "thesis.txt"));
    await writeShapes({ directory, ...none });
    await assert.rejects(writeShapes({ directory, ...none, seed: 2 }), {
      code: "CONFLICT",
      message: /of other settings/,
    });
    await rm(join(directory, "shapes.json"));
    await rm(join(directory, "images", "single-00001.png"));
    assert.equal((await writeShapes({ directory, ...none })).written, true);
    assert.equal((await readdir(join(directory, "images"))).length, 4);
  });

  it("refuses odd and tiny sizes", async () => {
    const directory = await temporaryFolder();
    for (const size of [31, 8])
      await assert.rejects(writeShapes({ directory, ...SMALL, size }), { code: "ARGUMENT_INVALID" });
  });
});

describe("renderScene()", () => {
  it("draws soft edges, and moves by the speed", () => {
    const scene = makeScene({ kind: "moving", number: 0, seed: 1, size: 32, frames: 9 });
    const clip = renderScene(scene);
    assert.equal(clip.data.length, 9 * 32 * 32 * 3);
    const redness = (frame: number) => {
      let sum = 0;
      let weighted = 0;
      for (let i = 0; i < 1024; i++) {
        const at = (frame * 1024 + i) * 3;
        const red = Math.max(0, clip.data[at]! - clip.data[at + 1]!);
        sum += red;
        weighted += red * ((i % 32) + 0.5);
      }
      return weighted / sum;
    };
    assert.ok(Math.abs(redness(8) - redness(0) - 8 * scene.figures[0]!.velocityX) < 0.05);
  });
});
