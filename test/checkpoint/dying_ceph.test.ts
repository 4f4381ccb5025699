import assert from "node:assert/strict";
import path from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as elapsed } from "node:timers/promises";
import { listCheckpoints, openCheckpoint } from "../../checkpoint/load.js";
import { stateKey } from "../../checkpoint/state.js";
import { S3Storage } from "../../checkpoint/storage/s3.js";
import { connectS3, type S3Settings } from "../../checkpoint/storage/s3_client.js";
import { verifyCheckpoint } from "../../checkpoint/verify.js";
import { GokuError } from "../../job/errors.js";
import { CEPH_SKIP, CephCluster } from "../support/ceph.js";
import { testSettings } from "../support/s3_settings.js";
import { until } from "../support/until.js";
import {
  layoutOf,
  metaOf,
  modelOf,
  refuses,
  requireState,
  saveAndCommit,
  scratchFolder,
  state,
} from "./fixtures.js";

/** What `dying_s3.test.ts` shows on a double: Ceph itself, killed and stopped in the middle of a save. */

const MIB = 1 << 20;
const PART = 5 * MIB;
const LIMIT = { skip: CEPH_SKIP, timeout: 400_000 };
/** For each message at the OSD, so that a request, which takes many of them, has a middle. */
const SLOW_SECONDS = 0.01;
/** One attempt, for servers that are dead. */
const HASTY = { attemptsMax: 1 };
/** For servers that fall silent. */
const IMPATIENT = { idleMs: 2_000, attemptsMax: 2 };
const scratch = scratchFolder();
const layout = layoutOf("1x2x1");
/** Two writers of 7 MiB each: uploads in two parts. */
const MODEL = modelOf({ "patch_embed.weight": [937, 1000] });

let ceph: CephCluster;
before(async () => {
  if (CEPH_SKIP === false) ceph = await CephCluster.start();
});
after(async () => {
  if (CEPH_SKIP === false) await ceph.stop();
});

/** A kind of request and the end of its key. */
interface Moment {
  request: "CreateMultipartUpload" | "UploadPart" | "CompleteMultipartUpload" | "PutObject";
  key: string;
}

/** Storage under a prefix of its own, and what is done to the server while it works. */
class Run {
  static #count = 0;
  readonly prefix = `dying-${++Run.#count}`;
  readonly storage = this.#open();

  /** Saves a state with a client of that patience. */
  save(step: number, patience: Partial<S3Settings> = {}): Promise<unknown> {
    return saveAndCommit({
      storage: this.#open(patience),
      model: MODEL,
      layout,
      meta: metaOf(state(1, step), layout),
      slots: path.join(scratch, `${step}`),
    });
  }

  write(key: string, data: Uint8Array, patience: Partial<S3Settings>): Promise<unknown> {
    return this.#open(patience).writeFile(key, [data]);
  }

  /** States that a reader finds, newest first; the two newest are read whole. */
  async readable(): Promise<string[]> {
    const entries = await listCheckpoints(this.storage, (found) => assert.fail(found.error.message));
    for (const { state: found } of entries.slice(0, 2))
      await requireState(await openCheckpoint(this.storage, found), MODEL, found);
    return entries.map((entry) => stateKey(entry.state));
  }

  async uploads(): Promise<number> {
    const s3 = await connectS3(testSettings(ceph.endpoint));
    const place = { Bucket: ceph.bucket, Prefix: `${this.prefix}/` };
    return (await s3.listMultipartUploads(place)).Uploads?.length ?? 0;
  }

  #open(patience: Partial<S3Settings> = {}): S3Storage {
    const settings = testSettings(ceph.endpoint, patience);
    return new S3Storage({ bucket: ceph.bucket, prefix: this.prefix }, { settings, partBytes: PART });
  }
}

/**
 * Does `work`, whose client has that patience, and harms the server as soon as that request begins: found by the request, since
 * times say nothing on a busy machine. Null when it succeeds; anything but an error of the catalogue is a fault of ours.
 */
async function harmed(
  moment: Moment & { patience: Partial<S3Settings> },
  harm: () => void | Promise<void>,
  work: (patience: Partial<S3Settings>) => Promise<unknown>,
): Promise<GokuError | null> {
  const s3 = await connectS3(testSettings(ceph.endpoint, moment.patience));
  let done = false;
  s3.middlewareStack.add(
    (next, { commandName }) =>
      async (args) => {
        const { Key = "" } = args.input as { Key?: string };
        if (done || commandName !== `${moment.request}Command` || !Key.endsWith(moment.key))
          return next(args);
        done = true;
        const harming = harm();
        try {
          return await next(args);
        } finally {
          await harming;
        }
      },
    { step: "initialize", name: "harm" },
  );
  const error = await outcome(work(moment.patience));
  s3.middlewareStack.remove("harm");
  assert.ok(done, `${moment.request} of ${moment.key} came before: ${error?.message}`);
  return error;
}

async function outcome(work: Promise<unknown>): Promise<GokuError | null> {
  const error = await work.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  assert.ok(error === null || (error instanceof GokuError && error.code === "STORAGE_FAILED"), `${error}`);
  return error;
}

/** For the harm of a request that takes several messages at a slow OSD. */
async function killGatewayAfter(ms: number): Promise<void> {
  await elapsed(ms);
  await ceph.kill("gateway");
}

