import assert from "node:assert/strict";
import { test } from "node:test";
import { gokuctl } from "../support/gokuctl.js";
import { until } from "../support/until.js";
import { type TestCluster, testJob, withCluster } from "./cluster.js";

const LIMIT = { timeout: 600_000 };

/** A job whose ranks stand still in step 8, since one of them does before its vote; no checkpoint is due before. */
async function withStandstill(body: (cluster: TestCluster) => Promise<void>): Promise<void> {
  await withCluster({ failpoints: "vote.before@8/1:hold" }, async (cluster) => {
    const overrides = ["checkpoint.every_steps=1000", "recovery.stall_seconds=600"];
    await cluster.submit(await testJob(cluster.folder, overrides));
    await until(() => cluster.fired.length === 1);
    await cluster.follow(({ losses }) => losses.has(7));
    await body(cluster);
  });
}

const ask = (cluster: TestCluster, ...args: string[]) =>
  gokuctl([...args, "--json", "--controller", cluster.local.controller]);

test(
  "faults: stop --grace while ranks stand still: the last finished step is saved from memory, whole",
  LIMIT,
  () =>
    withStandstill(async (cluster) => {
      const stopped = await ask(cluster, "stop", "faults", "--grace", "3");
      assert.equal(stopped.code, 0, stopped.stderr);
      const job = JSON.parse(stopped.stdout);
      assert.equal(job.phase, "STOPPED", job.reason);
      assert.deepEqual([job.step, job.checkpoint.step, job.steps_given_up], [7, 7, 0], job.reason);
      assert.match(
        job.reason,
        /^stopped as asked at step 7: saved from memory without the ranks \(no vote in half/,
      );
      const verified = await ask(cluster, "ckpt", "verify", job.checkpoint.uri);
      assert.equal(verified.code, 0, verified.stderr);
      const audit = JSON.stringify((await ask(cluster, "events", "--kind", "audit")).stdout);
      assert.match(audit, /stop a job/);
    }),
);

test("gokuctl stop: a grace that is none is refused before anybody is asked", async () => {
  for (const grace of ["-1", "1.5", "86401", "soon", ""]) {
    const refused = await gokuctl(["stop", "faults", `--grace=${grace}`, "--controller", "127.0.0.1:1"]);
    assert.equal(refused.code, 2, refused.stderr);
    assert.match(refused.stderr, /--grace: found ".*", want a whole number from 0 to 86400/);
  }
});
