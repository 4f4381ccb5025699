import assert from "node:assert/strict";
import { test } from "node:test";
import { SimCluster, type SimJobOptions, type SimOptions } from "./sim_cluster.js";

const JOB = "job-j";
const FOUR = { dp_replicate: 1, dp_shard: 2, sp: 2 };

/** A cluster whose one job has done `steps` steps: four ranks on n00 and n01 unless told otherwise. */
function trained(
  steps: number,
  options: Partial<SimOptions> = {},
  job: Partial<SimJobOptions> = {},
): SimCluster {
  const sim = new SimCluster({ seed: 7, nodes: 4, ...options });
  sim.submit({ name: "j", layout: FOUR, steps: 60, ...job });
  sim.until(() => sim.stepOf(JOB) >= steps);
  return sim;
}
const generation = (sim: SimCluster) => sim.groupOf(JOB)!.generation;
const pids = (sim: SimCluster) =>
  sim.groupOf(JOB)!.members.map((m) => `${m!.agent.incarnation}/${m!.rank.pid}`);
const finishes = (sim: SimCluster) => {
  sim.until(() => sim.allOver);
  assert.equal(sim.record(JOB)!.outcome?.phase, "COMPLETED", sim.status());
};

test("rank: killed in mid-run: the others keep their processes, at most one step is computed again", () => {
  const sim = trained(20);
  const before = pids(sim);
  sim.agentOf(JOB, 2).rankDies(sim.rankOf(JOB, 2), "SIGKILL");
  sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  const [incident] = sim.incidents(JOB);
  assert.match(incident!.what, /^rank 2 on n01 ended by SIGKILL/);
  assert.ok(incident!.stepsLost! <= 1 && incident!.milestones.stepped! < 4_000, JSON.stringify(incident));
  const kept = pids(sim).filter((pid, rank) => pid === before[rank]);
  assert.equal(kept.length, 3);
  finishes(sim);
});

test("rank: stopped while it computes: named by what the others wait for, killed and started again", () => {
  const sim = trained(20);
  const victim = sim.rankOf(JOB, 3);
  sim.until(() => victim.phase === "forward");
  victim.stopped = true;
  sim.groupOf(JOB)!.disturbed = true;
  sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  const [incident] = sim.incidents(JOB);
  assert.match(
    incident!.what,
    /^rank 3 on n01 has not moved for .* forward, layer 1\); 3 ranks wait in all_reduce of world/,
  );
  assert.equal(incident!.code, "RANK_STALLED");
  finishes(sim);
});

test("rank: stopped inside a collective where nothing tells it from the others: found by its silence", () => {
  const sim = trained(20);
  const victim = sim.rankOf(JOB, 1);
  sim.until(() => victim.phase === "vote");
  sim.groupOf(JOB)!.holdChance = 1;
  victim.stopped = true;
  sim.groupOf(JOB)!.disturbed = true;
  sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  assert.ok(!victim.alive);
  finishes(sim);
});

test("rank: cannot be ended at all: its node is quarantined, a spare node goes on from the checkpoint", () => {
  const sim = trained(30, {}, { saveEverySteps: 10 });
  const victim = sim.rankOf(JOB, 0);
  victim.stopped = true;
  victim.unkillable = true;
  sim.groupOf(JOB)!.disturbed = true;
  sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  assert.deepEqual([...sim.leader()!.core!.quarantine.keys()], ["n00"]);
  assert.ok(!sim.groupOf(JOB)!.members.some((m) => m!.agent.node.nodeId === "n00"));
  assert.ok(sim.incidents(JOB)[0]!.stepsLost! >= 1);
  finishes(sim);
});

test("agent: killed, no spare: comes back with its node's memory, at most one step is computed again", () => {
  const sim = trained(20, { nodes: 2 });
  sim.crashAgent(sim.nodes[1]!, 800);
  sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  assert.ok(sim.incidents(JOB)[0]!.stepsLost! <= 1);
  finishes(sim);
});

