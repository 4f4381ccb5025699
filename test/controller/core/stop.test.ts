import assert from "node:assert/strict";
import { test } from "node:test";
import { CoreHarness, FOUR, jobOf, page, programJobOf } from "./harness.js";

const AT_5 = { generation: 1, step: 5 };

/** Four ranks on n0 and n1, five steps done, which took so long each. */
function running(stepSeconds = 0.5): CoreHarness {
  const core = CoreHarness.running(["n0", "n1"], jobOf({ layout: FOUR }));
  for (let step = 1; step <= 5; step++) core.stepDone("n0", step, stepSeconds);
  core.hold({ n0: [AT_5], n1: [AT_5] });
  core.take();
  return core;
}
const pages = (core: CoreHarness, nodeId: string, more = {}) =>
  (core.job.generation!.nodeRanks.get(nodeId) ?? []).map((rank) => page(rank, more));
const hang = (core: CoreHarness, ms: number) => core.beat(ms, (nodeId) => pages(core, nodeId));
const told = (core: CoreHarness) => core.effects.flatMap((e) => (e.kind === "log" ? [e.entry.text] : []));
const outcome = (core: CoreHarness) => core.job.record.outcome;

test("stop: the ranks vote in time, the job ends with that state, and says where it is", () => {
  const core = running();
  core.stop();
  assert.deepEqual(core.commands(), ["n0 requestStop", "n1 requestStop"]);
  core.ended(6);
  assert.deepEqual(
    [outcome(core)?.phase, outcome(core)?.step, outcome(core)?.stepsGivenUp],
    ["STOPPED", 6, 0],
  );
  assert.equal(
    outcome(core)?.reason,
    "stopped as asked at step 6: 4 of 4 ranks finished, durable at file:///runs/shapes/checkpoint-6",
  );
});

test("stop: no vote in half of the grace: the newest state that memory holds is saved, and the job ends with it", () => {
  const core = running();
  core.stop(20);
  hang(core, 9_000);
  assert.ok(!core.commands().includes("n0 saveSnapshot"), "half of the grace is waited for a vote");
  hang(core, 2_000);
  assert.deepEqual(core.lastCommand("saveSnapshot").value.state, { generation: 1n, step: 5n });
  assert.equal(outcome(core), null);
  core.saved("n0", AT_5);
  assert.deepEqual(
    [outcome(core)?.phase, outcome(core)?.step, outcome(core)?.stepsGivenUp],
    ["STOPPED", 5, 0],
  );
  assert.match(
    outcome(core)!.reason,
    /step 5: saved from memory .*no vote in half of the grace.*checkpoint-5$/,
  );
  assert.ok(core.commands().includes("n1 release"));
});

test("stop: a vote that would come too late is not waited for, by how long steps took", () => {
  for (const { grace, atOnce } of [
    { grace: 0, atOnce: true },
    { grace: 6, atOnce: true },
    { grace: null, atOnce: false },
    { grace: 60, atOnce: false },
  ]) {
    const core = running(8);
    core.stop(grace);
    core.pass(0);
    assert.equal(core.commands().includes("n1 saveSnapshot"), atOnce, `grace ${grace}`);
    assert.ok(core.commands().includes("n1 requestStop"), "a vote may come all the same");
  }
});

test("stop: ranks that vote while memory is saved end with the newer state", () => {
  const core = running(8);
  core.stop(6);
  core.pass(0);
  core.stepDone("n0", 6, 8);
  core.saved("n0", AT_5);
  assert.equal(outcome(core), null);
  core.ended(6);
  assert.deepEqual([outcome(core)?.phase, outcome(core)?.step], ["STOPPED", 6]);
});

test("stop: memory was saved in time, the step that ended meanwhile is not: the job ends, and counts that step", () => {
  const core = running(8);
  core.stop(6);
  core.pass(0);
  core.saved("n0", { generation: 1, step: 4 });
  core.stepDone("n0", 6, 8);
  core.saved("n0", AT_5);
  assert.equal(outcome(core), null, "there is time left for the save of step 6");
  core.beat(7_000, (nodeId) => pages(core, nodeId, { step: 6n, phase: "finished" }));
  assert.deepEqual(
    [outcome(core)?.phase, outcome(core)?.step, outcome(core)?.stepsGivenUp],
    ["STOPPED", 5, 1],
  );
});

