import assert from "node:assert/strict";
import { test } from "node:test";
import type { AgentMessage, CoreLimits, QuarantineRecord } from "../../../controller/core/contract.js";
import { nodeViews } from "../../../controller/core/views.js";
import type { CheckResult, SelfCheck } from "../../../gen/goku/v1/agent.pb.js";
import { CoreHarness, jobOf } from "./harness.js";

const HOUR_MS = 3_600_000;
const good = (name: string, value = 10, unit = "GB/s"): CheckResult => ({
  name,
  ok: true,
  value,
  unit,
  detail: "",
  seconds: 0.1,
  device: undefined,
});
const bad = (name: string): CheckResult => ({
  ...good(name, 0),
  ok: false,
  detail: "bits 0x00000080 differ",
});

/** A core that examines nodes, as production does. */
function examining(limits: Partial<CoreLimits> = {}): CoreHarness {
  const core = new CoreHarness({ selfCheckMs: 300, ...limits });
  core.lead();
  return core;
}

/** The newest self-check that a node was asked for. */
function asked(core: CoreHarness, nodeId: string): SelfCheck {
  const found = core.effects.findLast(
    (e) => e.kind === "send" && e.nodeId === nodeId && e.message.$case === "selfCheck",
  );
  assert.ok(found?.kind === "send" && found.message.$case === "selfCheck", `${nodeId} was not asked`);
  return found.message.value;
}

function answer(core: CoreHarness, nodeId: string, results: CheckResult[], busy = ""): void {
  const { checkId } = asked(core, nodeId);
  core.say(nodeId, { $case: "selfCheckReport", value: { checkId, results, busy } });
}
const begun = (checkId: bigint, clockMs: number): AgentMessage => ({
  $case: "selfCheckBegun",
  value: { checkId, clockMs: BigInt(clockMs), port: 0, pid: 0 },
});
const askedCount = (core: CoreHarness, nodeId: string) =>
  core.commands().filter((text) => text === `${nodeId} selfCheck`).length;
const stateOf = (core: CoreHarness, nodeId: string) => core.state.health.get(nodeId)!.state;
const viewOf = (core: CoreHarness, nodeId: string) =>
  nodeViews(core.state, core.nowMs).find((view) => view.nodeId === nodeId)!;

test("a node that joins is examined, and gets ranks once it has passed", () => {
  const core = examining();
  core.hello("n0");
  core.submit();
  assert.deepEqual(asked(core, "n0").checks, ["memory", "matrix", "copy", "disk", "loopback"]);
  assert.equal(asked(core, "n0").budgetMs, 300);
  assert.equal(core.job.stage, "queued");
  assert.equal(viewOf(core, "n0").unusable, "is being examined");
  answer(core, "n0", [good("memory"), good("copy")]);
  assert.equal(core.job.stage, "forming");
  assert.deepEqual([stateOf(core, "n0"), viewOf(core, "n0").unusable], ["passed", null]);
});

test("a node with CUDA devices has each examined as well; a bad one is named where the node is quarantined", () => {
  const core = examining();
  core.hello("n0", { device: "cuda", devices: [{ name: "NVIDIA H200", memoryBytes: 141n << 30n }] });
  const ofDevices = ["device_memory", "device_matrix", "device_upload", "device_download", "device_copy"];
  assert.deepEqual(asked(core, "n0").checks, ["memory", "matrix", "copy", "disk", "loopback", ...ofDevices]);
  assert.equal(asked(core, "n0").budgetMs, 300);
  answer(core, "n0", [
    good("memory"),
    { ...bad("device_memory"), device: { index: 3, name: "NVIDIA H200" } },
  ]);
  assert.equal(
    core.state.quarantine.get("n0")!.reason,
    "self-check: device_memory of device 3 (NVIDIA H200) failed: bits 0x00000080 differ",
  );
  const told = viewOf(core, "n0").checks.map(({ reading }) => reading.device);
  assert.deepEqual(told, [null, { index: 3, name: "NVIDIA H200" }]);
});

test("a node that fails is quarantined with its reason and an end, and gets no ranks; another one does", () => {
  const core = examining();
  core.hello("n0");
  core.hello("n1");
  core.submit();
  answer(core, "n0", [bad("memory"), good("copy")]);
  assert.equal(core.job.stage, "queued");
  const record = core.store.get("quarantine/n0")!.record as QuarantineRecord;
  assert.equal(record.reason, "self-check: memory failed: bits 0x00000080 differ");
  assert.equal(record.untilMs, core.nowMs + HOUR_MS);
  answer(core, "n1", [good("memory")]);
  assert.deepEqual(core.job.generation!.rankNodes, ["n1", "n1"]);
  assert.deepEqual([viewOf(core, "n0").quarantined, viewOf(core, "n0").selfCheck], [true, "failed"]);
});