test("node: lost for good, no replicas: after the grace a spare takes over, from the newest checkpoint", () => {
  const sim = trained(30, {}, { saveEverySteps: 10, replicas: 0 });
  const lost = sim.stepOf(JOB);
  sim.crashNode(sim.nodes[1]!, 10_000_000);
  sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  const [incident] = sim.incidents(JOB);
  assert.ok(incident!.milestones.prepared! >= 30_000, "it was waited for");
  assert.match(incident!.decisions.map((d) => d.text).join("; "), /others take over.*from checkpoint/);
  assert.ok(lost - incident!.stepsLost! <= 30 && incident!.stepsLost! <= 12);
  finishes(sim);
});

/** Newest state of the job's generation that its ranks have agreed to be in two places. */
const replicated = (sim: SimCluster) => sim.groupOf(JOB)!.replicated!;
const decisions = (sim: SimCluster) =>
  sim
    .incidents(JOB)
    .flatMap((incident) => incident.decisions.map((d) => d.text))
    .join("; ");
/** Step that the newest generation has restored. */
const resumed = (sim: SimCluster) => [...sim.groupOf(JOB)!.restored.values()][0]!.step;

test("node: lost for good: a spare takes over at once, from the replica; no replicated step is lost", () => {
  const sim = trained(30, {}, { saveEverySteps: 1_000 });
  const { step } = replicated(sim);
  assert.ok(step >= 25, `${step} of 30 steps replicated`);
  sim.crashNode(sim.nodes[1]!, 10_000_000);
  sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  const [incident] = sim.incidents(JOB);
  assert.ok(incident!.milestones.prepared! < 1_500, JSON.stringify(incident!.milestones));
  assert.match(decisions(sim), /take over at once; restore from memory, .*: ranks 2, 3 from replicas on n00/);
  assert.ok(resumed(sim) >= step);
  finishes(sim);
});

test("node: lost for good: its twins in another node hold the newest state, nothing had to be sent", () => {
  const layout = { dp_replicate: 2, dp_shard: 2, sp: 1 };
  const sim = trained(30, {}, { layout, saveEverySteps: 1_000 });
  assert.equal(sim.groupOf(JOB)!.replicate, false);
  sim.crashNode(sim.nodes[1]!, 10_000_000);
  sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  assert.match(decisions(sim), /take over at once; restore from memory, .*: ranks 2, 3 from twins on n00/);
  assert.ok(sim.incidents(JOB)[0]!.stepsLost! <= 1);
  finishes(sim);
});

test("rack: lost for good: replicas are in another one, spares there take over; no replicated step is lost", () => {
  const layout = { dp_replicate: 1, dp_shard: 4, sp: 2 };
  const sim = trained(30, { nodes: 8, racks: 2 }, { layout, saveEverySteps: 1_000 });
  const { step } = replicated(sim);
  sim.crashDomain(sim.nodes[1]!, 10_000_000);
  sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  const members = sim.groupOf(JOB)!.members.map((m) => m!.agent.node.failureDomain);
  assert.deepEqual([...new Set(members)], ["rack-0"]);
  assert.ok(resumed(sim) >= step);
  assert.ok(sim.logs.some((line) => line.includes("replicas stay inside failure domain rack-0")));
  finishes(sim);
});

test("node: lost for good just after a rank's death, before anything new is replicated: the older replica serves", () => {
  const sim = trained(30, {}, { saveEverySteps: 1_000 });
  const { step } = replicated(sim);
  sim.agentOf(JOB, 0).rankDies(sim.rankOf(JOB, 0), "SIGKILL");
  sim.until(() => sim.view(JOB)?.generation?.number === 2 && sim.groupOf(JOB)!.votes === 1);
  assert.equal(replicated(sim), null);
  sim.crashNode(sim.nodes[1]!, 10_000_000);
  finishes(sim);
  assert.match(decisions(sim), /take over at once/);
  assert.ok(resumed(sim) >= step, `${resumed(sim)} of ${step}`);
});

test("agent: killed while others restore from what it keeps: its node's memory serves when it is back", () => {
  const sim = trained(30, {}, { saveEverySteps: 1_000 });
  const { step } = replicated(sim);
  sim.crashNode(sim.nodes[1]!, 10_000_000);
  sim.until(() => sim.view(JOB)?.generation?.stage === "restore");
  sim.run(15);
  sim.crashAgent(sim.nodes[0]!, 800);
  finishes(sim);
  assert.ok(resumed(sim) >= step, decisions(sim));
  assert.equal(sim.view(JOB)!.excludedSnapshots.size, 0);
});

