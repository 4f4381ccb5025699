import assert from "node:assert/strict";
import { test } from "node:test";
import type { SimCluster } from "../sim_cluster.js";
import { stepsOf } from "../sim_content.js";
import { decisions, FOUR, finishes, generation, JOB, members, recovers, trained } from "./scenario.js";

const guilty = (sim: SimCluster) => [...sim.leader()!.core!.quarantine.keys()];
const skipped = (sim: SimCluster) => stepsOf(sim.rankOf(JOB, 0).content!.leftOut);

test("numbers: a device gets losses wrong once: the step counts, its node is named and replaced, nothing is computed again", async () => {
  const sim = await trained(20);
  const { node } = sim.agentOf(JOB, 2);
  node.computesWrong("losses");
  await recovers(sim);
  const [incident] = sim.incidents(JOB);
  assert.deepEqual([incident!.code, incident!.nodeId, incident!.stepsLost], ["RANK_CORRUPT", node.nodeId, 0]);
  assert.ok(!members(sim).includes(node.nodeId));
  await finishes(sim);
  assert.deepEqual(skipped(sim), []);
});

test("numbers: a device gets gradients wrong once: nobody is named, the generation goes on", async () => {
  const sim = await trained(20);
  sim.agentOf(JOB, 2).node.computesWrong("gradients");
  await finishes(sim);
  assert.deepEqual([generation(sim), skipped(sim), sim.incidents(JOB)], [1, [], []]);
  assert.ok(sim.logs.some((line) => /hardware was wrong, it does not tell which device/.test(line)));
});

test("numbers: a pack is not finite, whoever computes it: the step is left out, no node is suspected", async () => {
  const sim = await trained(20);
  sim.job(JOB).badSteps.set(24, "notFinite").set(25, "notFinite");
  await finishes(sim);
  assert.deepEqual([generation(sim), skipped(sim), sim.incidents(JOB)], [1, [24, 25], []]);
});

test("numbers: a step is left out, then its ranks are lost and it is computed again: it is left out again", async () => {
  const sim = await trained(20, {}, { replicas: 0, saveEverySteps: 10 });
  sim.job(JOB).badSteps.set(24, "notFinite");
  await sim.until(() => sim.stepOf(JOB) >= 26);
  for (const node of sim.nodes.slice(0, 2)) sim.crashNode(node, 2_000);
  await recovers(sim);
  await finishes(sim);
  assert.deepEqual(skipped(sim), [24]);
});

test("numbers: too many steps in a row are bad: the job fails for that, with its last state durable", async () => {
  const sim = await trained(20, {}, { maxBadSteps: 3 });
  for (const step of [24, 25, 26]) sim.job(JOB).badSteps.set(step, "notFinite");
  await sim.until(() => sim.allOver);
  const { outcome } = sim.record(JOB)!;
  assert.deepEqual([outcome?.phase, outcome?.code], ["FAILED", "NOT_FINITE"]);
  assert.equal(sim.job(JOB).storage.durable.at(-1)!.content.state.step, 26);
  assert.deepEqual(guilty(sim), []);
});

test("numbers: a device is always wrong and other ranks can tell: its node is replaced", async () => {
  const sim = await trained(20);
  const { node } = sim.agentOf(JOB, 0);
  node.computesWrong("always");
  await recovers(sim);
  assert.equal(sim.incidents(JOB)[0]!.nodeId, node.nodeId);
  assert.ok(!members(sim).includes(node.nodeId), decisions(sim));
  await finishes(sim);
});

test("numbers: always wrong, and no other rank could compute the packs: a free node does, and the first is avoided", async () => {
  const layout = { dp_replicate: 1, dp_shard: 1, sp: 2 };
  const sim = await trained(20, { nodes: 2 }, { layout, maxBadSteps: 3 });
  const { node } = sim.agentOf(JOB, 0);
  node.computesWrong("always");
  await finishes(sim);
  assert.ok(!members(sim).includes(node.nodeId));
  assert.ok(sim.view(JOB)!.avoided.has(node.nodeId));
});

test("node: avoided since it was wrong: where others have room it gets no ranks, where they have none it does", async () => {
  const sim = await trained(20, { nodes: 3 }, { layout: FOUR, steps: 120 });
  const { node } = sim.agentOf(JOB, 2);
  node.computesWrong("losses");
  await recovers(sim);
  assert.ok(!members(sim).includes(node.nodeId));
  const [first, second] = members(sim);
  sim.crashNode(sim.node(first!), 10_000_000);
  await sim.until(() => sim.incidents(JOB)[1]?.outcome === "recovered");
  assert.deepEqual(members(sim).sort(), [second, node.nodeId].sort());
  await finishes(sim);
});

test("numbers: a device is always wrong and no node is free: its node is quarantined, the job goes on when it is mended", async () => {
  const sim = await trained(20, { nodes: 2 }, { maxBadSteps: 2 });
  const { node } = sim.agentOf(JOB, 2);
  node.computesWrong("always");
  await sim.until(() => guilty(sim).length > 0);
  assert.deepEqual(guilty(sim), [node.nodeId]);
  assert.equal(sim.record(JOB)!.outcome, null);
  node.wrong = null;
  sim.liftQuarantine(node.nodeId);
  await finishes(sim);
  assert.equal(skipped(sim).length, 2);
});

test("numbers: the same, and nobody comes: it is examined when its time is over, passes, and the job goes on", async () => {
  const sim = await trained(20, { nodes: 2 }, { maxBadSteps: 2 });
  const { node } = sim.agentOf(JOB, 2);
  node.computesWrong("always");
  await sim.until(() => guilty(sim).length > 0);
  node.wrong = null;
  await sim.until(() => sim.allOver, 2 * 3_600_000);
  assert.equal(sim.record(JOB)!.outcome?.phase, "COMPLETED", sim.status());
});

test("node: avoided since it was wrong, and a member is lost: another free node takes over", async () => {
  const sim = await trained(20, { nodes: 4 }, { steps: 120 });
  const { node } = sim.agentOf(JOB, 2);
  node.computesWrong("losses");
  await recovers(sim);
  assert.deepEqual([node.nodeId, members(sim)], ["n01", ["n00", "n02"]]);
  sim.crashNode(sim.node("n02"), 10_000_000);
  await sim.until(() => sim.incidents(JOB)[1]?.outcome === "recovered");
  assert.deepEqual(members(sim), ["n00", "n03"]);
  await finishes(sim);
});
