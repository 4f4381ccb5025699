import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it, mock } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import type { Worker } from "node:worker_threads";
import { type Job, modelConfig } from "../../../job/job.js";
import { Packer } from "../../../job/packer.js";
import { decodeLatents } from "../../../worker/data/latents.js";
import type { PackBatch } from "../../../worker/data/pack_batch.js";
import { type MediaPackSource, openPackSource, reportData } from "../../../worker/data/pack_source.js";
import { makeScene, renderScene } from "../../../worker/data/shapes/scene.js";
import { smallJob, writePicture, writeSmallDataSet } from "./small_data_set.js";
import { temporaryFolder } from "./temporary.js";

const CACHE_BYTES = 1 << 20;

async function open(job: Job, cacheBytes = CACHE_BYTES): Promise<MediaPackSource> {
  const source = await openPackSource({ job, model: modelConfig(job), digest: null, cacheBytes });
  after(() => source.close());
  return source;
}

/** Patches of sample i of a pack. */
function patchesOf(batch: PackBatch, i: number): Float32Array {
  const tokens = batch.grids.map(([t, y, x]) => t * y * x);
  const start = tokens.slice(0, i).reduce((sum, count) => sum + count, 0);
  return batch.data.subarray(start * 192, (start + tokens[i]!) * 192);
}

