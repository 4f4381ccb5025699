import assert from "node:assert/strict";
import { test } from "node:test";
import { ranksView, rankView } from "../../../controller/core/view_ranks.js";
import { CoreHarness, page } from "./harness.js";

function running(): CoreHarness {
  const core = CoreHarness.running();
  core.beat(1_000, (nodeId) => (core.job.generation!.nodeRanks.get(nodeId) ?? []).map((rank) => page(rank)));
  return core;
}
const view = (core: CoreHarness) => ranksView(core.state, "job-1", core.nowMs);

test("ranksView(): every rank trains, with its node and step", () => {
  const { nodes, nodeOf, health, step, generation } = view(running());
  assert.deepEqual([nodes, nodeOf, generation], [["n0", "n1"], [0, 0, 1, 1], 1]);
  assert.deepEqual(health, ["training", "training", "training", "training"]);
  assert.deepEqual(step.length, 4);
});

test("ranksView(): the rank that an open incident names has failed, the others wait until the next generation trains", () => {
  const core = running();
  core.exited("n1", 2);
  assert.deepEqual(view(core).health.slice(2), ["failed", "waiting"]);
  core.pass(3_000);
  assert.ok(!view(core).health.includes("training"));
});

test("ranksView(): ranks of a node that is not heard are lost", () => {
  const core = running();
  core.disconnect("n1");
  assert.deepEqual(view(core).health.slice(2), ["lost", "lost"]);
});

test("ranksView(): a job that waits has no ranks, nor has one that is over or not known", () => {
  const core = new CoreHarness();
  core.lead();
  core.submit();
  assert.deepEqual(view(core).health, []);
  assert.deepEqual(ranksView(core.state, "none", core.nowMs).nodes, []);
  assert.equal(rankView(core.state, "job-1", 0, core.nowMs), null);
});

test("rankView(): where a rank runs, and its page", () => {
  const core = running();
  const rank = rankView(core.state, "job-1", 3, core.nowMs)!;
  assert.deepEqual([rank.nodeId, rank.connected, rank.health, rank.page?.rank], ["n1", true, "training", 3]);
  assert.equal(rankView(core.state, "job-1", 4, core.nowMs), null);
});