test("node: lost for good without a spare: an auto layout shrinks, re-partitioned from the memory that is left", () => {
  const sim = trained(30, { nodes: 2 }, { layout: "auto", saveEverySteps: 1_000 });
  const { step } = replicated(sim);
  sim.crashNode(sim.nodes[1]!, 10_000_000);
  finishes(sim);
  assert.equal(sim.groupOf(JOB)!.worldSize, 2);
  assert.match(decisions(sim), /re-partitioned from memory of 1 node, layout 1x4x1/);
  assert.ok(resumed(sim) >= step);
});

test("node: lost for good without a spare and without replicas: an auto layout goes on from the checkpoint", () => {
  const sim = trained(30, { nodes: 2 }, { layout: "auto", saveEverySteps: 10, replicas: 0 });
  assert.equal(sim.groupOf(JOB)!.worldSize, 4);
  sim.crashNode(sim.nodes[1]!, 10_000_000);
  finishes(sim);
  assert.equal(sim.groupOf(JOB)!.worldSize, 2);
  assert.match(decisions(sim), /from checkpoint/);
});

test("node: lost for good without a spare: a fixed layout fails after its attempts, saying what it lacks", () => {
  const sim = trained(10, { nodes: 2 }, { maxAttempts: 2 });
  sim.crashNode(sim.nodes[1]!, 10_000_000);
  sim.until(() => sim.allOver);
  const { outcome } = sim.record(JOB)!;
  assert.deepEqual([outcome?.phase, outcome?.code], ["FAILED", "NODE_LOST"]);
  assert.match(outcome!.reason, /layout 1x2x2 needs .* = 4 ranks: 2 slots free on 1 node/);
});

test("node: leaves: saves at the next step, a spare goes on from that state, no step is computed again", () => {
  const sim = trained(20);
  const first = generation(sim);
  sim.leaveNode(sim.nodes[1]!, 30_000, 10_000_000);
  sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  const [incident] = sim.incidents(JOB);
  const { content } = sim.job(JOB).durable.at(-1)!;
  assert.deepEqual([incident!.code, incident!.stepsLost], ["NODE_PREEMPTED", 0]);
  assert.match(incident!.decisions.map((d) => d.text).join("; "), new RegExp(`-${content.state.step} `));
  assert.ok(content.state.generation === first && content.state.step <= 22, `${content.state.step}`);
  assert.equal(sim.nodes[1]!.up, false, "it went long before its grace was over");
  assert.ok(!sim.groupOf(JOB)!.members.some((m) => m!.agent.node === sim.nodes[1]));
  finishes(sim);
});

test("node: leaves without a spare: an auto layout shrinks, a fixed one waits until it is back; no step is lost", () => {
  for (const layout of ["auto", FOUR] as const) {
    const sim = trained(20, { nodes: 2 }, { layout });
    sim.leaveNode(sim.nodes[1]!, 30_000, 40_000);
    sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
    assert.equal(sim.incidents(JOB)[0]!.stepsLost, 0);
    assert.equal(sim.groupOf(JOB)!.worldSize, layout === "auto" ? 2 : 4);
    finishes(sim);
  }
});

test("node: leaves while a rank hangs elsewhere: the last step is saved from memory, without the ranks", () => {
  const sim = trained(22);
  const victim = sim.rankOf(JOB, 0);
  sim.until(() => victim.phase === "forward" && victim.snapshotWhole);
  victim.stopped = true;
  sim.groupOf(JOB)!.disturbed = true;
  sim.run(1_500);
  const step = sim.stepOf(JOB);
  assert.ok(sim.job(JOB).durable.every(({ content }) => content.state.step < step));
  sim.leaveNode(sim.nodes[1]!, 8_000, 10_000_000);
  sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  assert.equal(sim.job(JOB).durable.at(-1)!.content.state.step, step);
  assert.equal(sim.incidents(JOB)[0]!.stepsLost, 0);
  assert.match(
    sim
      .incidents(JOB)[0]!
      .decisions.map((d) => d.text)
      .join("; "),
    /from memory/,
  );
  finishes(sim);
});

