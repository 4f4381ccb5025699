import assert from "node:assert/strict";
import { fork } from "node:child_process";
import { chmod, cp, mkdir, readdir, rm, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import type { Job } from "../../../job/job.js";
import { modelConfig } from "../../../job/job.js";
import { buildIndex, openIndex } from "../../../worker/data/build_index.js";
import { smallJob, writeMovingClip, writePicture, writeSmallDataSet } from "./small_data_set.js";
import { temporaryFolder } from "./temporary.js";

function optionsOf(job: Job) {
  return { job, model: modelConfig(job) };
}

function build(job: Job) {
  return buildIndex(optionsOf(job));
}

async function smallFolder(): Promise<string> {
  const folder = await temporaryFolder();
  await writeSmallDataSet(folder);
  return folder;
}

describe("buildIndex()", () => {
  it("lists every sample by name with its size, and keeps their latents", async () => {
    const folder = await smallFolder();
    const progress: number[] = [];
    const job = smallJob(folder);
    const { index, built, storePath } = await buildIndex({
      job,
      model: modelConfig(job),
      onProgress: ({ done, total }) => progress.push(done / total),
    });
    assert.ok(built);
    assert.equal(progress.at(-1), 1);
    assert.deepEqual(index.skipped, []);
    assert.deepEqual(
      index.samples.map(({ name, kind, grid }) => `${name} ${kind} ${grid.join("x")}`),
      [
        "clips/0.mp4 video 5x4x4",
        "clips/1.mp4 video 5x4x4",
        ...[0, 1, 2, 3, 4, 5].map((n) => `pictures/${n}.png image 1x4x4`),
      ],
    );
    assert.equal(index.samples[0]!.caption, "a red circle moving right");
    assert.equal((await stat(storePath)).size, (2 * 5 + 6) * 64 * 48 * 4);
    assert.equal((await build(job)).built, false);
  });

  it("gives the same digest and statistics for the same files elsewhere, at other times", async () => {
    const folder = await smallFolder();
    const copy = join(await temporaryFolder(), "copy");
    const first = await build(smallJob(folder));
    await cp(folder, copy, { recursive: true, filter: (path) => !path.endsWith(".goku") });
    const second = await build(smallJob(copy));
    assert.equal(second.index.digest, first.index.digest);
    assert.deepEqual(second.index.codec, first.index.codec);
  });

  it("is built anew when a file, a caption or a setting changes, and only then is the digest another", async () => {
    const folder = await smallFolder();
    const digests = [(await build(smallJob(folder))).index.digest];
    const rebuilt = async () => {
      const { built, index } = await build(smallJob(folder));
      assert.ok(built);
      return index.digest;
    };
    await utimes(join(folder, "pictures/0.png"), 1, 1);
    assert.equal(await rebuilt(), digests[0], "touched, content the same");
    await writeFile(join(folder, "pictures/0.txt"), "a picture");
    digests.push(await rebuilt());
    await writePicture(join(folder, "pictures/0.png"), { number: 9, caption: "a picture" });
    digests.push(await rebuilt());
    await rm(join(folder, "pictures/1.png"));
    digests.push(await rebuilt());
    digests.push((await build(smallJob(folder, { max_frames: 5 }))).index.digest);
    assert.equal(new Set(digests).size, digests.length);
    assert.equal((await build(smallJob(folder))).built, false, "each setting has an index of its own");
    const stores = (await readdir(join(folder, ".goku"))).filter((name) => name.endsWith(".f32"));
    assert.equal(stores.length, 5, "older ones are kept: a run may go on with them");
  });

  it("keeps the indexes that were used last, with their stores", async () => {
    const folder = await temporaryFolder();
    await writePicture(join(folder, "a.png"), { number: 1 });
    const first = await build(smallJob(folder));
    for (let number = 0; number < 9; number++) {
      await writeFile(join(folder, "a.txt"), "a picture".padEnd(10 + number, "!"));
      const { indexPath } = await build(smallJob(folder));
      await utimes(indexPath, 1_000 + number, 1_000 + number);
      const pinned = await openIndex({ ...optionsOf(smallJob(folder)), digest: first.index.digest });
      assert.equal(pinned?.indexPath, first.indexPath);
    }
    const names = await readdir(join(folder, ".goku"));
    assert.equal(names.filter((name) => name.endsWith(".json")).length, 8);
    assert.equal(names.filter((name) => name.endsWith(".f32")).length, 8);
  });

  it("skips, counts and lists what cannot be used", async () => {
    const folder = await temporaryFolder();
    await writePicture(join(folder, "good.png"), { number: 1 });
    await writePicture(join(folder, "listed.png"), { number: 2, caption: null });
    await writePicture(join(folder, "uncaptioned.png"), { number: 3, caption: null });
    await writePicture(join(folder, "blank.png"), { number: 4, caption: "  \n" });
    await writePicture(join(folder, "latin.png"), { number: 4 });
    await writeFile(join(folder, "latin.txt"), Buffer.from([0x61, 0xff]));
    await writeFile(join(folder, "broken.mp4"), "nothing");
    await writeFile(join(folder, "broken.txt"), "a clip");
    await writeFile(join(folder, "notes.md"), "not media");
    await mkdir(join(folder, ".hidden"));
    await writePicture(join(folder, ".hidden", "a.png"), { number: 1 });
    const lines = [
      '{"file": "listed.png", "caption": "from the list"}',
      "{",
      '{"file": "good.png"}',
      '{"file": "../x.png", "caption": "c"}',
      '{"file": "listed.png", "caption": ""}',
    ];
    await writeFile(join(folder, "captions.jsonl"), lines.join("\n"));
    const { index } = await build(smallJob(folder));
    assert.deepEqual(
      index.samples.map(({ name, caption }) => [name, caption]),
      [
        ["good.png", "a small red square"],
        ["listed.png", "from the list"],
      ],
    );
    const reasons = new Map(
      index.skipped.map(({ name, reason }) => [name === "captions.jsonl" ? reason : name, reason]),
    );
    assert.equal(reasons.get("blank.txt"), "the caption is empty");
    assert.equal(reasons.get("latin.txt"), "the caption is not UTF-8 text");
    assert.equal(
      reasons.get("uncaptioned.png"),
      "no caption: want uncaptioned.txt, or a line in captions.jsonl",
    );
    assert.match(reasons.get("broken.mp4") ?? "", /moov atom|Invalid data/);
    for (const line of [
      "line 2 is not JSON",
      'line 3 has no text "file" and "caption"',
      'line 4 names "../x.png", which is not there',
      "line 5 has an empty caption",
    ]) {
      assert.ok(reasons.has(line), line);
    }
    assert.equal(index.skipped.length, 8);
  });

  it("says what to do about an empty folder, unusable files, and no folder", async () => {
    const folder = await temporaryFolder();
    const nothing = {
      code: "DATA_EMPTY",
      message: /it holds no media, put PNG, JPEG, WebP, MP4 or WebM files there/,
    };
    await assert.rejects(build(smallJob(folder)), nothing);
    await writeFile(join(folder, "a.png"), "x");
    await assert.rejects(build(smallJob(folder)), {
      code: "DATA_EMPTY",
      message: /none of 1 files can be used \(a\.png: no caption/,
    });
    await assert.rejects(build(smallJob(join(folder, "absent"))), {
      code: "DATA_EMPTY",
      message: /is not a folder, set data\.media/,
    });
    await writePicture(join(folder, "b.png"), { number: 1 });
    assert.equal((await build(smallJob(folder))).index.samples.length, 1);
  });

  it("keeps no more encoded samples than allowed", async () => {
    const folder = await smallFolder();
    const { index, storePath } = await build(smallJob(folder, { store_mib: 0 }));
    assert.ok(index.samples.every(({ storeOffset }) => storeOffset === -1));
    assert.equal((await stat(storePath)).size, 0);
  });

  it("is built once when several processes ask at once, also over the lock of one that died", async () => {
    const folder = await temporaryFolder();
    for (let number = 0; number < 4; number++) await writePicture(join(folder, `${number}.png`), { number });
    await writeMovingClip(join(folder, "a.webm"), { number: 0, frames: 3, codec: ["-c:v", "libvpx"] });
    const entry = fileURLToPath(new URL("./index_in_child.js", import.meta.url));
    const children = await Promise.all(Array.from({ length: 3 }, () => answerOf(entry, folder)));
    assert.equal(children.filter(({ built }) => built).length, 1, JSON.stringify(children));
    assert.equal(new Set(children.map(({ digest }) => digest)).size, 1);
    // a process id that cannot be alive
    const lock = (await readdir(join(folder, ".goku")))
      .find((name) => name.endsWith(".json"))!
      .replace(/(index-\w+)-.*/, "$1.lock");
    const { hostname } = await import("node:os");
    await writeFile(join(folder, ".goku", lock), JSON.stringify({ pid: 2 ** 30, host: hostname() }));
    await rm(join(folder, "0.png"));
    assert.equal((await build(smallJob(folder))).index.samples.length, 4);
    assert.deepEqual(
      (await readdir(join(folder, ".goku"))).filter(
        (name) => !/^(index-[\w-]+\.json|latents-[\w-]+\.f32)$/.test(name),
      ),
      [],
    );
  });

  it("uses the cache folder where media may not be written", {
    skip: process.getuid?.() === 0 && "the superuser may write anywhere",
  }, async () => {
    const folder = await smallFolder();
    await chmod(folder, 0o555);
    process.env.XDG_CACHE_HOME = await temporaryFolder();
    try {
      assert.ok((await build(smallJob(folder))).indexPath.startsWith(process.env.XDG_CACHE_HOME));
    } finally {
      delete process.env.XDG_CACHE_HOME;
      await chmod(folder, 0o755);
    }
  });
});

function answerOf(entry: string, folder: string): Promise<{ built: boolean; digest: string }> {
  return new Promise((resolve, reject) => {
    const child = fork(entry, [folder]);
    child.once("message", (message) => resolve(message as { built: boolean; digest: string }));
    child.once("exit", (code) => reject(new Error(`the child ended with ${code}`)));
  });
}
