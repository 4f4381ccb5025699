import assert from "node:assert/strict";
import { test } from "node:test";
import type { SimCluster } from "../sim_cluster.js";
import { decisions, finishes, generation, JOB, members, recovers, trained } from "./scenario.js";

const durableStep = (sim: SimCluster) => sim.job(JOB).storage.durable.at(-1)?.content.state.step ?? 0;
const logged = (sim: SimCluster, pattern: RegExp) => sim.logs.filter((line) => pattern.test(line)).length;

test("disk: of one node is full for a while: saves fail and are told once, training goes on, then saves succeed again", async () => {
  const sim = await trained(25, {}, { saveEverySteps: 10, steps: 150 });
  const { node } = sim.agentOf(JOB, 2);
  const before = durableStep(sim);
  node.disk = "STORAGE_FULL";
  await sim.until(() => sim.view(JOB)!.saveAlarm !== null);
  assert.equal(durableStep(sim), before);
  node.disk = null;
  await sim.until(() => sim.view(JOB)!.saveAlarm === null);
  assert.ok(logged(sim, /saves succeed again/) === 1 && durableStep(sim) > before);
  await finishes(sim);
  assert.equal(generation(sim), 1, "training did not pause");
});

test("disk: dead when the last save is due: it is tried until the disk is back, and the job completes", async () => {
  const sim = await trained(25, {}, { saveEverySteps: 1_000, steps: 40 });
  const { node } = sim.agentOf(JOB, 2);
  node.disk = "STORAGE_FAILED";
  await sim.until(() => sim.view(JOB)!.saveAlarm !== null);
  await sim.run(40_000);
  assert.equal(sim.record(JOB)!.outcome, null);
  node.disk = null;
  await finishes(sim);
  assert.equal(durableStep(sim), 40);
});

test("disk: dead of a node that leaves: what memory holds on others is not lost with the save", async () => {
  const sim = await trained(30, {}, { saveEverySteps: 10 });
  const { node } = sim.agentOf(JOB, 2);
  node.disk = "STORAGE_FAILED";
  sim.leaveNode(node, 8_000, 10_000_000);
  await recovers(sim);
  assert.ok(!members(sim).includes(node.nodeId), decisions(sim));
  await finishes(sim);
});

test("checkpoint: the newest was removed by hand and memory is lost: the one before serves", async () => {
  const sim = await trained(35, {}, { saveEverySteps: 10 });
  await sim.until(() => durableStep(sim) >= 30);
  const { storage } = sim.job(JOB);
  storage.lose(storage.durable.at(-1)!);
  for (const node of sim.nodes.slice(0, 2)) sim.crashNode(node, 2_000);
  await recovers(sim);
  assert.match(decisions(sim), /restore from checkpoint .*-20 /);
  assert.doesNotMatch(decisions(sim), /from checkpoint .*-30 /, "storage was asked first");
  await finishes(sim);
});

test("store: gone for three minutes: training does not pause, nothing is ended, and a death is dealt with once it is back", async () => {
  const sim = await trained(20, { controllers: 3 }, { steps: 700 });
  const step = sim.stepOf(JOB);
  for (const { id } of sim.controllers) sim.store.cutOff.add(id);
  await sim.run(180_000);
  assert.ok(sim.stepOf(JOB) > step + 300, `${sim.stepOf(JOB)} of ${step}`);
  assert.equal(sim.leader(), null, "nobody believes to lead");
  sim.agentOf(JOB, 2).rankDies(sim.rankOf(JOB, 2), "SIGKILL");
  await sim.run(10_000);
  assert.equal(sim.groups.size, 1, "membership waits");
  sim.store.cutOff.clear();
  await sim.until(() => sim.groups.size === 2 && sim.groupOf(JOB)!.votes > 0);
  await finishes(sim);
});
