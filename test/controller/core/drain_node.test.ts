import assert from "node:assert/strict";
import { test } from "node:test";
import { nodeViews, phaseOf } from "../../../controller/core/views.js";
import { quarantinesOf } from "../../../controller/kubernetes/shell_training.js";
import { CoreHarness, FOUR, jobOf } from "./harness.js";

function running(nodes = ["n0", "n1", "n2"]): CoreHarness {
  const core = CoreHarness.running(nodes);
  core.stepDone("n0", 5);
  core.take();
  return core;
}
const drain = (core: CoreHarness, nodeId: string) =>
  core.feed({ kind: "drainRequested", requestId: "drain", nodeId });
const viewOf = (core: CoreHarness, nodeId: string) =>
  nodeViews(core.state, core.nowMs).find((node) => node.nodeId === nodeId)!;
const answer = (core: CoreHarness) => core.effects.find((effect) => effect.kind === "reply")?.result;

test("a drained member: its job saves at the next vote and goes on elsewhere, the drain is durable", () => {
  const core = running();
  drain(core, "n1");
  assert.deepEqual(answer(core), { ok: true, jobId: "" });
  assert.deepEqual(core.commands(), ["n0 requestStop", "n1 requestStop"]);
  core.stepDone("n0", 6);
  core.ended(6);
  assert.deepEqual(core.job.generation?.rankNodes, ["n0", "n0", "n2", "n2"]);
  assert.equal(core.job.record.stop, null, "nobody asked for the job's end");
  core.form();
  core.stepDone("n0", 7);
  const [incident] = core.job.incidents;
  assert.deepEqual(
    [incident?.outcome, incident?.what, incident?.stepsLost],
    ["recovered", "n1 is drained, asked to by a person", 0],
  );
  assert.ok(core.store.has("quarantine/n1"), "a later leader knows of it");
});

test("a drained node gets no ranks until a person releases it", () => {
  const core = new CoreHarness();
  core.lead();
  core.hello("n0");
  core.hello("n1");
  drain(core, "n1");
  core.submit(jobOf({ layout: FOUR }));
  assert.equal(phaseOf(core.job), "QUEUED");
  core.feed({ kind: "quarantineLifted", requestId: "release", nodeId: "n1" });
  assert.equal(core.job.stage, "forming");
});

test("a node that is drained twice is quarantined once, and one that nobody knows not at all", () => {
  const core = running();
  drain(core, "n1");
  const { atMs } = core.state.quarantine.get("n1")!;
  core.nowMs += 1_000;
  drain(core, "n1");
  assert.equal(core.state.quarantine.get("n1")?.atMs, atMs);
  assert.equal(core.job.incidents.length, 1);
  core.take();
  drain(core, "n9");
  assert.match(JSON.stringify(answer(core)), /NOT_FOUND.*Cannot drain node n9/);
  assert.equal(core.state.quarantine.has("n9"), false);
});

test("a drained node is shown as drained and is no fault of a machine; also to a new leader", () => {
  const core = running();
  drain(core, "n1");
  const shown = () => {
    const { unusable, quarantined, drained } = viewOf(core, "n1");
    return { unusable, quarantined, drained };
  };
  const drained = { unusable: "drained by a person", quarantined: true, drained: true };
  assert.deepEqual(shown(), drained);
  assert.deepEqual(quarantinesOf(core.state), [], "no taint, no eviction, no release by a pod that comes");
  core.lead("c1");
  assert.deepEqual(shown(), drained);
  assert.deepEqual(quarantinesOf(core.state), []);
});

test("a drain does not hide a fault that a node is quarantined for, and takes its end away", () => {
  const core = running();
  const reason = "rank 3 could not be ended";
  const untilMs = core.nowMs + 3_600_000;
  core.state.quarantine.set("n0", {
    kind: "quarantine",
    nodeId: "n0",
    reason,
    atMs: 7,
    untilMs,
    drained: false,
    machine: "boot-1",
  });
  drain(core, "n0");
  assert.ok(!("machine" in core.state.quarantine.get("n0")!), "a boot does not end what a person wants");
  assert.deepEqual(quarantinesOf(core.state), [{ nodeId: "n0", reason, atMs: 7, untilMs: null }]);
  assert.equal(viewOf(core, "n0").drained, false);
});