test("a quarantine by self-check ends when the node passes after its time, and grows when it fails again", () => {
  const core = examining();
  core.hello("n0");
  answer(core, "n0", [bad("memory")]);
  core.take();
  core.beat(HOUR_MS - 1_000);
  assert.equal(askedCount(core, "n0"), 0);
  core.beat(1_000);
  assert.equal(askedCount(core, "n0"), 1);
  assert.ok(core.state.quarantine.has("n0"), "it is not used before it has passed");
  answer(core, "n0", [bad("memory")]);
  assert.equal(core.state.quarantine.get("n0")!.untilMs, core.nowMs + 2 * HOUR_MS);
  core.take();
  core.beat(2 * HOUR_MS);
  answer(core, "n0", [good("memory")]);
  assert.ok(!core.state.quarantine.has("n0") && !core.store.has("quarantine/n0"));
  core.submit();
  assert.equal(core.job.stage, "forming");
});

test("a quarantined node that was away when its time ended is examined when it comes back", () => {
  const core = examining();
  core.hello("n0");
  answer(core, "n0", [bad("memory")]);
  core.disconnect("n0");
  core.pass(2 * HOUR_MS);
  core.take();
  core.hello("n0", { incarnation: "n0#2" });
  answer(core, "n0", [good("memory")]);
  assert.ok(!core.state.quarantine.has("n0"));
});

test("an older quarantine record, without an end, is read and never ends by itself", () => {
  const core = new CoreHarness({ selfCheckMs: 300 });
  const record = { kind: "quarantine", nodeId: "n0", reason: "rank 0 could not be ended", atMs: 1 };
  core.write([{ key: "quarantine/n0", record: record as QuarantineRecord }]);
  core.lead();
  core.hello("n0");
  core.beat(30 * HOUR_MS);
  assert.equal(askedCount(core, "n0"), 0);
  assert.deepEqual([viewOf(core, "n0").quarantined, viewOf(core, "n0").quarantinedUntilMs], [true, null]);
});

test("a person's release counts more than what the checks found", () => {
  const core = examining();
  core.hello("n0");
  answer(core, "n0", [bad("memory")]);
  core.take();
  core.feed({ kind: "quarantineLifted", requestId: "r", nodeId: "n0" });
  core.submit();
  assert.equal(core.job.stage, "forming");
  assert.equal(askedCount(core, "n0"), 0);
});

test("a person's release counts for a new leader, too, whom the agent tells that it failed", () => {
  const core = examining();
  core.hello("n0");
  answer(core, "n0", [bad("memory")]);
  core.lead("c1");
  core.take();
  core.hello("n0", { selfCheck: { checkId: 1n, results: [bad("memory")], busy: "" } });
  core.feed({ kind: "quarantineLifted", requestId: "r", nodeId: "n0" });
  core.submit();
  assert.equal(core.job.stage, "forming");
});

test("a free node whose agent was busy is asked again", () => {
  const core = examining();
  core.hello("n0");
  answer(core, "n0", [], "2 of its ranks work");
  core.beat(2_000);
  assert.equal(askedCount(core, "n0"), 2);
});

test("agents that re-home while their ranks run are not examined, and nor is one that comes back for its job", () => {
  const core = examining();
  for (const nodeId of ["n0", "n1"]) core.hello(nodeId);
  core.submit(jobOf({ layout: { dp_replicate: 1, dp_shard: 2, sp: 2 } }));
  for (const nodeId of ["n0", "n1"]) answer(core, nodeId, [good("memory")]);
  core.form();
  core.stepDone("n0", 1);
  core.take();
  core.hello("n0", { jobId: "job-1", generation: 1n, ranks: [] });
  core.hello("n1", { incarnation: "n1#2", jobId: "job-1", generation: 1n });
  core.beat(5_000);
  assert.deepEqual([askedCount(core, "n0"), askedCount(core, "n1")], [0, 0]);
  assert.equal(core.job.generation!.number, 2);
  assert.ok(core.job.generation!.rankNodes.includes("n1"));
});

test("a node that its job gave back is examined before another job gets it, if it has not been", () => {
  const core = examining();
  core.submit(jobOf(), "job-old");
  core.feed({ kind: "stopRequested", requestId: "s", jobId: "job-old", graceMs: null });
  core.hello("n0", { jobId: "job-old" });
  assert.equal(askedCount(core, "n0"), 0);
  core.say("n0", { $case: "nodeReleased", value: { jobId: "job-old" } });
  assert.equal(askedCount(core, "n0"), 1);
});