describe("openPackSource()", () => {
  let folder: string;
  after(() => rm(folder, { recursive: true, force: true }));
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "goku-test-"));
    await writeSmallDataSet(folder); // 2 clips of 80 tokens, 6 pictures of 16: 3 packs of at most 112
  });

  it("plans steps from sizes alone: each sample once an epoch, steps run on over its end", async () => {
    const source = await open(smallJob(folder));
    assert.deepEqual(
      [source.report.packsPerEpoch, source.report.images, source.report.videos, source.report.samplesPacked],
      [3, 6, 2, 8],
    );
    const plans = [1, 2, 3].map((step) => source.plan(step));
    assert.deepEqual(
      plans.flatMap(({ packs }) => packs.map(({ packIndex }) => packIndex)),
      [0, 1, 2, 3, 4, 5],
    );
    const samples = plans.flatMap(({ packs }) => packs.map((pack) => pack.samples));
    for (const epoch of [samples.slice(0, 3), samples.slice(3)]) {
      assert.deepEqual(epoch.flat().sort(), [
        "clips/0.mp4",
        "clips/1.mp4",
        ...[0, 1, 2, 3, 4, 5].map((n) => `pictures/${n}.png`),
      ]);
    }
    for (const plan of plans) {
      assert.equal(plan.images + plan.videos, plan.sampleCount);
      assert.equal(plan.tokens, plan.images * 16 + plan.videos * 80);
      assert.equal(plan.fill, plan.tokens / 224);
    }
    assert.ok(plans.some(({ videos }) => videos > 0));
  });

  it("hands out packs whose patches decode to the media, with text and places", async () => {
    const source = await open(smallJob(folder));
    const plan = source.plan(1);
    const batches = [await source.pack(1, 0), await source.pack(1, 1)];
    assert.deepEqual(
      batches.flatMap(({ places }) => places),
      Array.from({ length: plan.sampleCount }, (_, i) => i),
    );
    for (const [index, batch] of batches.entries()) {
      assert.equal(batch.packIndex, index);
      assert.deepEqual(batch.samples, plan.packs[index]!.samples);
      assert.equal(batch.data.length, plan.packs[index]!.tokens * 192);
      assert.equal(batch.text.length, 64 * batch.textLengths.reduce((sum, length) => sum + length, 0));
      assert.ok(batch.weights.every((weight) => weight === 1));
      for (const [i, name] of batch.samples.entries()) {
        const number = Number(/(\d+)\.png/.exec(name)?.[1] ?? Number.NaN);
        if (Number.isNaN(number)) continue;
        const scene = makeScene({ kind: "single", number, seed: 1, size: 32, frames: 1 });
        assert.equal(batch.textLengths[i], scene.caption.split(" ").length + 1); // the end token
        const picture = renderScene(scene);
        assert.deepEqual(decodeLatents(patchesOf(batch, i), batch.grids[i]!, source.codec), picture);
      }
    }
  });

  it("gives the same pack from the store, from memory and decoded anew, in any order", async () => {
    const stored = await open(smallJob(folder));
    const decoded = await open(smallJob(folder, { store_mib: 0 }), 0);
    stored.announce([
      { step: 4, index: 1 },
      { step: 2, index: 0 },
    ]);
    const later = await stored.pack(4, 1);
    const first = await stored.pack(2, 0);
    assert.deepEqual(await stored.pack(2, 0), first, "asked for again");
    assert.deepEqual(await decoded.pack(2, 0), first);
    assert.deepEqual(await decoded.pack(4, 1), later);
    assert.equal(decoded.digest, stored.digest);
  });

  it("hands out an announced pack without a turn of the event loop", async () => {
    const source = await open(smallJob(folder));
    await source.pack(1, 0); // the thread runs
    source.announce([{ step: 1, index: 1 }]);
    let turns = 0;
    const immediate = setImmediate(() => {
      turns += 1;
    });
    // as native code does: blocked, with no turn of the loop between looks at the port
    const found: PackBatch[] = [];
    const deadline = Date.now() + 20_000;
    while (found.length === 0 && Date.now() < deadline) {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
      void source.pack(1, 1).then((batch) => found.push(batch));
      for (let i = 0; i < 100; i++) await Promise.resolve(); // chains of promises finish, the loop does not turn
    }
    assert.equal(turns, 0);
    assert.equal(found[0]?.packIndex, 1, "the pack came only with a turn of the event loop");
    clearImmediate(immediate);
  });

  it("plans and reads each pack once, however many a step has, and drops those that are not wanted any more", async () => {
    const job = smallJob(folder);
    job.train.packs_per_step = 40;
    const source = await open(job);
    const planned = mock.method(Packer.prototype, "pack");
    const packsOf = (step: number) => Array.from({ length: 40 }, (_, index) => ({ step, index }));
    for (const step of [1, 2, 3]) {
      source.announce([...packsOf(step), ...packsOf(step + 1), ...packsOf(step + 2)]);
      await Promise.all(packsOf(step).map(({ index }) => source.pack(step, index)));
      source.plan(step);
    }
    // for the places in three steps, and to read the packs of five
    assert.equal(planned.mock.callCount(), (3 + 5) * 40);
    source.announce(packsOf(1));
    source.announce(packsOf(4));
    assert.equal(planned.mock.callCount(), (3 + 5 + 1 + 1) * 40);
    mock.restoreAll();
  });

  it("goes on after its thread broke: whoever waited is told, and the next pack comes", async () => {
    const source = await open(smallJob(folder));
    const first = await source.pack(1, 0);
    const waiting = source.pack(1, 1);
    const { thread } = (source as unknown as { prefetcher: { thread: { worker: Worker } } }).prefetcher;
    void thread.worker.terminate();
    await assert.rejects(waiting, { code: "INTERNAL", message: /the prefetch thread failed/ });
    assert.deepEqual(await source.pack(1, 0), first);
    await source.close();
  });

  it("keeps the place of a sample that cannot be read any more: zeros with weight 0, and the reason", async () => {
    const own = await temporaryFolder();
    for (let number = 0; number < 4; number++) await writePicture(join(own, `${number}.png`), { number });
    const source = await open(smallJob(own));
    await rm(join(own, "1.png"));
    await writePicture(join(own, "2.png"), { number: 9 });
    await utimes(join(own, "3.png"), 1, 1); // as a copy has another time, and the same bytes
    const plan = source.plan(1);
    const batch = await source.pack(1, 0);
    assert.equal(plan.sampleCount, 8); // two epochs of four
    assert.deepEqual(batch.samples.map((name, i) => [name, batch.weights[i]]).sort(), [
      ["0.png", 1],
      ["1.png", 0],
      ["2.png", 0],
      ["3.png", 1],
    ]);
    for (const [i, weight] of batch.weights.entries())
      assert.equal(
        patchesOf(batch, i).every((value) => value === 0),
        weight === 0,
      );
    assert.deepEqual([...source.unreadable].sort(), [
      ["1.png", "the file is gone since it was indexed"],
      ["2.png", "the file has changed since it was indexed"],
    ]);
  });

  it("leaves out for good, unread, what a vote excluded, also from packs made before, until another state is restored", async () => {
    const own = await temporaryFolder();
    for (let number = 0; number < 4; number++) await writePicture(join(own, `${number}.png`), { number });
    const source = await open(smallJob(own));
    const place = source.plan(1).packs[0]!.samples.indexOf("2.png"); // one epoch a pack
    const weightIn = async (step: number) => {
      const batch = await source.pack(step, 0);
      const i = batch.samples.indexOf("2.png");
      assert.equal(
        patchesOf(batch, i).every((value) => value === 0),
        batch.weights[i] === 0,
      );
      assert.equal(
        batch.weights.reduce((sum, weight) => sum + weight),
        3 + batch.weights[i]!,
        "others are as they were",
      );
      return batch.weights[i];
    };
    assert.equal(await weightIn(1), 1);
    source.announce([{ step: 2, index: 0 }]);
    source.exclude(1, [place]);
    source.exclude(1, [place]);
    assert.equal(await weightIn(2), 0, "read before the vote");
    source.exclude(2, [source.plan(2).packs[0]!.samples.indexOf("2.png")]);
    assert.equal(await weightIn(3), 0, "not read any more");
    assert.equal(source.unreadable.size, 0);
    assert.deepEqual(source.exclusions, [{ sample: 2, step: 1 }]);
    assert.throws(() => source.exclude(3, [0, 1, 2, 3]), {
      code: "DATA_UNREADABLE",
      message: /Cannot train step 3: none of its \d+ samples can be read/,
    });
    source.restoreExclusions([{ sample: 2, step: 1 }]);
    source.announce([{ step: 4, index: 0 }]);
    source.restoreExclusions([]);
    assert.equal(await weightIn(4), 1);
    source.restoreExclusions([{ sample: 2, step: 1 }]);
    assert.equal(await weightIn(1), 0, "computed again as the state says");
  });

  it("goes on with the index that a state pins, whatever has become of the folder", async () => {
    const own = await temporaryFolder();
    for (let number = 0; number < 4; number++) await writePicture(join(own, `${number}.png`), { number });
    const job = smallJob(own);
    const { digest } = await open(job);
    await rm(join(own, "1.png"));
    await writeFile(join(own, "2.txt"), "another caption");
    await writePicture(join(own, "4.png"), { number: 4 });
    assert.notEqual((await open(job)).digest, digest, "a new job takes what is there now");
    const pinned = await openPackSource({ job, model: modelConfig(job), digest, cacheBytes: 0 });
    after(() => pinned.close());
    assert.equal(pinned.digest, digest);
    const batch = await pinned.pack(1, 0);
    assert.deepEqual(batch.samples.map((name, i) => [name, batch.weights[i]]).sort(), [
      ["0.png", 1],
      ["1.png", 0],
      ["2.png", 1],
      ["3.png", 1],
    ]);
    await rm(join(own, ".goku"), { recursive: true });
    const rescanned = await openPackSource({ job, model: modelConfig(job), digest, cacheBytes: 0 });
    after(() => rescanned.close());
    assert.notEqual(rescanned.digest, digest, "nothing is left of the pinned index");
  });

  it("reports what was left out, of files and of samples longer than a pack", async () => {
    const own = await temporaryFolder();
    await writeSmallDataSet(own);
    await writeFile(join(own, "broken.png"), "x");
    const job = { ...smallJob(own), train: { steps: 1, packs_per_step: 1, tokens_per_pack: 64 } };
    const report = await reportData({ job, model: modelConfig(job) });
    assert.deepEqual(
      report.leftOut.map(({ sample, reason }) => `${sample}: ${reason}`),
      [
        "broken.png: no caption: want broken.txt, or a line in captions.jsonl",
        "clips/0.mp4: 80 tokens do not fit a pack of 64",
        "clips/1.mp4: 80 tokens do not fit a pack of 64",
      ],
    );
    assert.equal(report.videoTokens, 0, "clips that fit no pack have no tokens in it");
    const whole = await reportData({ job: smallJob(own), model: modelConfig(job) });
    assert.equal(whole.videoTokens, 2 * 80);
    const none = { ...job, train: { ...job.train, tokens_per_pack: 15 } };
    await assert.rejects(
      openPackSource({ job: none, model: modelConfig(none), digest: null, cacheBytes: 0 }),
      {
        code: "DATA_EMPTY",
        message: /all 8 samples are longer than train\.tokens_per_pack 15, raise it to 16 or more/,
      },
    );
  });

  it("refuses steps and packs that do not exist, and anything once closed", async () => {
    const job = smallJob(folder);
    const source = await openPackSource({ job, model: modelConfig(job), digest: null, cacheBytes: 0 });
    for (const [step, index] of [
      [0, 0],
      [1, 2],
      [1, -1],
      [1.5, 0],
    ] as const)
      await assert.rejects(source.pack(step, index), RangeError);
    const waiting = source.pack(9, 0);
    const refused = assert.rejects(waiting, { code: "INTERNAL", message: /closed/ });
    await source.close();
    await refused;
    await assert.rejects(source.pack(1, 0), /closed/);
  });

  it("lets a process end that drops a source without closing it", async () => {
    const entry = fileURLToPath(new URL("./source_in_child.js", import.meta.url));
    const { stdout } = await promisify(execFile)(process.execPath, [entry, folder], { timeout: 60_000 });
    assert.equal(stdout.trim(), "got 1 pack");
  });
});