test("stop: where a save takes longer than the grace the vote is waited for, half of it: one save is made and not two", () => {
  const core = running(2);
  core.say("n0", {
    $case: "checkpointCommitted",
    value: {
      ...{ generation: 1n, state: { generation: 1n, step: 4n }, uri: "file:///runs/shapes/checkpoint-4" },
      ...{ bytes: 1n, seconds: 60 },
    },
  });
  core.stop();
  hang(core, 14_000);
  assert.ok(!core.commands().includes("n0 saveSnapshot"));
  hang(core, 2_000);
  assert.ok(core.commands().includes("n0 saveSnapshot"), "ranks that hang are not waited for any longer");
});

test("stop: what is still being saved when the grace is over is let end, and told", () => {
  const core = running(8);
  core.stop(6);
  hang(core, 7_000);
  assert.equal(outcome(core), null, "nobody takes the nodes: nothing is thrown away");
  assert.match(
    told(core).join("\n"),
    /the grace is over, and to end now would give up 5 steps; step 5 of generation 1 is still/,
  );
  hang(core, 30_000);
  core.saved("n0", AT_5);
  assert.deepEqual([outcome(core)?.phase, outcome(core)?.step], ["STOPPED", 5]);
});

test("stop: the grace is over, a step is under way, and all before it is durable: the job ends there", () => {
  const core = running();
  core.saved("n0", AT_5);
  core.stop(20);
  hang(core, 19_000);
  assert.equal(outcome(core), null);
  hang(core, 2_000);
  assert.equal(
    outcome(core)?.reason,
    "stopped as asked at step 5: durable at file:///runs/shapes/checkpoint-5; the step after it was not done within the grace",
  );
});

test("stop: ranks that have voted are let save, however long that takes", () => {
  const core = running();
  core.stop(10);
  core.beat(60_000, (nodeId) => pages(core, nodeId, { step: 6n, phase: "finished" }));
  assert.ok(!core.commands().includes("n0 saveSnapshot"));
  assert.equal(outcome(core), null);
  core.ended(6);
  assert.equal(outcome(core)?.step, 6);
});

test("stop while it recovers, with little time left: memory is saved, no generation is formed for a vote", () => {
  const core = running();
  core.stop(4);
  hang(core, 3_000);
  core.take();
  core.exited("n1", 2);
  core.beat(3_000);
  assert.equal(core.job.generation?.number, 1, core.job.reason);
  assert.match(core.job.reason, /step 5 of generation 1 is saved from memory first/);
  core.saved("n1", AT_5);
  assert.deepEqual(
    [outcome(core)?.phase, outcome(core)?.step, core.commands().includes("n0 prepare")],
    ["STOPPED", 5, false],
  );
});

test("stop where a node is lost with what memory held: it ends at what is durable, and counts what that gives up", () => {
  const core = running();
  core.saved("n0", { generation: 1, step: 3 });
  core.lose("n1");
  core.stop(10);
  core.failed("n0", 0, "COMM_PEER_DIED", 2);
  core.beat(40_000);
  assert.deepEqual(
    [outcome(core)?.phase, outcome(core)?.step, outcome(core)?.stepsGivenUp],
    ["STOPPED", 3, 2],
  );
});

test("stop while it waits for nodes: whatever the grace, what memory holds is saved before it ends", () => {
  for (const grace of [0, 30, 3600]) {
    const core = running();
    core.saved("n0", { generation: 1, step: 3 });
    core.exited("n1", 2);
    core.failed("n0", 0, "COMM_PEER_DIED", 2);
    core.state.quarantine.set("n1", {
      ...{ kind: "quarantine", nodeId: "n1", reason: "Xid 79", atMs: 0, untilMs: null, drained: false },
    });
    core.beat(3_000);
    core.hold({ n0: [AT_5], n1: [AT_5] });
    assert.equal(core.job.stage, "waiting");
    core.stop(grace);
    core.beat(3_000);
    assert.deepEqual(core.lastCommand("saveSnapshot").value.state, { generation: 1n, step: 5n }, `${grace}`);
    core.saved("n0", AT_5);
    assert.deepEqual([outcome(core)?.step, outcome(core)?.stepsGivenUp], [5, 0]);
  }
});

