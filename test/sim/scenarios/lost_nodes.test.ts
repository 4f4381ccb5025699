import assert from "node:assert/strict";
import { test } from "node:test";
import type { StateName } from "../../../controller/core/contract.js";
import type { SimCluster } from "../sim_cluster.js";
import { decisions, finishes, JOB, replicated, resumed, trained } from "./scenario.js";

test("node: lost for good, no replicas: after the grace a spare takes over, from the newest checkpoint", async () => {
  const sim = await trained(30, {}, { saveEverySteps: 10, replicas: 0 });
  const lost = sim.stepOf(JOB);
  sim.crashNode(sim.nodes[1]!, 10_000_000);
  await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  const [incident] = sim.incidents(JOB);
  assert.ok(incident!.milestones.prepared! >= 30_000, "it was waited for");
  assert.match(incident!.decisions.map((d) => d.text).join("; "), /others take over.*from checkpoint/);
  assert.ok(lost - incident!.stepsLost! <= 30 && incident!.stepsLost! <= 12);
  await finishes(sim);
});

test("node: lost for good: a spare takes over at once, from the replica; no replicated step is lost", async () => {
  const sim = await trained(30, {}, { saveEverySteps: 1_000 });
  const { step } = replicated(sim);
  assert.ok(step >= 25, `${step} of 30 steps replicated`);
  sim.crashNode(sim.nodes[1]!, 10_000_000);
  await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  const [incident] = sim.incidents(JOB);
  // No longer than the steps are worth that only its memory holds: twice at most what the newest copy is behind.
  const worthMs = (incident!.stepsLost! + 1) * sim.job(JOB).stepMs;
  assert.ok(incident!.milestones.prepared! <= worthMs + 500, JSON.stringify(incident));
  assert.match(decisions(sim), /take over at once; restore from memory, .*: ranks 2, 3 from replicas on n00/);
  assert.ok(resumed(sim) >= step);
  await finishes(sim);
});

test("node: lost for good: its twins in another node hold the newest state, nothing had to be sent", async () => {
  const layout = { dp_replicate: 2, dp_shard: 2, sp: 1 };
  const sim = await trained(30, {}, { layout, saveEverySteps: 1_000 });
  assert.equal(sim.groupOf(JOB)!.replicate, false);
  sim.crashNode(sim.nodes[1]!, 10_000_000);
  await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  assert.match(decisions(sim), /take over at once; restore from memory, .*: ranks 2, 3 from twins on n00/);
  assert.ok(sim.incidents(JOB)[0]!.stepsLost! <= 1);
  await finishes(sim);
});

test("rack: lost for good: replicas are in another one, spares there take over; no replicated step is lost", async () => {
  const layout = { dp_replicate: 1, dp_shard: 4, sp: 2 };
  const sim = await trained(30, { nodes: 8, racks: 2 }, { layout, saveEverySteps: 1_000 });
  const { step } = replicated(sim);
  sim.crashDomain(sim.nodes[1]!, 10_000_000);
  await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  const members = sim.groupOf(JOB)!.members.map((m) => m!.agent.node.failureDomain);
  assert.deepEqual([...new Set(members)], ["rack-0"]);
  assert.ok(resumed(sim) >= step);
  assert.ok(sim.logs.some((line) => line.includes("replicas stay inside failure domain rack-0")));
  await finishes(sim);
});

test("node: lost for good just after a rank's death, before anything new is replicated: the older replica serves", async () => {
  const sim = await trained(30, {}, { saveEverySteps: 1_000 });
  const { step } = replicated(sim);
  sim.agentOf(JOB, 0).rankDies(sim.rankOf(JOB, 0), "SIGKILL");
  await sim.until(() => sim.view(JOB)?.generation?.number === 2 && sim.groupOf(JOB)!.votes === 1);
  assert.equal(replicated(sim), null);
  sim.crashNode(sim.nodes[1]!, 10_000_000);
  await finishes(sim);
  assert.match(decisions(sim), /take over at once/);
  assert.ok(resumed(sim) >= step, `${resumed(sim)} of ${step}`);
});

/** Ranks of n01 whose copy of the state has come to n00. */
const copied = (sim: SimCluster, state: StateName) =>
  [2, 3].filter((rank) => sim.nodes[0]!.memory.findReplica(`1x2x2/${rank}`, state) !== null);
/** Of what generation 2 has restored. */
const copiedAgain = (sim: SimCluster) => {
  const state = sim.groupOf(JOB)!.generation < 2 ? undefined : [...sim.groupOf(JOB)!.restored.values()][0];
  return state === undefined ? [] : copied(sim, state);
};
/** All ranks have this state whole in their own slots. */
const isSealed = (sim: SimCluster, step: number) =>
  sim.groupOf(JOB)!.members.every((member) => member!.rank.sealed!.step === step);

