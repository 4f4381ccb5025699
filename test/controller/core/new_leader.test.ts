import assert from "node:assert/strict";
import { test } from "node:test";
import { CoreHarness, FOUR, jobOf, page } from "./harness.js";

/** A second leader on the store of a first one, whose job of four ranks has reached `until`. */
function successor(until: "forming" | "running" | "recovering"): CoreHarness {
  const first = new CoreHarness();
  first.lead("c0");
  for (const nodeId of ["n0", "n1", "n2"]) first.hello(nodeId);
  first.submit(jobOf({ layout: FOUR }));
  if (until !== "forming") first.form();
  if (until === "recovering") {
    first.stepDone("n0", 5);
    first.exited("n1", 2);
    first.pass(100);
  }
  const second = new CoreHarness();
  for (const [key, entry] of first.store) second.store.set(key, entry);
  second.nowMs = 50_000;
  second.lead("c1");
  second.take();
  return second;
}
const trains = (generation: bigint, ...ranks: number[]) => ({
  jobId: "job-1",
  generation,
  ranks: ranks.map((rank) => page(rank, { step: 8n })),
});
const disturbing = (core: CoreHarness) => core.commands().filter((c) => /prepare|abort|kill|release/.test(c));

test("a running generation whose nodes re-home goes on undisturbed", () => {
  const core = successor("running");
  assert.equal(core.state.leader?.term, 2);
  core.hello("n1", trains(1n, 2, 3));
  core.hello("n0", trains(1n, 0, 1));
  core.beat(5_000, (nodeId) => (nodeId === "n0" ? trains(1n, 0, 1).ranks : []));
  assert.deepEqual(disturbing(core), []);
  assert.deepEqual([core.job.stage, core.job.generation?.number, core.job.stepHighest], ["running", 1, 8]);
});

test("one node that trains proves the others alive: nobody waits for them to re-home", () => {
  const core = successor("running");
  core.hello("n0", trains(1n, 0, 1));
  let step = 8n;
  core.beat(60_000, (nodeId) => {
    step += 1n;
    return nodeId === "n0" ? [page(0, { step }), page(1, { step })] : [];
  });
  assert.deepEqual(disturbing(core), []);
  assert.equal(core.job.stage, "running");
});

test("a rank that died while nobody led is found when its node re-homes", () => {
  const core = successor("running");
  core.hello("n1", trains(1n, 3));
  core.hello("n0", trains(1n, 0, 1));
  core.pass(100);
  assert.equal(core.job.generation?.number, 2);
  assert.match(core.job.incident!.what, /rank 2 on n1 ended while its agent could not report/);
});

test("a node that ended its generation and left while nobody led is not waited for longer than nodes re-home", () => {
  const core = successor("running");
  const ended = [0, 1].map((rank) => page(rank, { step: 8n, phase: "finished" }));
  core.hello("n0", { jobId: "job-1", generation: 1n, ranks: ended });
  core.hello("n2");
  core.saved("n0", { generation: 1, step: 8 });
  for (const rank of [0, 1]) core.finished("n0", rank, 8);
  core.beat(9_000, (nodeId) => (nodeId === "n0" ? ended : []));
  assert.equal(core.job.generation?.number, 1, "it may still come");
  core.beat(2_000, (nodeId) => (nodeId === "n0" ? ended : []));
  assert.equal(core.job.generation?.number, 2);
  assert.deepEqual(core.job.generation?.rankNodes, ["n0", "n0", "n2", "n2"]);
  core.form();
  const { source } = core.lastCommand("restore").value;
  assert.ok(source?.$case === "checkpoint" && source.value.uri.endsWith("checkpoint-8"), source?.$case);
});

test("a generation found half formed is formed anew", () => {
  const core = successor("forming");
  for (const [nodeId, ranks] of [
    ["n0", [0, 1]],
    ["n1", [2, 3]],
  ] as const) {
    core.hello(nodeId, {
      jobId: "job-1",
      generation: 1n,
      ranks: ranks.map((r) => page(r, { phase: "forming" })),
    });
  }
  core.pass(2_200);
  assert.equal(core.job.generation?.number, 2);
});

test("ranks that pause between two steps just then are taken for training: the record says that they ran", () => {
  const core = successor("running");
  for (const [nodeId, ranks] of [
    ["n0", [0, 1]],
    ["n1", [2, 3]],
  ] as const) {
    core.hello(nodeId, {
      jobId: "job-1",
      generation: 1n,
      ranks: ranks.map((r) => page(r, { phase: "idle" })),
    });
  }
  core.pass(3_000);
  assert.deepEqual(disturbing(core), []);
  assert.equal(core.job.stage, "running");
});

test("a page of older work proves nothing about the generation that was being formed", () => {
  const core = successor("recovering");
  core.hello("n0", {
    jobId: "job-1",
    generation: 2n,
    ranks: [page(0, { generation: 1n }), page(1, { generation: 1n })],
  });
  assert.equal(core.job.generation?.stage, "adopt");
});

test("an open incident and its attempts survive a change of leader", () => {
  const core = successor("recovering");
  assert.deepEqual(
    [core.job.attempts, core.job.incident?.number, core.job.incident?.code],
    [1, 1, "RANK_DIED"],
  );
  core.hello("n0", { jobId: "job-1", generation: 2n, ranks: [page(0), page(1)] });
  core.hello("n1", { jobId: "job-1", generation: 2n, ranks: [page(2), page(3)] });
  assert.equal(core.job.incidents[0]?.outcome, "recovered");
  assert.equal(core.job.attempts, 1, "step 3 had been completed before");
});

test("a new leader counts silence from its own election", () => {
  const core = successor("running");
  core.pass(9_000);
  assert.equal(core.job.stage, "running");
  core.pass(45_000);
  assert.equal(core.job.stage, "running", "nobody was heard, the grace is not over");
  core.pass(10_000);
  assert.equal(core.job.stage, "waiting");
});

test("the place of a member that has not re-homed yet is not given to a waiting job", () => {
  const core = successor("running");
  core.submit(jobOf({ name: "next", layout: { dp_replicate: 1, dp_shard: 2, sp: 1 } }), "job-2");
  core.hello("n0", { incarnation: "n0#2" });
  assert.equal(core.state.jobs.get("job-2")?.stage, "queued");
  core.hello("n2");
  assert.deepEqual(core.state.jobs.get("job-2")?.generation?.rankNodes, ["n2", "n2"]);
});
