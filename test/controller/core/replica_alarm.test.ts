import assert from "node:assert/strict";
import { test } from "node:test";
import { CoreHarness, jobOf } from "./harness.js";

/** Two ranks on two nodes that train, and keep each other's states. */
function running(): CoreHarness {
  const core = new CoreHarness();
  core.lead();
  for (const nodeId of ["n0", "n1"]) core.hello(nodeId, { slots: 1, peerPort: 7_000 });
  core.submit(jobOf());
  core.form();
  core.stepDone("n0", 5, 0.5, 3);
  core.take();
  return core;
}

function copyFails(core: CoreHarness, rank: number, step: number): void {
  const error = { code: "COMM_PEER_DIED", message: "Cannot send", peer: undefined, operation: "" };
  const state = { generation: 1n, step: BigInt(step) };
  const value = { generation: 1n, rank, state, keeperNodeId: `n${1 - rank}`, error };
  core.say(`n${rank}`, { $case: "replicaFailed", value });
}

/** Entries of the alarm kind since the last look. */
function told(core: CoreHarness): string[] {
  return core.take().flatMap((e) => (e.kind === "log" && e.entry.type === "alarm" ? [e.entry.text] : []));
}

test("a copy that does not arrive is told once for each state, with what survives a lost node meanwhile", () => {
  const core = running();
  copyFails(core, 0, 5);
  copyFails(core, 1, 5);
  const alarms = told(core);
  assert.equal(alarms.length, 1, alarms.join("\n"));
  assert.equal(
    alarms[0],
    "copying step 5 of generation 1 of rank 0 to n1 failed (COMM_PEER_DIED: Cannot send); training goes on, step 3 of generation 1 stays the newest that survives the loss of a node",
  );
  assert.equal(core.job.incident, null);
});

test("the alarm ends, and that is told, when that state or a later one is in two places", () => {
  const core = running();
  copyFails(core, 0, 5);
  told(core);
  core.stepDone("n0", 6, 0.5, 3);
  assert.deepEqual(told(core), []);
  core.stepDone("n0", 7, 0.5, 5);
  core.stepDone("n0", 8, 0.5, 5);
  assert.deepEqual(told(core), ["copies arrive again: step 5 of generation 1 is replicated"]);
});
