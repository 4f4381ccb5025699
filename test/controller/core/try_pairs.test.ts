import assert from "node:assert/strict";
import { test } from "node:test";
import { Fleet } from "./examined_fleet.js";
import { FOUR, jobOf } from "./harness.js";

/** Four ranks on n0 and n1 of so many nodes of two slots, some steps done. */
function training(count: number): Fleet {
  const fleet = new Fleet(count);
  const { core } = fleet;
  core.submit(jobOf({ layout: FOUR, maxAttempts: 10 }));
  core.pass(2_000);
  fleet.run();
  core.form();
  for (let step = 1; step <= 3; step++) core.stepDone("n0", step);
  return fleet;
}

/** Ranks of the two members lose each other in an all-reduce, all processes living on. */
function loseEachOther({ core }: Fleet): void {
  const { rankNodes } = core.job.generation!;
  for (const [rank, nodeId] of rankNodes.entries())
    core.failed(nodeId, rank, "COMM_PEER_DIED", (rank + 2) % 4);
  core.pass(1_500); // a cause could still be told
}

/** Lets time pass until a generation is prepared; as long as its agents answer. */
function reform(fleet: Fleet): void {
  const { core } = fleet;
  for (let i = 0; i < 100 && core.job.stage !== "forming"; i++) {
    fleet.run();
    core.beat(1_000);
  }
  core.form();
}

const evidence = ({ core }: Fleet) => core.job.incidents.at(-1)!.evidence.map(({ text }) => text);

test("collectives that fail in three generations in a row: nodes and witnesses are tried in pairs, and the bad node is out", () => {
  const fleet = training(4);
  fleet.deaf.add("n1");
  for (let i = 0; i < 2; i++) {
    loseEachOther(fleet);
    reform(fleet);
    assert.deepEqual(fleet.groups, [], "the first ones may be chance");
  }
  loseEachOther(fleet);
  reform(fleet);
  const told = fleet.core.effects.flatMap((effect) => (effect.kind === "log" ? effect.entry.text : []));
  assert.ok(told.some((text) => text.startsWith("diagnosis 1: tries collectives between 4 nodes")));
  assert.deepEqual(fleet.groups[0], ["n0", "n1"]);
  assert.match(fleet.core.state.quarantine.get("n1")!.reason, /^self-check: collective failed/);
  assert.deepEqual(new Set(fleet.core.job.generation!.rankNodes), new Set(["n0", "n2"]));
  assert.ok(evidence(fleet).some((text) => /^collectives in pairs \(diagnosis 1\): n1 failed/.test(text)));
});

test("a bad way between two good nodes: neither is quarantined, and a free one takes the place of one of them", () => {
  const fleet = training(4);
  fleet.cut = ["n0", "n1"];
  for (let i = 0; i < 3; i++) {
    loseEachOther(fleet);
    reform(fleet);
  }
  const { core } = fleet;
  assert.equal(core.state.quarantine.size, 0);
  const members = new Set(core.job.generation!.rankNodes);
  assert.equal(members.size, 2);
  assert.ok(!(members.has("n0") && members.has("n1")), [...members].join());
  assert.ok(evidence(fleet).includes("collectives in pairs (diagnosis 1): the way between n0 and n1 is bad"));
});

test("pairs are tried once until the job gets any further; where all succeed the job goes on as before", () => {
  const fleet = training(3);
  for (let i = 0; i < 5; i++) {
    loseEachOther(fleet);
    reform(fleet);
  }
  assert.equal(fleet.view.id, 1);
  assert.ok(evidence(fleet).includes("collectives in pairs (diagnosis 1): all succeed"));
  assert.equal(fleet.core.state.quarantine.size, 0);
});

test("agents that say nothing of a trial do not hold the job up", () => {
  const fleet = training(3);
  for (let i = 0; i < 2; i++) {
    loseEachOther(fleet);
    reform(fleet);
  }
  for (const nodeId of ["n0", "n1", "n2"]) fleet.mute.add(nodeId);
  loseEachOther(fleet);
  const sinceMs = fleet.core.nowMs;
  reform(fleet);
  const waitedMs = fleet.core.nowMs - sinceMs;
  assert.ok(waitedMs <= 20_000, `${waitedMs} ms`);
  assert.deepEqual(fleet.groups, []);
});

test("ranks that ended, and a job that is to stop, are no reason to try pairs", () => {
  const fleet = training(3);
  for (let i = 0; i < 4; i++) {
    fleet.core.exited("n0", 0);
    fleet.core.pass(100);
    reform(fleet);
  }
  assert.deepEqual(fleet.groups, []);
});
