import assert from "node:assert/strict";
import path from "node:path";
import { after, before, test } from "node:test";
import { listCheckpoints, openCheckpoint } from "../../checkpoint/load.js";
import { prune } from "../../checkpoint/retention.js";
import { type StateName, stateKey } from "../../checkpoint/state.js";
import { S3Storage } from "../../checkpoint/storage/s3.js";
import { connectS3 } from "../../checkpoint/storage/s3_client.js";
import { verifyCheckpoint } from "../../checkpoint/verify.js";
import { Layout } from "../../job/layout.js";
import { shardRange } from "../../job/sharding.js";
import { gokuctl } from "../support/gokuctl.js";
import { S3_SERVERS, type S3Server } from "../support/s3_servers.js";
import { testSettings } from "../support/s3_settings.js";
import {
  commitOf,
  elementBits,
  metaOf,
  modelOf,
  readShard,
  refuses,
  requireState,
  saveAll,
  saveAndCommit,
  scratchFolder,
  state,
} from "./fixtures.js";

/** A run's whole life on S3: what the tests of save, load and retention show of file storage holds there, too. */

const scratch = scratchFolder();
/** Two writers of 7 MiB each: more than one part. */
const MODEL = modelOf({
  "patch_embed.weight": [937, 1000],
  "blocks.0.norm2.weight": [3],
  "final_proj.bias": [1],
});
const PART = 5 << 20;
const LAYOUT = Layout.parse("1x2x1");

