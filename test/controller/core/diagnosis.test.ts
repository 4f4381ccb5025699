import assert from "node:assert/strict";
import { test } from "node:test";
import type { QuarantineRecord } from "../../../controller/core/contract.js";
import { Fleet, result } from "./examined_fleet.js";
import { jobOf } from "./harness.js";

test("a diagnosis of good nodes examines each, then all in pairs, and passes them", () => {
  const fleet = new Fleet(4);
  fleet.diagnose();
  assert.equal(fleet.view.done, true);
  assert.equal(fleet.verdicts, "n0 passed, n1 passed, n2 passed, n3 passed");
  assert.deepEqual(fleet.groups, [
    ["n0", "n1"],
    ["n2", "n3"],
  ]);
  const [first] = fleet.view.nodes;
  assert.deepEqual(
    first!.checks.map(({ reading, verdict }) => `${reading.name} ${verdict}`),
    ["memory ok", "copy ok", "clock ok", "collective ok"],
  );
  assert.equal(first!.checks[1]!.median, 10);
});

test("a node that fails alone is quarantined, and takes part in no collective", () => {
  const fleet = new Fleet(4);
  fleet.bad.add("n1");
  fleet.diagnose();
  assert.equal(fleet.verdicts, "n0 passed, n1 failed, n2 passed, n3 passed");
  assert.deepEqual(fleet.groups, [["n0", "n2", "n3"]]);
  assert.match(fleet.view.nodes[1]!.reason, /^memory failed: bits differ/);
  assert.ok(fleet.core.state.quarantine.has("n1"));
});

test("a node with which collectives fail is found in the second round and quarantined; its partner is not", () => {
  const fleet = new Fleet(4);
  fleet.deaf.add("n2");
  fleet.diagnose();
  assert.equal(fleet.verdicts, "n0 passed, n1 passed, n2 failed, n3 passed");
  const record = fleet.core.store.get("quarantine/n2")!.record as QuarantineRecord;
  assert.match(record.reason, /^self-check: collective failed/);
  assert.ok(record.untilMs! > fleet.core.nowMs);
  assert.deepEqual([...fleet.core.state.quarantine.keys()], ["n2"]);
});

test("a way between two good nodes is named, and no node is quarantined for it", () => {
  const fleet = new Fleet(4);
  fleet.cut = ["n0", "n1"];
  fleet.diagnose();
  assert.equal(fleet.verdicts, "n0 passed, n1 passed, n2 passed, n3 passed");
  assert.deepEqual(fleet.view.badLinks, [["n0", "n1"]]);
  assert.equal(fleet.core.state.quarantine.size, 0);
});

test("two nodes whose collective fails are both suspect, and stay in use", () => {
  const fleet = new Fleet(2);
  fleet.deaf.add("n1");
  fleet.diagnose();
  assert.equal(fleet.verdicts, "n0 suspect, n1 suspect");
  assert.equal(fleet.core.state.quarantine.size, 0);
});

test("nodes that run a job are left alone, and named busy with their job", () => {
  const fleet = new Fleet(3);
  fleet.core.submit(jobOf());
  fleet.core.form();
  fleet.core.stepDone("n0", 1);
  const before = fleet.core.commands().length;
  fleet.diagnose();
  assert.equal(fleet.verdicts, "n0 skipped, n1 passed, n2 passed");
  assert.equal(fleet.view.nodes[0]!.reason, "busy: runs job shapes");
  assert.ok(
    !fleet.core
      .commands()
      .slice(before)
      .some((text) => text.startsWith("n0")),
  );
});

test("a job that comes during a diagnosis gets its nodes after it", () => {
  const fleet = new Fleet(2);
  fleet.mute.add("n0").add("n1");
  fleet.diagnose();
  fleet.core.submit(jobOf());
  assert.equal(fleet.core.job.stage, "queued");
  fleet.mute.clear();
  fleet.core.hello("n0", { host: "10.0.0.0" });
  fleet.run();
  assert.equal(fleet.core.job.stage, "forming");
});

test("a node that has passed alone is given to no job before its collectives are over", () => {
  const fleet = new Fleet(3);
  fleet.mute.add("n2");
  fleet.diagnose();
  assert.equal(fleet.verdicts, "n0 passed, n1 passed, n2 running");
  fleet.core.submit(jobOf());
  assert.equal(fleet.core.job.stage, "queued");
  fleet.core.disconnect("n2");
  fleet.core.hello("n2", { host: "10.0.0.2", incarnation: "n2#2" });
  fleet.run();
  assert.deepEqual(fleet.groups, [["n0", "n1"]]);
  assert.equal(fleet.core.job.stage, "forming");
});

test("a node that is lost meanwhile is skipped, and its partner is tried with another", () => {
  const fleet = new Fleet(4);
  fleet.mute.add("n0");
  fleet.diagnose();
  fleet.core.disconnect("n0");
  fleet.core.hello("n0", { host: "10.0.0.0", incarnation: "n0#2" });
  fleet.mute.clear();
  fleet.run();
  assert.equal(fleet.view.done, true);
  assert.equal(fleet.verdicts, "n0 skipped, n1 passed, n2 passed, n3 passed");
});

