import assert from "node:assert/strict";
import { test } from "node:test";
import type { NodeFate } from "../../../controller/core/contract.js";
import { phaseOf } from "../../../controller/core/views.js";
import { CoreHarness } from "./harness.js";

const OOM: NodeFate = {
  code: "NODE_OUT_OF_MEMORY",
  text: "pod n1 was killed for its memory limit of 8Gi (OOMKilled)",
  endsAtMs: null,
  down: true,
};

/** Four ranks on n0 and n1, five steps done; n2 is free. */
function running(): CoreHarness {
  const core = CoreHarness.running();
  for (let step = 1; step <= 5; step++) core.stepDone("n0", step);
  core.take();
  return core;
}
const fate = (core: CoreHarness, told: NodeFate, nodeId = "n1") =>
  core.feed({ kind: "nodeFate", nodeId, fate: told });
const incident = (core: CoreHarness) => core.job.incidents.at(-1);

test("a pod that is down ends its generation at once, and nobody waits for what its memory held", () => {
  const core = running();
  core.disconnect("n1");
  assert.equal(phaseOf(core.job), "RUNNING", "a stream that ends proves nothing");
  fate(core, OOM);
  assert.equal(phaseOf(core.job), "RECOVERING");
  core.beat(2_000);
  assert.deepEqual(core.job.generation?.rankNodes, ["n0", "n0", "n2", "n2"]);
  assert.deepEqual(
    [incident(core)?.code, incident(core)?.what, incident(core)?.nodeId],
    [OOM.code, OOM.text, "n1"],
  );
});

test("a pod that is said to be down while its agent is heard changes nothing until the stream ends", () => {
  const core = running();
  fate(core, OOM);
  assert.equal(phaseOf(core.job), "RUNNING");
  core.disconnect("n1");
  assert.equal(phaseOf(core.job), "RECOVERING");
  assert.equal(incident(core)?.what, OOM.text);
});

test("a node that goes on past the end that its platform told late, of an earlier process, is used again; one that says so itself is not", () => {
  const core = running();
  core.hello("n2", { incarnation: "n2#2" });
  const text = "pod n2 is evicted, as kubectl drain does";
  const endsAtMs = core.nowMs + 20_000;
  fate(core, { code: "NODE_PREEMPTED", text, endsAtMs, down: false }, "n2");
  core.beat(25_000);
  assert.equal(core.state.nodes.get("n2")?.leaving?.reason, text);
  core.beat(8_000);
  assert.equal(core.state.nodes.get("n2")?.leaving, null);
  core.say("n2", { $case: "nodeLeaving", value: { graceMs: 20_000n, reason: "SIGTERM" } });
  core.beat(60_000);
  assert.equal(core.state.nodes.get("n2")?.leaving?.reason, "SIGTERM");
});

test("what is said of a pod's earlier container does not touch the agent that came after it", () => {
  const core = running();
  fate(core, { ...OOM, down: false });
  core.hello("n1", { incarnation: "n1#2" });
  core.beat(3_000);
  core.take();
  const attempts = core.job.incidents.length;
  core.disconnect("n1");
  fate(core, { ...OOM, down: false });
  assert.equal(core.state.nodes.get("n1")?.leaving, null, "it may come back");
  assert.equal(core.job.incidents.length, attempts);
});

test("an incident that is over already is told again with its cause, durably", () => {
  const core = running();
  core.hello("n1", { incarnation: "n1#2" });
  core.beat(2_000);
  core.form();
  core.stepDone("n0", 6);
  const before = incident(core)!;
  assert.deepEqual([before.outcome, before.code], ["recovered", "NODE_LOST"]);
  const seen = before.what;
  fate(core, { ...OOM, down: false });
  const key = `incidents/${core.job.record.jobId}/000001`;
  const record = core.store.get(key)?.record;
  assert.ok(record?.kind === "incident");
  assert.deepEqual([record.code, record.what], [OOM.code, OOM.text]);
  assert.ok(
    record.evidence.some(({ text }) => text === seen),
    "what was seen stays",
  );
});

test("an incident of another kind on that node keeps its name", () => {
  const core = running();
  fate(core, OOM, "n0");
  core.disconnect("n0");
  assert.equal(incident(core)?.code, "NODE_OUT_OF_MEMORY");
  fate(core, { ...OOM, code: "NODE_LOST", text: "pod n0 is gone" }, "n0");
  assert.equal(incident(core)?.code, "NODE_OUT_OF_MEMORY", "the first that the platform said is the cause");
});

test("a pod that is to be ended leaves like one whose agent said so", () => {
  const core = running();
  const text = "pod n1 is preempted by the scheduler";
  fate(core, { code: "NODE_PREEMPTED", text, endsAtMs: core.nowMs + 40_000, down: false });
  assert.deepEqual(core.commands(), ["n0 requestStop", "n1 requestStop"]);
  assert.equal(core.state.nodes.get("n1")?.leaving?.untilMs, core.nowMs + 40_000);
  core.leaves("n1");
  core.ended(5);
  assert.deepEqual(core.job.generation?.rankNodes, ["n0", "n0", "n2", "n2"]);
  assert.match(incident(core)?.what ?? "", /preempted by the scheduler/);
});

test("an agent that said first that it leaves is told why by the platform", () => {
  const core = running();
  core.leaves("n1");
  const text = "pod n1 is evicted: drained by kubectl";
  fate(core, { code: "NODE_PREEMPTED", text, endsAtMs: core.nowMs + 40_000, down: false });
  assert.equal(incident(core)?.what, text);
  assert.ok(incident(core)?.evidence.some((one) => one.text.includes("asked to by SIGTERM")));
  assert.ok(core.state.nodes.get("n1")!.leaving!.untilMs <= core.nowMs + 30_000, "its own grace counts");
});

test("what was said before anybody saw it explains the incident that follows, also of a process that is back, and no later one", () => {
  const core = running();
  fate(core, { ...OOM, down: false });
  core.disconnect("n1");
  core.hello("n1", { incarnation: "n1#2" });
  core.beat(2_000);
  assert.deepEqual([incident(core)?.code, incident(core)?.what], [OOM.code, OOM.text]);
  core.form();
  core.stepDone("n0", 6);
  core.hello("n1", { incarnation: "n1#3" });
  core.beat(2_000);
  assert.equal(core.job.incidents.length, 2);
  assert.equal(incident(core)?.code, "NODE_LOST");
});

test("a pod that was asked to leave and is gone then keeps the cause as its name", () => {
  const core = running();
  const text = "pod n1 is preempted by the scheduler";
  fate(core, { code: "NODE_PREEMPTED", text, endsAtMs: core.nowMs + 40_000, down: false });
  core.disconnect("n1");
  fate(core, { code: "NODE_LOST", text: "pod n1 is gone", endsAtMs: null, down: true });
  assert.match(incident(core)!.what, /preempted by the scheduler/);
  assert.equal(incident(core)!.code, "NODE_PREEMPTED");
});

test("what is said of the present process explains no incident of an earlier one, but the one that follows", () => {
  const core = running();
  core.hello("n1", { incarnation: "n1#2" });
  core.beat(2_000);
  core.form();
  core.stepDone("n0", 6);
  const before = structuredClone(incident(core)!);
  assert.equal(before.code, "NODE_LOST");
  fate(core, OOM); // before its stream ends
  assert.deepEqual(core.job.incidents, [before]);
  core.disconnect("n1");
  assert.equal(core.job.incidents.length, 2);
  assert.deepEqual([incident(core)!.code, incident(core)!.what], [OOM.code, OOM.text]);
});
