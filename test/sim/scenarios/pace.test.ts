import assert from "node:assert/strict";
import { test } from "node:test";
import { SimCluster } from "../sim_cluster.js";
import { FOUR, finishes, JOB } from "./scenario.js";

test("node: slower than the others: named, and its ranks go to a free node with nothing computed again", async () => {
  const sim = new SimCluster({ seed: 7, nodes: 4 });
  sim.submit({ name: "j", layout: FOUR, steps: 160, replaceStragglers: true });
  await sim.until(() => sim.stepOf(JOB) >= 20);
  const slow = sim.agentOf(JOB, 2).node;
  slow.setSlowness(2.5, sim.nowMs);
  await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  const [incident] = sim.incidents(JOB);
  assert.deepEqual([incident!.code, incident!.nodeId, incident!.stepsLost], ["RANK_SLOW", slow.nodeId, 0]);
  assert.ok(sim.stepOf(JOB) <= 20 + 12 * 5, `named and replaced at step ${sim.stepOf(JOB)}`);
  assert.ok(!sim.groupOf(JOB)!.members.some((m) => m!.agent.node === slow));
  await finishes(sim);
  assert.equal(sim.incidents(JOB).length, 1, "the new node is not slow");
});

test("ranks: 30 % noise in every step and nothing else: 200 steps name nobody", async () => {
  const layout = { dp_replicate: 1, dp_shard: 8, sp: 1 };
  for (const seed of [1, 2, 3]) {
    const sim = new SimCluster({ seed, nodes: 4 });
    sim.submit({ name: "j", layout, steps: 200, replaceStragglers: true });
    await finishes(sim);
    assert.deepEqual(sim.incidents(JOB), [], `seed ${seed}`);
    assert.ok(!sim.logs.some((text) => /is slow/.test(text)), `seed ${seed}`);
  }
});