test("a new leader believes an agent that has passed, and examines one that has not", () => {
  const core = examining();
  const report = (results: CheckResult[]) => ({ checkId: 1n, results, busy: "" });
  core.hello("n0", { selfCheck: report([good("memory")]) });
  core.hello("n1", { selfCheck: report([bad("memory")]) });
  assert.deepEqual([stateOf(core, "n0"), stateOf(core, "n1")], ["passed", "running"]);
  assert.deepEqual([askedCount(core, "n0"), askedCount(core, "n1")], [0, 1]);
});

test("an answer that is lost with its stream is asked for again, and one to an older question is ignored", () => {
  const core = examining();
  core.hello("n0");
  const first = asked(core, "n0").checkId;
  core.disconnect("n0");
  core.hello("n0");
  assert.equal(askedCount(core, "n0"), 2);
  core.say("n0", { $case: "selfCheckReport", value: { checkId: first, results: [bad("memory")], busy: "" } });
  assert.equal(stateOf(core, "n0"), "running");
  answer(core, "n0", [good("memory")]);
  assert.equal(stateOf(core, "n0"), "passed");
});

test("an agent that does not answer is asked again, and its node is not used meanwhile", () => {
  const core = examining({ selfCheckAnswerMs: 60_000 });
  core.hello("n0");
  core.submit();
  core.beat(61_000);
  assert.equal(askedCount(core, "n0"), 2);
  assert.equal(core.job.stage, "queued");
});

test("a slow node is measured once more, for longer, and quarantined when it is slow again", () => {
  const core = examining();
  for (let i = 0; i < 4; i++) core.hello(`n${i}`, { host: `10.0.0.${i}` });
  for (let i = 0; i < 3; i++) answer(core, `n${i}`, [good("copy", 10)]);
  answer(core, "n3", [good("copy", 2)]);
  assert.equal(asked(core, "n3").budgetMs, 1_500);
  assert.ok(!core.state.quarantine.has("n3"));
  answer(core, "n3", [good("copy", 3)]);
  assert.match(
    core.state.quarantine.get("n3")!.reason,
    /copy is 3 GB\/s, below 0\.5 of the fleet's median of 10/,
  );
});

test("nodes of one machine take its time from each other, whatever their addresses: none of them is slow", () => {
  const core = examining();
  const bootId = "0f6c1c1e-8d6a-4d0e-9d2b-0d3f6f0f0a11";
  for (let i = 0; i < 4; i++) core.hello(`n${i}`, { host: `10.0.0.${i}`, bootId });
  for (let i = 0; i < 3; i++) answer(core, `n${i}`, [good("copy", 10)]);
  answer(core, "n3", [good("copy", 2)]);
  assert.equal(stateOf(core, "n3"), "passed");
});

test("a node that is slow once is used when it is not slow the second time", () => {
  const core = examining();
  for (let i = 0; i < 4; i++) core.hello(`n${i}`, { host: `10.0.0.${i}` });
  for (let i = 0; i < 3; i++) answer(core, `n${i}`, [good("copy", 10)]);
  answer(core, "n3", [good("copy", 2)]);
  answer(core, "n3", [good("copy", 9)]);
  assert.equal(stateOf(core, "n3"), "passed");
});

test("a node's clock is read at the middle of the exchange, within half of its time", () => {
  const core = examining();
  for (let i = 0; i < 3; i++) core.hello(`n${i}`, { host: `10.0.0.${i}` });
  for (const [nodeId, aheadMs] of [
    ["n0", 0],
    ["n1", 40],
    ["n2", 2_000],
  ] as const) {
    core.nowMs += 100; // n0's question was under way for 100 ms, n1's for 200, n2's for 300
    const sentMs = core.state.health.get(nodeId)!.run!.sentMs;
    core.say(nodeId, begun(asked(core, nodeId).checkId, (sentMs + core.nowMs) / 2 + aheadMs));
    answer(core, nodeId, [good("memory")]);
  }
  const clock = (nodeId: string) =>
    core.state.health.get(nodeId)!.readings.find(({ name }) => name === "clock")!;
  assert.deepEqual([clock("n0").value, clock("n0").uncertainty], [0, 50]);
  assert.deepEqual([clock("n1").value, clock("n1").uncertainty], [40, 100]);
  assert.equal(clock("n2").value, 2_000);
  assert.equal(asked(core, "n2").budgetMs, 1_500, "its clock is read once more");
});