test("node: leaves while another rank's death is being dealt with: what memory holds is saved, no step is lost", () => {
  const sim = trained(20);
  const step = sim.stepOf(JOB);
  sim.agentOf(JOB, 0).rankDies(sim.rankOf(JOB, 0), "SIGKILL");
  sim.leaveNode(sim.nodes[1]!, 20_000, 10_000_000);
  sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  assert.ok(sim.job(JOB).durable.at(-1)!.content.state.step >= step - 1);
  assert.ok(sim.incidents(JOB)[0]!.stepsLost! <= 1);
  finishes(sim);
});

test("node: leaves while no controller is there: its ranks ask for the end themselves; the next leader goes on from it", () => {
  const sim = trained(20, { controllers: 1 });
  sim.controllers[0]!.crash();
  sim.leaveNode(sim.nodes[1]!, 10_000, 10_000_000);
  sim.until(() => !sim.nodes[1]!.up);
  const { step } = sim.job(JOB).durable.at(-1)!.content.state;
  assert.equal(step, sim.stepOf(JOB), "nobody computed on behind the save");
  sim.controllers[0]!.restart();
  finishes(sim);
  assert.equal(sim.incidents(JOB).at(-1)!.stepsLost, 0);
});

test("controller: gone for 20 s: training does not pause, and its return disturbs nothing", () => {
  const sim = trained(10, { controllers: 1 });
  const before = { generation: generation(sim), pids: pids(sim), step: sim.stepOf(JOB) };
  sim.controllers[0]!.crash();
  sim.run(20_000);
  assert.ok(sim.stepOf(JOB) > before.step + 30);
  sim.controllers[0]!.restart();
  sim.until(() => sim.view(JOB)?.stage === "running");
  sim.run(10_000);
  assert.deepEqual(
    { generation: generation(sim), pids: pids(sim) },
    { generation: before.generation, pids: before.pids },
  );
  finishes(sim);
});

test("controller: falls in the middle of forming a generation: the next leader forms it anew", () => {
  const sim = trained(20);
  sim.agentOf(JOB, 2).rankDies(sim.rankOf(JOB, 2), "SIGKILL");
  sim.until(() => sim.view(JOB)?.generation?.stage === "connect");
  sim.leader()!.crash();
  sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  assert.equal(sim.incidents(JOB).length, 1, "one incident, over both leaders");
  finishes(sim);
});

test("controller: stands still for 3 s while slow ranks train: judges nobody by what it has not read yet", () => {
  const sim = trained(15, { controllers: 2, limits: { heartbeatMs: 250 } }, { stepMs: 1_300, steps: 40 });
  for (let i = 0; i < 8; i++) {
    sim.leader()!.pause(2_900 + 100 * i);
    sim.run(7_000);
  }
  finishes(sim);
  assert.equal(sim.groups.size, 1);
});

test("controller: stands still for 3 s while a generation forms: does not call its members silent", () => {
  const sim = trained(20, { limits: { heartbeatMs: 250 } });
  sim.agentOf(JOB, 2).rankDies(sim.rankOf(JOB, 2), "SIGKILL");
  sim.until(() => sim.view(JOB)?.generation?.stage === "prepare");
  sim.leader()!.pause(3_000);
  sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  assert.equal(sim.groups.size, 2);
  finishes(sim);
});

test("network: nobody hears from any agent beyond the grace: the generation is taken back as it trains", () => {
  const sim = trained(5, { nodes: 3, controllers: 1, graceSeconds: 20 }, { steps: 200 });
  for (const node of sim.nodes) sim.blockade(node.nodeId, "both", 45_000);
  sim.run(44_000);
  assert.equal(sim.view(JOB)?.stage, "waiting");
  sim.until(() => sim.view(JOB)?.stage === "running");
  sim.run(5_000);
  assert.equal(sim.groups.size, 1);
  finishes(sim);
});

