import assert from "node:assert/strict";
import { test } from "node:test";
import { CoreHarness, jobOf, page } from "./harness.js";

/** A job with `layout: auto` that trains on n0 alone, with `free` other nodes joined later. */
function small(): CoreHarness {
  const core = new CoreHarness();
  core.lead();
  core.hello("n0", { peerPort: 7_000 });
  core.submit(jobOf({ layout: "auto", steps: 1_000 }));
  core.pass(2_000);
  core.form();
  core.stepDone("n0", 1);
  core.take();
  return core;
}

/** Every connected member trains: its pages move with every heartbeat. */
function train(core: CoreHarness, ms: number): void {
  let entered = 100n + BigInt(core.nowMs);
  core.beat(ms, (nodeId) => {
    entered += 3n;
    const progress = { step: 1n, collectiveEntered: entered, collectiveCompleted: entered };
    return (core.job.generation!.nodeRanks.get(nodeId) ?? []).map((rank) => page(rank, progress));
  });
}

/** All ranks say that they ended at this step, with the state in memory. */
function yielded(core: CoreHarness, step: number): void {
  const { rankNodes } = core.job.generation!;
  for (const [rank, nodeId] of rankNodes.entries()) core.finished(nodeId, rank, step, "yield");
}

test("a job that trains takes in a free node: its ranks yield, and go on in the larger layout from memory", () => {
  const core = small();
  core.hello("n1", { peerPort: 7_000 });
  train(core, 12_000);
  assert.deepEqual(core.commands().slice(-1), ["n0 requestYield"]);
  assert.equal(core.job.stage, "running");
  yielded(core, 7);
  const generation = core.job.generation!;
  assert.deepEqual([generation.number, generation.rankNodes], [2, ["n0", "n0", "n1", "n1"]]);
  assert.equal(core.job.incidents.length, 0, "nothing broke");
});

test("a job grows at most once in a while, and when nodes have stopped coming", () => {
  const core = small();
  core.hello("n1", { peerPort: 7_000 });
  train(core, 8_000);
  assert.ok(!core.commands().includes("n0 requestYield"), "it has trained for eight seconds only");
  core.hello("n2", { peerPort: 7_000 });
  train(core, 1_000);
  core.hello("n3", { peerPort: 7_000 });
  train(core, 1_000);
  assert.ok(!core.commands().includes("n0 requestYield"), "more may come");
  train(core, 2_000);
  assert.ok(core.commands().includes("n0 requestYield"));
  train(core, 30_000);
  assert.equal(core.commands().filter((command) => command === "n0 requestYield").length, 1);
});

test("a job with a layout of its own, one that stops, and one whose ranks would have no packs do not grow", () => {
  const fixed = new CoreHarness();
  fixed.lead();
  fixed.hello("n0");
  fixed.submit(jobOf({ steps: 1_000 }));
  fixed.form();
  fixed.stepDone("n0", 1);
  fixed.hello("n1");
  train(fixed, 30_000);
  assert.ok(!fixed.commands().includes("n0 requestYield"));

  const stopped = small();
  stopped.feed({ kind: "stopRequested", requestId: "r", jobId: "job-1", graceMs: null });
  stopped.hello("n1", { peerPort: 7_000 });
  train(stopped, 30_000);
  assert.ok(!stopped.commands().includes("n0 requestYield"));

  const full = new CoreHarness();
  full.lead();
  full.hello("n0", { slots: 16 });
  full.submit(jobOf({ layout: "auto", steps: 1_000 })); // 16 packs a step
  full.pass(2_000);
  full.form();
  full.stepDone("n0", 1);
  full.hello("n1", { slots: 3 });
  train(full, 30_000);
  assert.ok(!full.commands().includes("n0 requestYield"));
});

test("a rank that dies while the others yield is a fault like any other, and what memory holds is restored", () => {
  const core = small();
  core.hello("n1", { peerPort: 7_000 });
  train(core, 12_000);
  core.finished("n0", 0, 7, "yield");
  core.exited("n0", 1);
  core.pass(100);
  assert.equal(core.job.incidents.length, 1);
  assert.equal(core.job.generation?.number, 2);
  core.form([{ generation: 1, step: 7 }]);
  assert.equal(core.job.stage, "running");
});

