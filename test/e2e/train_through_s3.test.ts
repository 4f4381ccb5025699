import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { writeShapes } from "../../worker/data/shapes/write_shapes.js";
import { gokuctl } from "../support/gokuctl.js";
import { MemoryS3 } from "../support/memory_s3.js";
import { S3_SERVERS } from "../support/s3_servers.js";
import { S3_KEY } from "../support/s3_settings.js";

const scratch = mkdtempSync(path.join(tmpdir(), "goku-s3-test-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

for (const { name, skip, start } of S3_SERVERS)
  test(`${name}: a job trains, resumes on other ranks and draws, and answers that are lost on demand change nothing`, {
    skip,
  }, async () => {
    const server = await start();
    after(() => server.stop());
    const folder = mkdtempSync(path.join(scratch, "job-"));
    await writeShapes({ directory: path.join(folder, "media"), singles: 24, pairs: 8, clips: 3 });
    const file = path.join(folder, "job.yaml");
    writeFileSync(
      file,
      `name: through-s3
model: { preset: goku-nano, depth: 1, width: 32, heads: 2, text_width: 16 }
data: { media: ${folder}/media }
train: { steps: 6, packs_per_step: 2, tokens_per_pack: 128 }
checkpoint: { uri: "s3://runs/a/b/", every_steps: 3, keep_last: 2 }
`,
    );
    const run = async (...args: string[]) => {
      const { code, stdout, stderr } = await gokuctl([...args, "--json"], {
        env: {
          AWS_ENDPOINT_URL_S3: server.endpoint,
          AWS_ACCESS_KEY_ID: S3_KEY.id,
          AWS_SECRET_ACCESS_KEY: S3_KEY.secret,
        },
      });
      assert.equal(code, 0, stderr);
      assert.equal(stderr, "", "no warning of the SDK's either");
      assert.doesNotMatch(stdout, /test-secret|test-key-id/);
      return stdout;
    };
    const steps = async () =>
      JSON.parse(await run("ckpt", "ls", "s3://runs/a/b")).checkpoints.map(
        (each: { step: number }) => each.step,
      );

    if (server instanceof MemoryS3) {
      server.fail("put", { kind: "dropAfter" }, { key: "a/b/checkpoint-6/manifest.json" });
      server.fail("put", { kind: "drop" }, { key: "a/b/checkpoint-6/g1-w1.json" });
    }
    await run("train", file, "--local", "2x1");
    assert.deepEqual(await steps(), [6, 3]);
    await run("resume", "--ckpt", "s3://runs/a/b/checkpoint-6", "--set", "train.steps=8", "--local", "1x1");
    assert.deepEqual(await steps(), [8, 6], "the resumed run goes on in the same place, and prunes it");
    const verified = JSON.parse(await run("ckpt", "verify", "s3://runs/a/b"));
    assert.deepEqual(verified.bad, []);
    assert.equal(verified.step, 8);
    const picture = path.join(folder, "picture.png");
    await run("sample", "--ckpt", "s3://runs/a/b", "--prompt", "a red circle", "--out", picture);
    assert.ok(existsSync(picture));
  });
