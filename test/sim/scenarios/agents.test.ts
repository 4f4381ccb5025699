import assert from "node:assert/strict";
import { test } from "node:test";
import { decisions, finishes, JOB, replicated, resumed, trained } from "./scenario.js";

test("agent: killed, no spare: comes back with its node's memory, at most one step is computed again", async () => {
  const sim = await trained(20, { nodes: 2 });
  sim.crashAgent(sim.nodes[1]!, 800);
  await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  assert.ok(sim.incidents(JOB)[0]!.stepsLost! <= 1);
  await finishes(sim);
});

test("agent: killed with a spare free: waited for as long as its steps are worth, and none is computed twice", async () => {
  const sim = await trained(30, {}, { saveEverySteps: 1_000, stepMs: 1_200 });
  const lost = sim.stepOf(JOB) - replicated(sim).step;
  assert.ok(lost >= 1, `${lost} steps are in one place only`);
  sim.crashAgent(sim.nodes[1]!, 800);
  await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  assert.match(decisions(sim), /waits for n01 .*whose agent ended.*all 2 nodes answer/);
  assert.ok(sim.incidents(JOB)[0]!.stepsLost! <= 1);
  await finishes(sim);
});

test("agent: killed while others restore from what it keeps: its node's memory serves when it is back", async () => {
  const sim = await trained(30, {}, { saveEverySteps: 1_000 });
  const { step } = replicated(sim);
  sim.crashNode(sim.nodes[1]!, 10_000_000);
  await sim.until(() => sim.view(JOB)?.generation?.stage === "restore");
  await sim.run(15);
  sim.crashAgent(sim.nodes[0]!, 800);
  await finishes(sim);
  assert.ok(resumed(sim) >= step, decisions(sim));
  assert.equal(sim.view(JOB)!.excludedSnapshots.size, 0);
});

test("agent: restarts late in PREPARE while another rank hangs: its new ranks get their time", async () => {
  const sim = await trained(10, { limits: { prepareMs: 20_000 } });
  const hung = sim.rankOf(JOB, 2);
  await sim.until(() => hung.phase === "forward");
  hung.stopped = true;
  sim.groupOf(JOB)!.disturbed = true;
  sim.agentOf(JOB, 0).rankDies(sim.rankOf(JOB, 0), "SIGKILL");
  await sim.until(() => sim.view(JOB)?.generation?.stage === "prepare");
  await sim.run(19_000);
  sim.crashAgent(sim.nodes[0]!, 300);
  await finishes(sim);
  assert.ok(!hung.alive);
});