test("a new leader that finds the ranks yielded forms the larger layout", () => {
  const first = small();
  first.hello("n1", { peerPort: 7_000 });
  train(first, 12_000);
  const core = new CoreHarness();
  for (const [key, entry] of first.store) core.store.set(key, entry);
  core.nowMs = first.nowMs;
  core.lead("c1");
  core.hello("n1", { peerPort: 7_000 });
  const ranks = [0, 1].map((rank) => page(rank, { step: 7n, phase: "finished", generation: 1n }));
  core.hello("n0", { peerPort: 7_000, jobId: "job-1", generation: 1n, ranks });
  yielded(core, 7);
  assert.deepEqual(core.job.generation?.rankNodes, ["n0", "n0", "n1", "n1"]);
});

test("a member that reconnects is asked to yield again", () => {
  const core = small();
  core.hello("n1", { peerPort: 7_000 });
  train(core, 12_000);
  core.take();
  core.disconnect("n0");
  const ranks = [0, 1].map((rank) => page(rank, { generation: 1n }));
  core.hello("n0", { peerPort: 7_000, jobId: "job-1", generation: 1n, ranks });
  assert.ok(core.commands().includes("n0 requestYield"), core.commands().join());
});

test("what was replicated in the smaller layout is freed in the larger one: a lost node is waited for", () => {
  const core = small();
  core.stepDone("n0", 2, 0.5, 1);
  core.hello("n1", { peerPort: 7_000 });
  core.hello("n2", { peerPort: 7_000 });
  train(core, 12_000);
  yielded(core, 7);
  assert.deepEqual(core.job.replicated, { generation: 1, step: 1 });
  const layout = { dpReplicate: 1, dpShard: 2, sp: 1 };
  const held = [0, 1].map((rank) => ({ rank, layout, state: { generation: 1n, step: 7n } }));
  core.heartbeat("n0", 2, [], held);
  core.form();
  assert.deepEqual([core.job.stage, core.job.generation!.step, core.job.replicated], ["running", 7, null]);
});

test("a job does not grow into a node that it gave up, nor while another job waits for nodes", () => {
  const wrong = small();
  wrong.job.avoided.set("n1", { reason: "rank 1 was wrong there", untilMs: 3_600_000 });
  wrong.hello("n1", { peerPort: 7_000 });
  train(wrong, 30_000);
  assert.ok(!wrong.commands().includes("n0 requestYield"));

  const shared = small();
  const four = { dp_replicate: 1, dp_shard: 4, sp: 1 };
  shared.submit(jobOf({ name: "other", layout: four }), "job-2");
  shared.hello("n1", { peerPort: 7_000 });
  train(shared, 30_000);
  assert.ok(!shared.commands().includes("n0 requestYield"));
  shared.hello("n2", { peerPort: 7_000 });
  assert.deepEqual(shared.state.jobs.get("job-2")!.generation?.rankNodes, ["n1", "n1", "n2", "n2"]);
});

test("a save is refused while the ranks yield: nobody would hear of it", () => {
  const core = small();
  core.hello("n1", { peerPort: 7_000 });
  train(core, 12_000);
  core.take();
  core.feed({ kind: "saveRequested", requestId: "r", jobId: "job-1" });
  const answers = core.take().flatMap((effect) => (effect.kind === "reply" ? [effect.result] : []));
  assert.equal(answers[0]?.ok, false);
});

test("a job that shrank releases no node that has lost its memory and works for another job by then", () => {
  const core = new CoreHarness();
  core.lead();
  for (const nodeId of ["n0", "n1"]) core.hello(nodeId, { peerPort: 7_000 });
  core.submit(jobOf({ layout: "auto", steps: 1_000 }));
  core.pass(2_000);
  core.form();
  core.stepDone("n0", 1);
  const layout = { dpReplicate: 1, dpShard: 4, sp: 1 };
  const held = [2, 3].map((rank) => ({ rank, layout, state: { generation: 1n, step: 1n } }));
  core.heartbeat("n1", 1, [], held);
  core.lose("n1");
  for (const rank of [0, 1]) core.failed("n0", rank, "COMM_PEER_DIED", 2);
  core.beat(70_000);
  assert.deepEqual(core.job.generation!.rankNodes, ["n0", "n0"], "it waited for n1 long enough");
  assert.deepEqual([...core.job.generation!.former], ["n1"], "what n1 holds may still be wanted");
  core.hello("n1", { peerPort: 7_000, incarnation: "n1#2" });
  core.submit(jobOf({ name: "other" }), "job-2");
  assert.deepEqual(core.state.jobs.get("job-2")!.generation?.rankNodes, ["n1", "n1"]);
  core.take();
  core.form();
  core.stepDone("n0", 2);
  assert.deepEqual(
    core.commands().filter((command) => command.endsWith(" release")),
    [],
  );
  const { former } = core.job.generation!;
  assert.deepEqual([former.size, core.state.nodes.get("n1")!.releasing], [0, false]);
});
