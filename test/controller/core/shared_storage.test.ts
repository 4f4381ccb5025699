import assert from "node:assert/strict";
import { test } from "node:test";
import type { Job } from "../../../job/job.js";
import { CoreHarness, FOUR, jobOf, programJobOf } from "./harness.js";

const proof = (core: CoreHarness, nodeId: string, missing: string[], { written = true, error = "" } = {}) =>
  core.say(nodeId, {
    $case: "storageProof",
    value: { generation: BigInt(core.job.generation!.number), written, missingNodeIds: missing, error },
  });
const asked = (core: CoreHarness) => core.lastCommand("connect").value.proveStorage;
const logs = (core: CoreHarness, level: string) =>
  core.effects.flatMap((e) => (e.kind === "log" && e.entry.level === level ? [e.entry.text] : []));
const at = (uri: string): Job => ({ ...jobOf({ layout: FOUR }), checkpoint: { ...jobOf().checkpoint, uri } });

/** The next generation of the same nodes, after a rank died. */
function again(core: CoreHarness): void {
  core.exited("n1", 2);
  core.failed("n0", 0, "COMM_PEER_DIED", 2);
  core.pass(2_000);
  core.form([{ generation: core.job.generation!.number - 1, step: 1 }]);
}

test("shared storage: asked of several nodes and a folder, never of one node, of s3:// or of a program of its own", () => {
  assert.equal(asked(CoreHarness.running()), true);
  assert.equal(asked(CoreHarness.running(["n0"], jobOf())), false);
  assert.equal(asked(CoreHarness.running(["n0", "n1"], at("s3://bucket/run"))), false);
  assert.equal(asked(CoreHarness.running(["n0", "n1"], programJobOf({ layout: FOUR }))), false);
});

test("shared storage: once all members have shown it, they are not asked again; a new agent is, and all with it", () => {
  const core = CoreHarness.running(["n0", "n1"]);
  proof(core, "n0", []);
  core.stepDone("n0", 1);
  again(core);
  assert.equal(asked(core), true, "n1 has not answered");
  proof(core, "n0", []);
  proof(core, "n1", []);
  core.stepDone("n0", 2);
  again(core);
  assert.equal(asked(core), false);
  core.disconnect("n1");
  core.hello("n1", { incarnation: "n1#2" });
  core.failed("n0", 0, "COMM_PEER_DIED", 2);
  core.pass(2_000);
  core.form();
  assert.equal(asked(core), true);
});

test("shared storage: two nodes that do not see each other end a job that has no checkpoint yet, and it says what to do", () => {
  const core = CoreHarness.running(["n0", "n1"]);
  proof(core, "n1", ["n0"]);
  assert.ok(core.job.stage === "running", "n0 may only be late");
  proof(core, "n0", ["n1"]);
  const { outcome } = core.job.record;
  assert.deepEqual([outcome?.phase, outcome?.code], ["FAILED", "STORAGE_NOT_SHARED"]);
  assert.equal(
    outcome?.reason,
    "Cannot save to file:///runs/shapes: it is not one folder on all nodes: n0 does not see what n1 wrote there, and is not seen by them; mount the same file system there on all nodes, or set checkpoint.uri to s3://BUCKET/PREFIX",
  );
});

test("shared storage: one that was late, or could not write, is not called unshared", () => {
  const late = CoreHarness.running(["n0", "n1"]);
  proof(late, "n0", ["n1"]);
  proof(late, "n1", []);
  const full = CoreHarness.running(["n0", "n1"]);
  proof(full, "n0", ["n1"]);
  proof(full, "n1", ["n0"], { written: false, error: "ENOSPC: no space left on device" });
  for (const core of [late, full]) assert.equal(core.job.record.outcome, null);
  assert.match(logs(full, "warning").join(), /n1 cannot prove .* is shared by all nodes: ENOSPC/);
});

test("shared storage: a newcomer that does not share raises an alarm and is avoided; the job goes on", () => {
  const core = CoreHarness.running(["n0", "n1"]);
  proof(core, "n0", []);
  proof(core, "n1", []);
  core.stepDone("n0", 1);
  core.hello("n2");
  core.leaves("n1");
  core.ended(2);
  core.form();
  assert.deepEqual(core.job.generation!.rankNodes, ["n0", "n0", "n2", "n2"]);
  assert.equal(asked(core), true);
  proof(core, "n2", ["n0"]);
  proof(core, "n0", ["n2"]);
  assert.equal(core.job.record.outcome, null);
  assert.deepEqual([...core.job.avoided.keys()], ["n2"]);
  assert.match(logs(core, "alarm").join(), /n0 does not see what n2 wrote there.*training goes on/);
});

test("shared storage: every member tells of a newcomer, and people are told once", () => {
  const core = CoreHarness.running(["n0", "n1", "n2"], {
    ...jobOf({ layout: { dp_replicate: 1, dp_shard: 3, sp: 2 } }),
  });
  for (const nodeId of ["n0", "n1", "n2"]) proof(core, nodeId, []);
  core.stepDone("n0", 1);
  core.disconnect("n2");
  core.hello("n2", { incarnation: "n2#2" });
  core.pass(2_000);
  core.form([{ generation: 1, step: 1 }]);
  proof(core, "n2", ["n0", "n1"]);
  for (const nodeId of ["n0", "n1"]) proof(core, nodeId, ["n2"]);
  assert.equal(logs(core, "alarm").filter((text) => text.includes("not one folder")).length, 1);
});

test("shared storage: a leader that does not know who has shared ends no job that may have come far", () => {
  const core = CoreHarness.running(["n0", "n1"]);
  proof(core, "n0", []);
  proof(core, "n1", []);
  for (let step = 1; step <= 91; step++) core.stepDone("n0", step);
  core.lead("c1");
  core.hello("n0", { jobId: "job-1", generation: 1n });
  core.hello("n1", { jobId: "job-1", incarnation: "n1#2" });
  core.pass(2_000);
  core.form([{ generation: 1, step: 91 }]);
  proof(core, "n1", ["n0"]);
  proof(core, "n0", ["n1"]);
  assert.equal(core.job.record.outcome, null);
  assert.match(logs(core, "alarm").join(), /not one folder on all nodes.*training goes on/);
});

test("shared storage: answers of nodes without a place, and of older generations, count for nothing", () => {
  const core = CoreHarness.running();
  proof(core, "n2", ["n0", "n1"]);
  proof(core, "n0", ["n2"]);
  assert.equal(core.job.record.outcome, null);
  core.stepDone("n0", 1);
  again(core);
  for (const [nodeId, missing] of [
    ["n0", "n1"],
    ["n1", "n0"],
  ] as const)
    core.say(nodeId, {
      $case: "storageProof",
      value: { generation: 1n, written: true, missingNodeIds: [missing], error: "" },
    });
  assert.ok(!logs(core, "alarm").some((text) => text.includes("not one folder")));
});
