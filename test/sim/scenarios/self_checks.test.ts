import assert from "node:assert/strict";
import { test } from "node:test";
import { SimCluster } from "../sim_cluster.js";
import { decisions, FOUR, finishes, JOB, trained } from "./scenario.js";

test("node: computes wrong bits when it joins: it is quarantined, and no rank is ever placed there", async () => {
  const sim = new SimCluster({ seed: 7, nodes: 4 });
  sim.nodes[0]!.breaks();
  sim.submit({ name: "j", layout: FOUR, steps: 40 });
  await sim.until(() => sim.stepOf(JOB) >= 20);
  assert.deepEqual([...sim.leader()!.core!.quarantine.keys()], ["n00"]);
  sim.crashNode(sim.nodes[1]!, 10_000_000);
  await finishes(sim);
  for (const group of sim.groups.values())
    assert.ok(!group.members.some((m) => m?.agent.node.nodeId === "n00"), `generation ${group.generation}`);
});

test("node: computes wrong bits when it joins a job that waits for just one more: the job goes on waiting", async () => {
  const sim = new SimCluster({ seed: 7, nodes: 2 });
  const node = sim.nodes[1]!;
  node.breaks();
  sim.crashNode(node, 5_000);
  sim.submit({ name: "j", layout: FOUR, steps: 20 });
  await sim.until(() => sim.leader()?.core?.quarantine.size === 1);
  await sim.run(10_000);
  assert.equal(sim.groups.size, 0, sim.status());
  assert.equal(sim.view(JOB)!.stage, "queued");
  node.broken = false;
  sim.liftQuarantine(node.nodeId);
  await finishes(sim);
});

test("node: computes wrong bits after it was blamed twice in a row: it is quarantined, a spare takes over", async () => {
  const sim = await trained(20);
  const node = sim.nodes[1]!;
  node.breaks();
  sim.agentOf(JOB, 2).rankDies(sim.rankOf(JOB, 2), "SIGKILL");
  await sim.until(
    () => sim.view(JOB)?.generation?.number === 2 && sim.view(JOB)?.generation?.stage === "restore",
  );
  sim.agentOf(JOB, 3).rankDies(sim.rankOf(JOB, 3), "SIGKILL");
  await sim.until(() => sim.incidents(JOB).every(({ outcome }) => outcome === "recovered"));
  assert.deepEqual([...sim.leader()!.core!.quarantine.keys()], [node.nodeId]);
  assert.match(
    sim.leader()!.core!.quarantine.get(node.nodeId)!.reason,
    /^self-check: memory failed: word 7 holds 0x00000080/,
  );
  assert.ok(!sim.groupOf(JOB)!.members.some((m) => m!.agent.node === node));
  assert.match(decisions(sim), /examines n01 \(2 faults in a row were laid to it\) before it is used again/);
  await finishes(sim);
});

test("node: quarantined for wrong bits, then mended: it passes when its time is over, and is used again", async () => {
  const sim = new SimCluster({ seed: 7, nodes: 2 });
  sim.nodes[0]!.breaks();
  sim.submit({ name: "j", layout: FOUR, steps: 20 });
  await sim.until(() => sim.leader()?.core?.quarantine.size === 1);
  sim.nodes[0]!.broken = false;
  await sim.until(() => sim.allOver, 2 * 3_600_000);
  assert.equal(sim.record(JOB)!.outcome?.phase, "COMPLETED", sim.status());
  assert.equal(sim.leader()!.core!.quarantine.size, 0);
});
