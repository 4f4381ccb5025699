import assert from "node:assert/strict";
import { test } from "node:test";
import { finishes, JOB, pids, trained } from "./scenario.js";

test("rank: killed in mid-run: the others keep their processes, at most one step is computed again", async () => {
  const sim = await trained(20);
  const before = pids(sim);
  sim.agentOf(JOB, 2).rankDies(sim.rankOf(JOB, 2), "SIGKILL");
  await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  const [incident] = sim.incidents(JOB);
  assert.match(incident!.what, /^rank 2 on n01 ended by SIGKILL/);
  assert.ok(incident!.stepsLost! <= 1 && incident!.milestones.stepped! < 4_000, JSON.stringify(incident));
  const kept = pids(sim).filter((pid, rank) => pid === before[rank]);
  assert.equal(kept.length, 3);
  await finishes(sim);
});

test("rank: stopped while it computes: named by what the others wait for, killed and started again", async () => {
  const sim = await trained(20);
  const victim = sim.rankOf(JOB, 3);
  await sim.until(() => victim.phase === "forward");
  victim.stopped = true;
  sim.groupOf(JOB)!.disturbed = true;
  await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  const [incident] = sim.incidents(JOB);
  assert.match(
    incident!.what,
    /^rank 3 on n01 has not moved for .* forward, layer 1\); 3 ranks wait in all_reduce of world/,
  );
  assert.equal(incident!.code, "RANK_STALLED");
  await finishes(sim);
});

test("rank: stopped inside a collective where nothing tells it from the others: found by its silence", async () => {
  const sim = await trained(20);
  const victim = sim.rankOf(JOB, 1);
  await sim.until(() => victim.phase === "vote");
  sim.groupOf(JOB)!.holdChance = 1;
  victim.stopped = true;
  sim.groupOf(JOB)!.disturbed = true;
  await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  assert.ok(!victim.alive);
  await finishes(sim);
});

test("rank: cannot be ended at all: its node is quarantined, a spare node goes on from the checkpoint", async () => {
  const sim = await trained(30, {}, { saveEverySteps: 10 });
  const victim = sim.rankOf(JOB, 0);
  victim.stopped = true;
  victim.unkillable = true;
  sim.groupOf(JOB)!.disturbed = true;
  await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  assert.deepEqual([...sim.leader()!.core!.quarantine.keys()], ["n00"]);
  assert.ok(!sim.groupOf(JOB)!.members.some((m) => m!.agent.node.nodeId === "n00"));
  assert.ok(sim.incidents(JOB)[0]!.stepsLost! >= 1);
  await finishes(sim);
});
