import assert from "node:assert/strict";
import { test } from "node:test";
import { CoreHarness, jobOf } from "./harness.js";

test("the oldest incidents of a job are forgotten, in the store too", () => {
  const core = new CoreHarness();
  core.lead();
  core.hello("n0");
  core.submit(jobOf());
  core.form();
  for (let step = 1; step <= 105; step++) {
    core.exited("n0", 1);
    core.beat(1_000);
    core.form();
    core.stepDone("n0", step);
  }
  const kept = [...core.store.keys()].filter((key) => key.startsWith("incidents/"));
  assert.deepEqual([core.job.incidents.length, kept.length], [100, 100]);
  assert.equal(core.job.incidents[0]!.number, 6);
  core.lead("c1");
  assert.deepEqual(
    [core.job.incidents.length, core.job.incidents[0]!.number, core.job.incidents.at(-1)!.number],
    [100, 6, 105],
  );
});

test("the oldest ended jobs are forgotten with all their records, but not one that a node still holds", () => {
  const core = new CoreHarness();
  core.lead();
  core.hello("n0", { jobId: "job-0" });
  for (let i = 0; i <= 102; i++) {
    core.submit(jobOf({ name: `name-${i}`, layout: { dp_replicate: 1, dp_shard: 9, sp: 1 } }), `job-${i}`);
    core.feed({ kind: "stopRequested", requestId: `stop-${i}`, jobId: `job-${i}`, graceMs: null });
  }
  assert.deepEqual([...core.state.jobs.keys()].slice(0, 3), ["job-0", "job-3", "job-4"]);
  const kept = [...core.store.keys()].filter((key) => key.startsWith("jobs/"));
  assert.equal(kept.length, 101);
});

test("a job that was submitted first and ends last is kept, and its stop is answered", () => {
  const core = new CoreHarness();
  core.lead();
  const layout = { dp_replicate: 1, dp_shard: 9, sp: 1 };
  const stop = (jobId: string) =>
    core.feed({ kind: "stopRequested", requestId: `stop-${jobId}`, jobId, graceMs: null });
  core.submit(jobOf({ name: "first", layout }), "first");
  for (let i = 0; i < 100; i++) {
    core.submit(jobOf({ name: `name-${i}`, layout }), `job-${i}`);
    core.nowMs += 1_000;
    stop(`job-${i}`);
  }
  core.take();
  stop("first");
  const reply = core.take().find((effect) => effect.kind === "reply");
  assert.equal(reply?.kind === "reply" && reply.result.ok, true);
  assert.equal(core.state.jobs.has("first"), true);
  assert.equal(core.state.jobs.has("job-0"), false, "the one that ended first went");
});

test("a node gone for a day is forgotten when the next one comes, unless a living job names it", () => {
  const core = new CoreHarness();
  core.lead();
  core.hello("n0");
  core.submit(jobOf());
  core.form();
  core.hello("n1");
  core.disconnect("n1");
  core.disconnect("n0");
  core.nowMs += 25 * 3600 * 1000;
  core.hello("n2");
  assert.deepEqual([...core.state.nodes.keys()], ["n0", "n2"]);
});