test("node: lost for good while the first state after a rank's death is half copied, snapshots three steps apart: what was in two places serves", async () => {
  const sim = await trained(30, {}, { saveEverySteps: 1_000, snapshotEverySteps: 3 });
  // Found in two places by a vote that began no other copy.
  await sim.until(() => isSealed(sim, replicated(sim).step + 3));
  const { step } = replicated(sim);
  sim.agentOf(JOB, 0).rankDies(sim.rankOf(JOB, 0), "SIGKILL");
  await sim.until(() => copiedAgain(sim).length === 1);
  sim.crashNode(sim.nodes[1]!, 10_000_000);
  await finishes(sim);
  assert.match(decisions(sim), /take over at once/);
  assert.ok(resumed(sim) >= step, `${resumed(sim)} of ${step}`);
});

test("node: lost for good just after its agent was back, two states half copied: what was in two places before them serves", async () => {
  const sim = await trained(30, { seed: 9 }, { saveEverySteps: 1_000 });
  let ahead: number[] = [];
  await sim.until(() => {
    const { generation, step } = replicated(sim);
    ahead = copied(sim, { generation, step: step + 1 });
    return ahead.length === 1 && isSealed(sim, step + 2);
  });
  const { step } = replicated(sim);
  sim.crashAgent(sim.nodes[1]!, 100);
  await sim.until(() => copiedAgain(sim).length === 1);
  assert.deepEqual(
    copiedAgain(sim),
    ahead,
    "the keeper has had to choose which of its two copies to give up",
  );
  sim.crashNode(sim.nodes[1]!, 10_000_000);
  await finishes(sim);
  assert.match(decisions(sim), /take over at once/);
  assert.ok(resumed(sim) >= step, `${resumed(sim)} of ${step}`);
});

test("node: lost for good steps after another one's agent was back, nothing copied meanwhile: what was in two places before serves", async () => {
  const sim = await trained(30, {}, { saveEverySteps: 1_000 });
  const { step } = replicated(sim);
  sim.crashAgent(sim.nodes[1]!, 100);
  await sim.until(() => sim.nodes[1]!.agent!.alive);
  sim.nodes[1]!.agent!.replicator.send = () => {}; // as slow as that
  await sim.until(() => sim.groupOf(JOB)!.generation === 2 && sim.groupOf(JOB)!.votes === 8);
  sim.crashNode(sim.nodes[0]!, 10_000_000);
  await finishes(sim);
  assert.match(decisions(sim), /take over at once/);
  assert.ok(resumed(sim) >= step, `${resumed(sim)} of ${step}`);
});

test("node: lost for good without a spare: an auto layout shrinks, re-partitioned from the memory that is left", async () => {
  const sim = await trained(30, { nodes: 2 }, { layout: "auto", saveEverySteps: 1_000 });
  const { step } = replicated(sim);
  sim.crashNode(sim.nodes[1]!, 10_000_000);
  await finishes(sim);
  assert.equal(sim.groupOf(JOB)!.worldSize, 2);
  assert.match(decisions(sim), /re-partitioned from memory of 1 node, layout 1x4x1/);
  assert.ok(resumed(sim) >= step);
});

test("node: back after an auto layout shrank: the job takes it in again between two steps, and none is lost", async () => {
  const sim = await trained(30, { nodes: 2 }, { layout: "auto", saveEverySteps: 1_000, steps: 400 });
  sim.crashNode(sim.nodes[1]!, 100_000);
  await sim.until(() => sim.groupOf(JOB)!.worldSize === 2 && sim.stepOf(JOB) >= 35);
  const small = sim.groupOf(JOB)!;
  await sim.until(() => sim.groupOf(JOB)!.worldSize === 4 && sim.groupOf(JOB)!.votes > 0);
  const { generation, yieldedAt } = small;
  assert.deepEqual(
    [...sim.groupOf(JOB)!.restored.values()][0],
    { generation, step: yieldedAt },
    "no step is lost",
  );
  assert.equal(sim.incidents(JOB).length, 1, "nothing broke when the node came back");
  await finishes(sim);
});

test("node: lost for good without a spare and without replicas: an auto layout goes on from the checkpoint", async () => {
  const sim = await trained(30, { nodes: 2 }, { layout: "auto", saveEverySteps: 10, replicas: 0 });
  assert.equal(sim.groupOf(JOB)!.worldSize, 4);
  sim.crashNode(sim.nodes[1]!, 10_000_000);
  await finishes(sim);
  assert.equal(sim.groupOf(JOB)!.worldSize, 2);
  assert.match(decisions(sim), /from checkpoint/);
});

test("node: lost for good without a spare: a fixed layout fails after its attempts, saying what it lacks", async () => {
  const sim = await trained(10, { nodes: 2 }, { maxAttempts: 2 });
  sim.crashNode(sim.nodes[1]!, 10_000_000);
  await sim.until(() => sim.allOver);
  const { outcome } = sim.record(JOB)!;
  assert.deepEqual([outcome?.phase, outcome?.code], ["FAILED", "NODE_LOST"]);
  assert.match(outcome!.reason, /layout 1x2x2 needs .* = 4 ranks: 2 slots free on 1 node/);
});