for (const [what, returns] of [
  ["stays away", false],
  ["comes back as another process", true],
] as const)
  test(`a node that passed alone, is lost before the collectives and ${what} is skipped, not quarantined`, () => {
    const fleet = new Fleet(4);
    fleet.mute.add("n3");
    fleet.diagnose();
    assert.equal(fleet.verdicts, "n0 passed, n1 passed, n2 passed, n3 running");
    const { checkId } = fleet.core.state.health.get("n3")!.run!;
    fleet.core.disconnect("n0");
    fleet.mute.clear();
    if (returns) fleet.core.hello("n0", { host: "10.0.0.0", incarnation: "n0#2" });
    const value = { checkId: BigInt(checkId), results: [result("memory"), result("copy")], busy: "" };
    fleet.core.say("n3", { $case: "selfCheckReport", value });
    fleet.run();
    assert.equal(fleet.view.done, true);
    assert.equal(fleet.verdicts, "n0 skipped, n1 passed, n2 passed, n3 passed");
    assert.equal(fleet.view.nodes[0]!.reason, "it was lost meanwhile");
    assert.deepEqual(fleet.groups, [["n1", "n2", "n3"]]);
    assert.equal(fleet.core.state.quarantine.size, 0);
  });

test("a collective nobody hears of fails in its time, and the node that does not answer is found", () => {
  const fleet = new Fleet(4);
  fleet.mute.add("n3");
  fleet.diagnose();
  // Its own checks have been answered before it went silent.
  const { checkId } = fleet.core.state.health.get("n3")!.run!;
  const results = [result("memory"), result("copy")];
  fleet.core.say("n3", { $case: "selfCheckReport", value: { checkId: BigInt(checkId), results, busy: "" } });
  for (let i = 0; i < 5; i++) {
    fleet.run();
    fleet.core.beat(20_000);
  }
  fleet.run();
  assert.equal(fleet.verdicts, "n0 passed, n1 passed, n2 passed, n3 failed");
  assert.match(fleet.core.state.quarantine.get("n3")!.reason, /did not say what came of it/);
});

test("an unknown node and a second diagnosis at once are refused", () => {
  const fleet = new Fleet(2);
  fleet.diagnose(["n0", "n9"]);
  assert.equal(fleet.refusal()?.code, "NOT_FOUND");
  fleet.mute.add("n0");
  fleet.diagnose(["n0"]);
  assert.equal(fleet.refusal(), null);
  fleet.diagnose(["n1"]);
  assert.equal(fleet.refusal()?.code, "CONFLICT");
  assert.match(fleet.refusal()!.message, /diagnosis 1 is under way/);
});

test("a node named alone is examined alone", () => {
  const fleet = new Fleet(3);
  fleet.diagnose(["n1"]);
  assert.equal(fleet.verdicts, "n1 passed");
  assert.deepEqual(fleet.groups, []);
});

test("a node that is slow once is measured once more, for longer, and passes when it was only busy", () => {
  const fleet = new Fleet(4);
  fleet.budgets.clear();
  fleet.slow.set("n1", 1);
  fleet.diagnose();
  assert.equal(fleet.verdicts, "n0 passed, n1 passed, n2 passed, n3 passed");
  assert.deepEqual([fleet.budgets.get("n0"), fleet.budgets.get("n1")], [[3_000], [3_000, 15_000]]);
  assert.equal(fleet.core.state.quarantine.size, 0);
});

test("a node that is slow twice fails its diagnosis and is quarantined", () => {
  const fleet = new Fleet(4);
  fleet.slow.set("n1", 2);
  fleet.diagnose();
  assert.equal(fleet.verdicts, "n0 passed, n1 failed, n2 passed, n3 passed");
  assert.match(fleet.core.state.quarantine.get("n1")!.reason, /^self-check: copy is 1 GB\/s, below 0.5 of/);
});

test("a pair whose collective is slow is measured again with others: the node that stays slow fails, its partner does not", () => {
  const fleet = new Fleet(6);
  fleet.isLame = (names) => names.includes("n2");
  fleet.diagnose();
  assert.equal(fleet.verdicts, "n0 passed, n1 passed, n2 failed, n3 passed, n4 passed, n5 passed");
  assert.equal(fleet.groups.filter((group) => group.includes("n2")).length, 2, "slow with two that are good");
  assert.match(
    fleet.core.state.quarantine.get("n2")!.reason,
    /^self-check: collective is 0.1 GB\/s, below 0.3 of/,
  );
});

test("a pair whose collective was slow once: both are measured with others, and pass", () => {
  const fleet = new Fleet(6);
  fleet.isLame = (names) => names.join() === "n2,n3";
  fleet.diagnose();
  assert.equal(fleet.verdicts, "n0 passed, n1 passed, n2 passed, n3 passed, n4 passed, n5 passed");
  assert.equal(fleet.core.state.quarantine.size, 0);
});

test("a node that passes a diagnosis is avoided by no job any more", () => {
  const fleet = new Fleet(3);
  fleet.core.submit(jobOf());
  fleet.core.form();
  fleet.core.job.avoided.set("n2", { reason: "rank 1 was slow there", untilMs: fleet.core.nowMs + 60_000 });
  fleet.diagnose(["n2"]);
  assert.equal(fleet.verdicts, "n2 passed");
  assert.equal(fleet.core.job.avoided.size, 0);
});
