import assert from "node:assert/strict";
import { test } from "node:test";
import { decisions, finishes, generation, JOB, pids, resumed, trained } from "./scenario.js";

test("network: cut between two members: a spare takes the place of one at the second try, and reads what it still holds", async () => {
  const sim = await trained(20, { nodes: 3 }, { saveEverySteps: 1_000 });
  const step = sim.stepOf(JOB);
  const cutMs = sim.nowMs;
  sim.cutNodes(sim.nodes[0]!, sim.nodes[1]!, 10_000_000);
  await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  assert.ok(
    generation(sim) === 3 && sim.nowMs - cutMs < 25_000,
    `${generation(sim)}, ${sim.nowMs - cutMs} ms`,
  );
  assert.match(decisions(sim), /without n01 \(it and n00 cannot connect.*from memory.*snapshots on n01/);
  assert.ok(resumed(sim) >= step, `${resumed(sim)} of ${step}`);
  assert.equal(sim.leader()!.core!.quarantine.size, 0);
  await sim.until(() => sim.nodes[1]!.memory.held().length === 0); // and is free for others once it is not needed
  await finishes(sim);
});

test("network: cut between two members for some seconds: the same nodes go on, and no spare is taken", async () => {
  const sim = await trained(20, { nodes: 3 });
  sim.cutNodes(sim.nodes[0]!, sim.nodes[1]!, 9_000);
  await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  const members = new Set(sim.groupOf(JOB)!.members.map((m) => m!.agent.node.nodeId));
  assert.deepEqual([...members], ["n00", "n01"]);
  assert.ok(sim.incidents(JOB)[0]!.stepsLost! <= 1);
  await finishes(sim);
});

test("network: the spare cannot read what a cut member holds: another spare does, and no step is lost", async () => {
  const sim = await trained(20, { nodes: 4 }, { saveEverySteps: 1_000, replicas: 0 });
  const step = sim.stepOf(JOB);
  sim.cutNodes(sim.nodes[0]!, sim.nodes[1]!, 10_000_000);
  sim.cutNodes(sim.nodes[1]!, sim.nodes[2]!, 10_000_000);
  await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  assert.ok(resumed(sim) >= step, decisions(sim));
  assert.equal(sim.view(JOB)!.excludedSnapshots.size, 0);
  await finishes(sim);
});

test("network: one member is cut off from both others: it is the one that is replaced", async () => {
  const sim = await trained(20, { nodes: 4 }, { layout: { dp_replicate: 1, dp_shard: 6, sp: 1 } });
  for (const other of [1, 2, 3]) sim.cutNodes(sim.nodes[0]!, sim.nodes[other]!, 10_000_000);
  await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  const members = new Set(sim.groupOf(JOB)!.members.map((m) => m!.agent.node.nodeId));
  assert.deepEqual([...members].sort(), ["n01", "n02", "n03"]);
  await finishes(sim);
});

test("network: nobody hears from any agent beyond the grace: the generation is taken back as it trains", async () => {
  const sim = await trained(12, { nodes: 3, controllers: 1, graceSeconds: 20 }, { steps: 200 });
  for (const node of sim.nodes) sim.blockade(node.nodeId, "both", 45_000);
  await sim.run(44_000);
  assert.equal(sim.view(JOB)?.stage, "waiting");
  await sim.until(() => sim.view(JOB)?.stage === "running");
  await sim.run(5_000);
  assert.equal(sim.groups.size, 1);
  await finishes(sim);
});

test("network: a node sends and does not hear: nobody there is called hung, whoever hangs elsewhere is found", async () => {
  const sim = await trained(20);
  const victim = sim.rankOf(JOB, 0);
  await sim.until(() => victim.phase === "vote");
  sim.groupOf(JOB)!.holdChance = 1;
  victim.stopped = true;
  sim.groupOf(JOB)!.disturbed = true;
  await sim.until(() => sim.view(JOB)?.stage === "settling");
  assert.match(sim.view(JOB)!.reason, /4 ranks wait .* and all of them seem to have arrived/);
  sim.blockade("n01", "down", 5_000); // the abort is under way to it
  const innocent = [sim.rankOf(JOB, 2), sim.rankOf(JOB, 3)];
  await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  assert.ok(innocent.every((rank) => rank.alive) && !victim.alive);
  assert.equal(sim.leader()!.core!.quarantine.size, 0);
  await finishes(sim);
});

test("network: ranks lose each other while their processes live: new connections, same processes", async () => {
  const sim = await trained(20);
  const before = pids(sim);
  sim.groupOf(JOB)!.disturbed = true;
  sim.groupOf(JOB)!.breakOff(1);
  await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  assert.deepEqual(pids(sim), before);
  assert.equal(sim.incidents(JOB)[0]!.code, "COMM_PEER_DIED");
  await finishes(sim);
});