for (const { name, skip, start } of S3_SERVERS) {
  let server: S3Server;
  let runs = 0;
  before(async () => {
    if (skip === false) server = await start();
  });
  after(async () => {
    if (skip === false) await server.stop();
  });

  function freshRun() {
    const prefix = `run-${++runs}`;
    const settings = testSettings(server.endpoint);
    const storage = () => new S3Storage({ bucket: server.bucket, prefix }, { settings, partBytes: PART });
    const setup = (
      of: StateName,
      { parent = null as StateName | null, generation = of.generation } = {},
    ) => ({
      storage: storage(),
      model: MODEL,
      layout: LAYOUT,
      meta: metaOf(of, LAYOUT, { parent }),
      generation,
      slots: path.join(scratch, `${prefix}-${stateKey(of)}`),
    });
    return { storage, setup, prefix };
  }

  test(`${name}: a state saved by two writers in parts verifies, and loads bit-equal in another layout`, {
    skip,
  }, async () => {
    const { storage, setup } = freshRun();
    const result = await saveAndCommit(setup(state(3, 40)));
    assert.match(result.uri, /^s3:\/\/runs\/run-\d+\/checkpoint-40$/);
    const checkpoint = await openCheckpoint(storage());
    await requireState(checkpoint, MODEL, state(3, 40));
    const target = Layout.parse("2x3x1");
    const unit = MODEL.units[0]!;
    for (let rank = 0; rank < target.worldSize; rank++) {
      const shard = await readShard(checkpoint, { unit, layout: target, rank, kind: "adam_m" });
      const { start: from, length } = shardRange({ count: unit.count, parts: 3, index: rank % 3 });
      const bits = new Uint32Array(shard.buffer);
      assert.equal(bits.length, length);
      const { spec, offset } = unit.parameters[0]!;
      for (let i = 0; i < length; i += 97)
        assert.equal(bits[i], elementBits(state(3, 40), `adam_m/${spec.name}`, from + i - offset));
    }
    const report = await verifyCheckpoint(storage());
    assert.deepEqual(report.bad, []);
    assert.equal(report.bytes, 16 * (937_000 + 4));
  });

  test(`${name}: a damaged byte is named`, { skip }, async () => {
    const { storage, setup, prefix } = freshRun();
    await saveAndCommit(setup(state(1, 7)));
    const s3 = await connectS3(testSettings(server.endpoint));
    const key = "checkpoint-7/g1-w1.safetensors";
    const { bytes } = (await storage().stat(key))!;
    const data = await storage().readFile(key, bytes);
    data[bytes - 5]! ^= 1;
    await s3.putObject({ Bucket: server.bucket, Key: `${prefix}/${key}`, Body: data });
    const { bad } = await verifyCheckpoint(storage());
    assert.equal(bad.length, 1);
    assert.match(bad[0]!.file, /g1-w1\.safetensors/);
  });

  test(`${name}: repeating a save or a commit is harmless, and another run is refused`, {
    skip,
  }, async () => {
    const { storage, setup } = freshRun();
    await saveAndCommit(setup(state(1, 10)));
    await saveAll(setup(state(1, 10)));
    assert.equal((await commitOf(setup(state(1, 10)))).created, false);
    const other = setup(state(1, 10));
    other.meta = { ...other.meta, dataDigest: "e".repeat(64) };
    await assert.rejects(saveAll(other), refuses("CONFLICT", /give this job its own checkpoint.uri/));
    await requireState(await openCheckpoint(storage()), MODEL, state(1, 10));
  });

  test(`${name}: two generations save one step to one place at once, and both records stay`, {
    skip,
  }, async () => {
    const { storage, setup } = freshRun();
    const generations = [setup(state(1, 20)), setup(state(2, 20))];
    await Promise.all(generations.map((each) => saveAll(each)));
    const commits = await Promise.allSettled(generations.map((each) => commitOf(each)));
    assert.equal(commits[1]!.status, "fulfilled", "the higher generation always commits");
    if (commits[0]!.status === "rejected") refuses("GENERATION_STALE", /has committed/)(commits[0]!.reason);
    await requireState(await openCheckpoint(storage()), MODEL, state(2, 20));
    if (commits[0]!.status === "fulfilled")
      await requireState(await openCheckpoint(storage(), state(1, 20)), MODEL, state(1, 20));
  });

  test(`${name}: of several agents that commit one state exactly one creates its record`, {
    skip,
  }, async () => {
    const { storage, setup } = freshRun();
    await saveAll(setup(state(1, 30)));
    const commits = await Promise.all([1, 2, 3].map(() => commitOf(setup(state(1, 30)))));
    assert.equal(commits.filter((commit) => commit.created).length, 1);
    assert.deepEqual(
      (await storage().list("")).map((entry) => entry.key).filter((key) => key.includes("manifest")),
      ["checkpoint-30/manifest.json"],
    );
  });

  test(`${name}: prune() deletes old checkpoints, crashed saves and their unfinished uploads`, {
    skip,
  }, async () => {
    const { storage, setup, prefix } = freshRun();
    for (const step of [10, 20]) await saveAndCommit(setup(state(1, step)));
    await saveAll(setup(state(1, 30)), [0]);
    await saveAndCommit(setup(state(2, 40), { parent: state(1, 20) }));
    await saveAll(setup(state(2, 60)), [0]);
    const s3 = await connectS3(testSettings(server.endpoint));
    const leave = (key: string) =>
      s3.createMultipartUpload({ Bucket: server.bucket, Key: `${prefix}/${key}` });
    await leave("checkpoint-50/g1-w1.safetensors");
    await leave("checkpoint-40/g2-w1.safetensors");
    const result = await prune({ uri: storage(), keepLast: 2, generation: "2" });
    assert.deepEqual(result.removed.map(({ step }) => step).sort(), [10, 30]);
    assert.deepEqual(
      (await listCheckpoints(storage())).map((each) => stateKey(each.state)),
      ["2-40", "1-20"],
    );
    assert.deepEqual(await storage().folders(""), ["checkpoint-20", "checkpoint-40", "checkpoint-60"]);
    const { Uploads = [] } = await s3.listMultipartUploads({ Bucket: server.bucket });
    assert.deepEqual(
      Uploads.map(({ Key }) => Key).filter((key) => key!.startsWith(`${prefix}/`)),
      [`${prefix}/checkpoint-40/g2-w1.safetensors`],
      "what the running generation is writing stays",
    );
  });

  test(`${name}: gokuctl ckpt ls, inspect and verify take an s3:// URI from the environment's server`, {
    skip,
  }, async () => {
    const { setup, prefix } = freshRun();
    await saveAndCommit(setup(state(3, 40)));
    const uri = `s3://${server.bucket}/${prefix}`;
    const run = (args: string[], endpoint = server.endpoint) =>
      gokuctl([...args, "--json"], { env: { AWS_ENDPOINT_URL_S3: endpoint } });
    const list = await run(["ckpt", "ls", uri]);
    assert.equal(list.code, 0, list.stderr);
    assert.equal(JSON.parse(list.stdout).checkpoints[0].uri, `${uri}/checkpoint-40`);
    const inspected = await run(["ckpt", "inspect", `${uri}/checkpoint-40`]);
    assert.equal(inspected.code, 0, inspected.stderr);
    const verified = await run(["ckpt", "verify", uri]);
    assert.deepEqual(JSON.parse(verified.stdout).bad, [], verified.stderr);
    const lost = await run(["ckpt", "verify", `s3://no-such-bucket/${prefix}`]);
    assert.equal(lost.code, 20);
    assert.match(lost.stderr + lost.stdout, /there is no bucket no-such-bucket at http:\/\/127/);
    assert.doesNotMatch(lost.stderr + lost.stdout, /test-secret|test-key-id/);
  });
}