test("an auto layout waits for nodes that are being examined, not for ever", () => {
  const core = examining();
  core.hello("n0");
  core.hello("n1");
  core.submit(jobOf({ layout: "auto" }));
  answer(core, "n0", [good("memory")]);
  core.beat(3_000);
  assert.equal(core.job.reason, "1 node is being examined");
  core.beat(9_000);
  assert.equal(core.job.stage, "forming");
});

test("a node blamed for one fault is used again at once", () => {
  const core = examining();
  const job = trained(core);
  core.take();
  core.exited("n1", 2);
  core.pass(100);
  assert.equal(askedCount(core, "n1"), 0);
  assert.equal(job.generation!.number, 2);
});

test("a node blamed twice in a row is examined before it is used again; it passes, and its ranks go on", () => {
  const core = examining();
  const job = trained(core);
  core.exited("n1", 2);
  core.pass(100);
  core.take();
  core.exited("n1", 3, "SIGKILL");
  core.pass(100);
  assert.equal(job.stage, "waiting");
  assert.equal(job.reason, "examines n1 (2 faults in a row were laid to it) before it is used again");
  answer(core, "n1", [], "2 of its ranks work");
  core.pass(300);
  assert.equal(askedCount(core, "n1"), 2, "asked again once its ranks have left");
  answer(core, "n1", [good("memory")]);
  core.pass(1_000);
  assert.equal(job.generation!.number, 3);
  assert.deepEqual([...new Set(job.generation!.rankNodes)], ["n0", "n1"]);
});

test("a node blamed a third time within an hour is examined, though steps were completed in between; after a fourth others take its ranks", () => {
  const core = examining();
  core.hello("n2");
  answer(core, "n2", [good("memory")]);
  const job = trained(core);
  const known = [{ generation: 1, step: 4 }];
  const fault = (step: number) => {
    core.exited("n1", 2);
    core.pass(100);
    if (job.stage === "waiting") {
      assert.equal(
        job.reason,
        "examines n1 (3 faults within an hour were laid to it) before it is used again",
      );
      answer(core, "n1", [good("memory")]);
      core.pass(1_000);
    }
    core.form(known);
    core.stepDone("n0", step);
    return [...new Set(job.generation!.rankNodes)].join();
  };
  const asked = askedCount(core, "n1");
  assert.deepEqual([fault(6), fault(7)], ["n0,n1", "n0,n1"]);
  assert.equal(askedCount(core, "n1"), asked);
  assert.equal(fault(8), "n0,n1");
  assert.equal(askedCount(core, "n1"), asked + 1);
  core.pass(1_000);
  assert.equal(fault(9), "n0,n2");
  assert.match(core.job.incidents.at(-1)!.decisions[0]!.text, /without n1 \(4 faults within an hour\)/);
});

test("a node whose state changed in memory is examined before it is used again", () => {
  const core = examining();
  const job = trained(core);
  core.failed("n1", 2, "RANK_CORRUPT");
  core.pass(100);
  assert.match(job.reason, /^examines n1 \(blamed for RANK_CORRUPT\)/);
});

test("a node that fails after its second fault gives its ranks to a spare", () => {
  const core = examining();
  core.hello("n2");
  answer(core, "n2", [good("memory")]);
  const job = trained(core);
  core.exited("n1", 2);
  core.pass(100);
  core.exited("n1", 3);
  core.pass(100);
  answer(core, "n1", [bad("matrix")]);
  core.pass(1_000);
  assert.deepEqual([...new Set(job.generation!.rankNodes)].sort(), ["n0", "n2"]);
  assert.match(core.state.quarantine.get("n1")!.reason, /matrix failed/);
});

test("a job does not wait for an examination that does not end", () => {
  const core = examining();
  const job = trained(core);
  core.exited("n1", 2);
  core.pass(100);
  core.exited("n1", 3);
  core.beat(7_000);
  assert.equal(job.generation!.number, 3);
});

test("wrong sums in a first collective have the node that is blamed examined at once", () => {
  const core = examining();
  const job = trained(core);
  core.exited("n0", 0);
  core.pass(100);
  core.take();
  core.failed("n1", 2, "COMM_CHECK_FAILED");
  core.pass(1_100);
  assert.equal(askedCount(core, "n1"), 1);
  assert.match(job.reason, /^examines n1 \(blamed for COMM_CHECK_FAILED\)/);
});

/** A job of four ranks on n0 and n1, both of which have passed, in mid-run. */
function trained(core: CoreHarness) {
  for (const nodeId of ["n0", "n1"]) {
    core.hello(nodeId);
    answer(core, nodeId, [good("memory")]);
  }
  core.submit(jobOf({ layout: { dp_replicate: 1, dp_shard: 2, sp: 2 } }));
  core.form();
  core.stepDone("n0", 1);
  return core.job;
}
