import assert from "node:assert/strict";
import { test } from "node:test";
import { CoreHarness, jobOf } from "./harness.js";

/** Two ranks on two nodes that train. */
function running(): CoreHarness {
  const core = new CoreHarness();
  core.lead();
  for (const nodeId of ["n0", "n1"]) core.hello(nodeId, { slots: 1 });
  core.submit(jobOf());
  core.form();
  core.stepDone("n0", 5);
  core.take();
  return core;
}

function saveFails(core: CoreHarness, nodeId: string, step: number): void {
  const error = { code: "STORAGE_FULL", message: "Cannot write: full", peer: undefined, operation: "" };
  const value = { generation: 1n, state: { generation: 1n, step: BigInt(step) }, error };
  core.say(nodeId, { $case: "checkpointFailed", value });
}

/** Entries of the alarm kind since the last look. */
function told(core: CoreHarness): string[] {
  return core.take().flatMap((e) => (e.kind === "log" && e.entry.type === "alarm" ? [e.entry.text] : []));
}

test("a failed save is told once, whoever failed in it and however often that is repeated; training goes on", () => {
  const core = running();
  saveFails(core, "n0", 10);
  saveFails(core, "n1", 10);
  core.disconnect("n0");
  core.hello("n0", { slots: 1, jobId: "job-1", generation: 1n });
  saveFails(core, "n0", 10);
  const alarms = told(core);
  assert.equal(alarms.length, 1, alarms.join("\n"));
  assert.match(
    alarms[0]!,
    /saving step 10 of generation 1 failed on \S+ \(STORAGE_FULL: .*\); training goes on/,
  );
  saveFails(core, "n0", 20);
  assert.equal(told(core).length, 1, "another save, another alarm");
});

test("an alarm ends, and that is told, when a later save succeeds; an older one that was slow does not end it", () => {
  const core = running();
  saveFails(core, "n0", 20);
  told(core);
  core.saved("n0", { generation: 1, step: 10 });
  assert.deepEqual(told(core), []);
  core.saved("n0", { generation: 1, step: 30 });
  assert.deepEqual(told(core), ["saves succeed again: step 30 of generation 1 is durable"]);
  core.saved("n0", { generation: 1, step: 40 });
  assert.deepEqual(told(core), []);
});

test("an alarm is told by a new leader, to whom the agents repeat it", () => {
  const first = running();
  const core = new CoreHarness();
  for (const [key, entry] of first.store) core.store.set(key, entry);
  core.nowMs = 50_000;
  core.lead("c1");
  core.hello("n0", { slots: 1, jobId: "job-1", generation: 1n });
  core.take();
  saveFails(core, "n0", 10);
  assert.equal(told(core).length, 1);
});