test(
  "radosgw killed in each kind of request of a save: a typed error, the older checkpoint stays, nothing is torn, the repeated save succeeds",
  LIMIT,
  async () => {
    const run = new Run();
    await run.save(10);
    const moments: Moment[] = [
      { request: "CreateMultipartUpload", key: "/g1-w0.safetensors" },
      { request: "UploadPart", key: "/g1-w1.safetensors" },
      { request: "CompleteMultipartUpload", key: "/g1-w0.safetensors" },
      { request: "PutObject", key: "/g1-w1.json" },
      { request: "PutObject", key: "/manifest.json" },
    ];
    for (const [i, moment] of moments.entries()) {
      const step = 20 + 10 * i;
      const where = `${moment.request} ${moment.key}`;
      await ceph.slowOsd(SLOW_SECONDS);
      const error = await harmed(
        { ...moment, patience: HASTY },
        () => killGatewayAfter(4_000 * SLOW_SECONDS),
        (patience) => run.save(step, patience),
      );
      await ceph.slowOsd(0);
      await ceph.run("gateway");
      const found = await run.readable();
      assert.ok(found.includes(`1-${step - 10}`), where);
      // Only the last request may have been answered before the kill: others follow the rest, at a dead server.
      if (moment !== moments.at(-1)) assert.notEqual(error, null, where);
      if (error === null) assert.equal(found[0], `1-${step}`, where);
      await run.save(step);
      assert.equal((await run.readable())[0], `1-${step}`, where);
    }
    await ceph.collectGarbage();
    assert.deepEqual((await verifyCheckpoint(run.storage)).bad, []);
  },
);

test(
  "radosgw killed while it completes an upload: it lists the upload for ever, whose parts are the key's; no sweep takes them",
  LIMIT,
  async () => {
    const run = new Run();
    const { storage } = run;
    const data = Buffer.alloc(6 * MIB, 7);
    // So slow that the moment between the key's being made and the upload's being forgotten is hit; looked for from both sides.
    const slowSeconds = 3 * SLOW_SECONDS;
    let waitMs = 30_000 * slowSeconds;
    for (let tries = 1; ; tries++) {
      assert.ok(tries <= 40, "no moment found at which both the key and its upload are there");
      const key = `try-${tries}/x`;
      await ceph.slowOsd(slowSeconds);
      const error = await harmed(
        { request: "CompleteMultipartUpload", key, patience: HASTY },
        () => killGatewayAfter(waitMs),
        (patience) => run.write(key, data, patience),
      );
      await ceph.slowOsd(0);
      await ceph.run("gateway");
      const made = (await storage.stat(key)) !== null;
      if (error === null) assert.ok(made, "what was acknowledged is there");
      const listed = (await run.uploads()) > 0;
      const removed = await storage.removeUnfinished(`try-${tries}/`, () => true);
      assert.equal(removed, !made && listed ? 1 : 0, "an upload goes unless its key is there");
      if (made && listed) {
        await ceph.collectGarbage();
        assert.ok(data.equals(await storage.readFile(key, data.byteLength)), "its bytes are still there");
        await storage.delete([key]);
        assert.equal(await storage.removeUnfinished(`try-${tries}/`, () => true), 1);
        assert.equal(await run.uploads(), 0);
        return;
      }
      waitMs *= made ? 0.8 : 1.25;
    }
  },
);

for (const daemon of ["gateway", "osd"] as const) {
  test(
    `${daemon} stopped in the middle of a save: a typed error in bounded time; what it does late harms nothing`,
    LIMIT,
    async () => {
      const run = new Run();
      await run.save(10);
      const moments: Moment[] = [
        { request: "CompleteMultipartUpload", key: "/g1-w1.safetensors" },
        { request: "PutObject", key: "/manifest.json" },
      ];
      for (const [i, moment] of moments.entries()) {
        const step = 20 + 10 * i;
        const error = await harmed(
          { ...moment, patience: IMPATIENT },
          () => ceph.pause(daemon),
          (patience) => run.save(step, patience),
        );
        refuses("STORAGE_FAILED", /was silent for 2000 ms .* 2 times, check the server/)(error);
        ceph.resume(daemon);
        // While the server does what it had been asked for.
        await run.save(step);
        assert.deepEqual((await run.readable()).slice(0, 2), [`1-${step}`, `1-${step - 10}`]);
      }
      await ceph.collectGarbage();
      assert.deepEqual((await verifyCheckpoint(run.storage)).bad, []);
      assert.equal((await run.readable()).length, 1 + moments.length);
    },
  );
}

test(
  "the OSD killed in the middle of a save and started again on its data: the older checkpoint is whole, the save is repeated",
  LIMIT,
  async () => {
    const run = new Run();
    await run.save(10);
    const error = await harmed(
      { request: "UploadPart", key: "/g1-w1.safetensors", patience: IMPATIENT },
      () => ceph.kill("osd"),
      (patience) => run.save(20, patience),
    );
    assert.notEqual(error, null);
    await ceph.run("osd");
    await until(async () => (await outcome(run.storage.list(""))) === null);
    assert.deepEqual(await run.readable(), ["1-10"]);
    await run.save(20);
    assert.deepEqual(await run.readable(), ["1-20", "1-10"]);
    assert.deepEqual((await verifyCheckpoint(run.storage)).bad, []);
  },
);
