import assert from "node:assert/strict";
import { test } from "node:test";
import { SimCluster } from "../sim_cluster.js";
import { decisions, FOUR, finishes, JOB, members, recovers, trained } from "./scenario.js";

test("person: drains a node while a rank's death is being dealt with: it has no part in what follows", async () => {
  const sim = await trained(20);
  sim.agentOf(JOB, 0).rankDies(sim.rankOf(JOB, 0), "SIGKILL");
  await sim.until(() => sim.view(JOB)?.generation?.stage === "prepare");
  sim.drain("n01");
  await sim.until(() => sim.groupOf(JOB)!.votes > 0 && !members(sim).includes("n01"));
  assert.equal(
    sim.incidents(JOB).every(({ stepsLost }) => (stepsLost ?? 0) <= 1),
    true,
    decisions(sim),
  );
  await finishes(sim);
});

test("person: drains a node and releases it before it was left: the job goes on, and the node may be used", async () => {
  const sim = await trained(20, { nodes: 2 });
  sim.drain("n01");
  sim.liftQuarantine("n01");
  await recovers(sim);
  await finishes(sim);
  assert.equal(sim.leader()!.core!.quarantine.size, 0);
});

test("person: wants spares: an auto layout leaves them free, and they take over when a node is lost", async () => {
  const sim = new SimCluster({ seed: 7, nodes: 4 });
  sim.submit({ name: "j", layout: "auto", steps: 60, spares: 1 });
  await sim.until(() => sim.stepOf(JOB) >= 30);
  assert.equal(members(sim).length, 3);
  sim.crashNode(sim.nodes[0]!, 10_000_000);
  await recovers(sim);
  assert.equal(sim.groupOf(JOB)!.worldSize, 6, decisions(sim));
  await finishes(sim);
});

test("person: stops a job while the disk of a member is dead: it ends once the last state is durable", async () => {
  const sim = await trained(25, {}, { layout: FOUR, saveEverySteps: 1_000 });
  const { node } = sim.agentOf(JOB, 2);
  node.disk = "STORAGE_FAILED";
  sim.requestStop(JOB);
  await sim.run(20_000);
  assert.equal(sim.record(JOB)!.outcome, null);
  node.disk = null;
  await sim.until(() => sim.allOver);
  const { outcome } = sim.record(JOB)!;
  assert.equal(outcome?.phase, "STOPPED");
  assert.equal(sim.job(JOB).storage.durable.at(-1)?.content.state.step, outcome?.step);
});