test("stop: after a change of leader, too, the steps that memory alone holds are counted as given up", () => {
  const core = running();
  core.saved("n0", { generation: 1, step: 3 });
  core.lead("c1");
  core.hello("n0", { jobId: "job-1", generation: 1n });
  core.hold({ n0: [{ generation: 1, step: 90 }] });
  core.beat(70_000); // n1 does not come back
  core.stop(0);
  core.beat(15_000);
  assert.deepEqual([outcome(core)?.step, outcome(core)?.stepsGivenUp], [3, 87]);
});

test("stop: a step that all hold when a rank dies while memory is saved is saved as well", () => {
  const core = running();
  core.stop(6);
  hang(core, 4_000);
  assert.deepEqual(core.lastCommand("saveSnapshot").value.state, { generation: 1n, step: 5n });
  core.stepDone("n0", 6);
  const at6 = { generation: 1, step: 6 };
  core.hold({ n0: [AT_5, at6], n1: [AT_5, at6] });
  core.exited("n1", 2);
  core.saved("n0", AT_5);
  core.beat(4_000);
  assert.deepEqual(core.lastCommand("saveSnapshot").value.state, { generation: 1n, step: 6n });
  core.saved("n0", at6);
  core.beat(1_000);
  assert.deepEqual([outcome(core)?.step, outcome(core)?.stepsGivenUp], [6, 0]);
});

test("stop: asked for twice the earlier end counts", () => {
  const core = running();
  const endMs = () => core.job.record.stop!.endMs! - core.nowMs;
  core.stop(20);
  core.stop(3_600);
  assert.equal(endMs(), 20_000);
  core.stop(5);
  assert.equal(endMs(), 5_000);
});

test("stop: a member that reconnects while memory is saved is told of it again", () => {
  const core = running();
  core.stop(0);
  core.pass(0);
  core.disconnect("n1");
  core.take();
  core.hello("n1", { jobId: "job-1", generation: 1n, ranks: pages(core, "n1") });
  assert.ok(core.commands().includes("n1 saveSnapshot"), core.commands().join());
});

test("stop: a new leader goes by the grace that was asked for", () => {
  const first = running();
  first.stop(20);
  const core = new CoreHarness();
  for (const [key, entry] of first.store) core.store.set(key, entry);
  core.nowMs = first.nowMs + 8_000;
  core.lead("c1");
  for (const [nodeId, ranks] of [
    ["n0", [0, 1]],
    ["n1", [2, 3]],
  ] as const) {
    core.hello(nodeId, { jobId: "job-1", generation: 1n, ranks: ranks.map((rank) => page(rank)) });
    core.hold({ [nodeId]: [AT_5] });
  }
  core.take();
  hang(core, 7_000);
  assert.ok(core.commands().includes("n0 saveSnapshot"), "half of the 12 s that were left");
});

test("stop: a leader that has heard from nobody yet does not end a job at the last that its predecessor wrote", () => {
  const core = running();
  core.saved("n0", AT_5);
  core.lead("c1");
  core.stop(0);
  core.pass(100);
  assert.equal(outcome(core), null, "its ranks may be far beyond step 5");
  for (const [nodeId, ranks] of [
    ["n0", [0, 1]],
    ["n1", [2, 3]],
  ] as const)
    core.hello(nodeId, { jobId: "job-1", generation: 1n, ranks: ranks.map((rank) => page(rank)) });
  core.stepDone("n0", 9);
  core.ended(10);
  assert.deepEqual([outcome(core)?.phase, outcome(core)?.step], ["STOPPED", 10]);
});

test("stop: a program of its own has its own time", () => {
  const core = CoreHarness.running(["n0"], programJobOf());
  core.take();
  core.stop(20);
  const [answer] = core.effects.flatMap((e) => (e.kind === "reply" ? [e.result] : []));
  assert.ok(answer !== undefined && !answer.ok && answer.code === "ARGUMENT_INVALID");
  assert.match(answer.message, /trainer.stop_grace_seconds/);
  core.stop();
  core.pass(120_000);
  assert.ok(core.commands().includes("n0 requestStop"));
  assert.equal(core.job.record.stop?.endMs, null);
});