test("network: a node sends and does not hear: nobody there is called hung, whoever hangs elsewhere is found", () => {
  const sim = trained(20);
  const victim = sim.rankOf(JOB, 0);
  sim.until(() => victim.phase === "vote");
  sim.groupOf(JOB)!.holdChance = 1;
  victim.stopped = true;
  sim.groupOf(JOB)!.disturbed = true;
  sim.until(() => sim.view(JOB)?.stage === "settling");
  assert.match(sim.view(JOB)!.reason, /4 ranks wait .* and all of them seem to have arrived/);
  sim.blockade("n01", "down", 5_000); // the abort is under way to it
  const innocent = [sim.rankOf(JOB, 2), sim.rankOf(JOB, 3)];
  sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  assert.ok(innocent.every((rank) => rank.alive) && !victim.alive);
  assert.equal(sim.leader()!.core!.quarantine.size, 0);
  finishes(sim);
});

test("agent: restarts late in PREPARE while another rank hangs: its new ranks get their time", () => {
  const sim = trained(10, { limits: { prepareMs: 20_000 } });
  const hung = sim.rankOf(JOB, 2);
  sim.until(() => hung.phase === "forward");
  hung.stopped = true;
  sim.groupOf(JOB)!.disturbed = true;
  sim.agentOf(JOB, 0).rankDies(sim.rankOf(JOB, 0), "SIGKILL");
  sim.until(() => sim.view(JOB)?.generation?.stage === "prepare");
  sim.run(19_000);
  sim.crashAgent(sim.nodes[0]!, 300);
  finishes(sim);
  assert.ok(!hung.alive);
});

test("network: ranks lose each other while their processes live: new connections, same processes", () => {
  const sim = trained(20);
  const before = pids(sim);
  sim.groupOf(JOB)!.disturbed = true;
  sim.groupOf(JOB)!.breakOff(1);
  sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  assert.deepEqual(pids(sim), before);
  assert.equal(sim.incidents(JOB)[0]!.code, "COMM_PEER_DIED");
  finishes(sim);
});

test("store: answers nobody for a while: a death is recovered when it does again, training elsewhere goes on", () => {
  const sim = trained(20, { controllers: 1 });
  sim.store.faultRate = 1;
  sim.agentOf(JOB, 3).rankDies(sim.rankOf(JOB, 3), "SIGKILL");
  sim.run(8_000);
  assert.equal(sim.groups.size, 1, "no generation without a durable number");
  sim.store.faultRate = 0;
  finishes(sim);
});

test("checkpoint: the newest is corrupt and memory is lost: the one before serves", () => {
  const sim = trained(35, {}, { saveEverySteps: 10 });
  sim.until(() => sim.job(JOB).durable.length >= 3);
  sim.job(JOB).durable.at(-1)!.corrupt = true;
  for (const node of sim.nodes.slice(0, 2)) sim.crashNode(node, 2_000);
  sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  const decisions = sim
    .incidents(JOB)[0]!
    .decisions.map((d) => d.text)
    .join("; ");
  assert.match(decisions, /from checkpoint .*-30 .*; .*from checkpoint .*-20 /);
  finishes(sim);
});

test("person: stops the job while a rank's death is being dealt with: it saves, then stops", () => {
  const sim = trained(20);
  sim.agentOf(JOB, 2).rankDies(sim.rankOf(JOB, 2), "SIGKILL");
  sim.run(100);
  sim.requestStop(JOB);
  sim.until(() => sim.allOver);
  const { outcome } = sim.record(JOB)!;
  assert.equal(outcome?.phase, "STOPPED");
  assert.equal(sim.job(JOB).durable.at(-1)?.content.state.step, outcome?.step);
});

test("person: two jobs, room for one: the second runs on the first one's nodes", () => {
  const sim = new SimCluster({ seed: 3, nodes: 2 });
  sim.submit({ name: "j", layout: FOUR, steps: 10 });
  sim.submit({ name: "k", layout: FOUR, steps: 10 });
  sim.until(() => sim.allOver);
  for (const name of ["j", "k"]) assert.equal(sim.record(`job-${name}`)!.outcome?.phase, "COMPLETED");
});

test("save: fails again and again: training goes on, the last one is tried until it is durable", () => {
  const sim = trained(20, {}, { saveEverySteps: 5, saveFailRate: 0.8 });
  finishes(sim);
  assert.equal(sim.groups.size, 1);
});
