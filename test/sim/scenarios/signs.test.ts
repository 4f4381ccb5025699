import assert from "node:assert/strict";
import { test } from "node:test";
import type { SimCluster } from "../sim_cluster.js";
import { FOUR, finishes, generation, JOB, members, pids, recovers, trained } from "./scenario.js";

const LOST = "NVRM: Xid (PCI:0000:3b:00): 79, pid=1, name=node, GPU has fallen off the bus.";
const RETIRED =
  "NVRM: Xid (PCI:0000:3b:00): 63, pid=1, name=node, Row Remapper: New row marked for remapping";
const ECC = "RuntimeError: CUDA error: uncorrectable ECC error encountered";
const guilty = (sim: SimCluster) => [...(sim.leader()?.core?.quarantine.keys() ?? [])];
const incident = (sim: SimCluster) => {
  const { code, nodeId, stepsLost } = sim.incidents(JOB)[0]!;
  return { code, nodeId, stepsLost };
};

test("sign: a GPU falls off the bus: the node's ranks end at once, and it gets none until its machine has booted", async () => {
  const sim = await trained(20, { nodes: 2 }, { steps: 100 });
  const node = sim.node("n01");
  node.agent!.watch.takeKernel(LOST);
  await sim.until(() => guilty(sim).length > 0);
  assert.deepEqual([guilty(sim), sim.view(JOB)!.stage === "running"], [["n01"], false]);
  sim.crashAgent(node, 1_000); // another process of the same machine mends nothing
  await sim.run(20_000);
  assert.deepEqual([guilty(sim), generation(sim)], [["n01"], 1]);
  sim.crashNode(node, 5_000);
  await finishes(sim);
  assert.deepEqual([guilty(sim), members(sim).sort()], [[], ["n00", "n01"]]);
  assert.equal(incident(sim).code, "HARDWARE_FAULT");
});

test("sign: it falls off while no controller leads: the next leader hears of it, and ends its ranks", async () => {
  const sim = await trained(20, { nodes: 4, controllers: 1 }, { steps: 100 });
  sim.controllers[0]!.crash();
  sim.node("n01").agent!.watch.takeKernel(LOST);
  await sim.run(5_000);
  sim.controllers[0]!.restart();
  await sim.until(() => guilty(sim).length > 0);
  await finishes(sim);
  assert.ok(!members(sim).includes("n01"));
});

test("sign: told to a leader that falls before it is durable: its successor hears it again", async () => {
  const sim = await trained(20, { nodes: 4, controllers: 3 }, { steps: 100 });
  for (const { id } of sim.controllers) sim.store.cutOff.add(id);
  sim.node("n01").agent!.watch.takeKernel(LOST);
  await sim.run(500);
  sim.leader()!.crash();
  sim.store.cutOff.clear();
  await sim.until(() => guilty(sim).length > 0);
  await finishes(sim);
  assert.ok(!members(sim).includes("n01"));
});

test("sign: a row of a GPU's memory is retired: a free node takes over at a vote, no step is computed twice", async () => {
  const sim = await trained(20, {}, { steps: 100 });
  sim.node("n01").agent!.watch.takeKernel(RETIRED);
  await recovers(sim);
  assert.deepEqual(incident(sim), { code: "HARDWARE_FAULT", nodeId: "n01", stepsLost: 0 });
  assert.deepEqual([members(sim).includes("n01"), guilty(sim)], [false, []]);
  await finishes(sim);
});

test("counter: memory that cannot be corrected on one machine: it is replaced", async () => {
  const sim = await trained(20, {}, { steps: 120 });
  const node = sim.node("n01");
  node.counters.grow("memory_uncorrectable", 12, sim.nowMs);
  node.agent!.watch.lookAtCounters();
  await recovers(sim);
  assert.ok(!members(sim).includes("n01"));
  await finishes(sim);
});

test("counter: every machine counts damaged frames: no machine is at fault, none is examined", async () => {
  const sim = await trained(20, {}, { steps: 120 });
  for (const { counters, agent } of sim.nodes) {
    counters.grow("net_errors", 3_000, sim.nowMs);
    agent!.watch.lookAtCounters();
  }
  await sim.until(() => sim.logs.some((line) => /other machines count alike/.test(line)));
  await finishes(sim);
  assert.deepEqual([generation(sim), sim.incidents(JOB), guilty(sim)], [1, [], []]);
});

test("counter: one machine counts damaged frames: it is examined once nobody uses it, and works on meanwhile", async () => {
  const sim = await trained(20, {}, { steps: 60 });
  const node = sim.node("n01");
  node.counters.grow("net_errors", 3_000, sim.nowMs);
  node.agent!.watch.lookAtCounters();
  await finishes(sim);
  assert.equal(generation(sim), 1);
  await sim.until(() => sim.logs.some((line) => /n01 .*self-checks/.test(line)));
  assert.deepEqual(guilty(sim), []);
});

test("words: a rank writes words of a machine and goes on: nobody disturbs it", async () => {
  const sim = await trained(20, {}, { steps: 100 });
  const before = pids(sim);
  for (let i = 0; i < 4; i++) {
    sim.agentOf(JOB, 2).watch.take(2, ECC);
    await sim.run(5_000);
  }
  assert.deepEqual([pids(sim), sim.incidents(JOB), guilty(sim)], [before, [], []]);
  await finishes(sim);
  assert.equal(generation(sim), 1);
});

test("words: a rank writes them and stands still: it is ended in seconds, where a hang may take minutes", async () => {
  const sim = await trained(20, {}, { steps: 100, stallSeconds: 300 });
  const { node, watch } = sim.agentOf(JOB, 2);
  const rank = sim.rankOf(JOB, 2);
  watch.take(2, ECC);
  rank.stopped = true;
  rank.group!.disturbed = true;
  const sinceMs = sim.nowMs;
  await recovers(sim);
  assert.ok(sim.nowMs - sinceMs < 15_000, `${sim.nowMs - sinceMs} ms`);
  assert.deepEqual([incident(sim).code, incident(sim).nodeId], ["HARDWARE_FAULT", node.nodeId]);
  assert.deepEqual([members(sim).includes(node.nodeId), guilty(sim)], [false, []]);
  await finishes(sim);
});

test("words: of the program, before its rank ends: the node is not blamed, and keeps its ranks", async () => {
  const sim = await trained(20, {}, { steps: 100 });
  const before = members(sim);
  const agent = sim.agentOf(JOB, 2);
  agent.watch.take(2, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB");
  agent.rankDies(sim.rankOf(JOB, 2), "SIGABRT");
  await recovers(sim);
  assert.deepEqual([incident(sim).code, members(sim)], ["RANK_DIED", before]);
  assert.equal(sim.view(JOB)!.avoided.size, 0);
  await finishes(sim);
});

for (const named of [true, false])
  test(`memory: the kernel kills a rank for it and ${named ? "names" : "does not name"} its process: told as that, no node is blamed`, async () => {
    const sim = await trained(20, {}, { steps: 140 });
    for (const rank of [2, 3, 2, 3]) {
      const agent = sim.agentOf(JOB, rank);
      const process = sim.rankOf(JOB, rank);
      const pid = named ? process.pid : 4_000_000;
      agent.watch.takeKernel(`Memory cgroup out of memory: Killed process ${pid} (node) total-vm:1kB`);
      await sim.run(200);
      agent.rankDies(process, "SIGKILL");
      await sim.run(12_000);
    }
    const codes = sim.incidents(JOB).map(({ code, outcome }) => [code, outcome]);
    assert.deepEqual(codes, Array(4).fill(["NODE_OUT_OF_MEMORY", "recovered"]));
    assert.deepEqual([guilty(sim), sim.view(JOB)!.avoided.size], [[], 0]);
    assert.ok(sim.logs.every((line) => !/examines/.test(line)));
    await finishes(sim);
  });

test("memory: a rank ends by itself soon after another was killed for it: that explains nothing", async () => {
  const sim = await trained(20, {}, { steps: 100 });
  sim.agentOf(JOB, 2).watch.takeKernel("Out of memory: Killed process 4000000 (other) total-vm:1kB");
  await sim.run(300);
  sim.agentOf(JOB, 2).rankDies(sim.rankOf(JOB, 2), "SIGABRT");
  await recovers(sim);
  assert.equal(incident(sim).code, "RANK_DIED");
  await finishes(sim);
});

test("person: drained a node, whose GPU then falls off the bus: a boot does not give it back, a person does", async () => {
  const sim = await trained(20, { nodes: 4 }, { steps: 200 });
  sim.drain("n01");
  await recovers(sim);
  sim.node("n01").agent!.watch.takeKernel(LOST);
  await sim.run(2_000);
  sim.crashNode(sim.node("n01"), 3_000);
  await sim.run(10_000);
  assert.deepEqual(guilty(sim), ["n01"]);
  sim.liftQuarantine("n01");
  await sim.until(() => guilty(sim).length === 0);
  await finishes(sim);
});

test("pod: killed for its memory limit: told by its platform, the incident says so", async () => {
  const sim = await trained(20, {}, { layout: FOUR, steps: 100 });
  const node = sim.node("n01");
  node.hasKilledForMemory = true;
  sim.crashAgent(node, 8_000);
  sim.leader()!.tellFate("n01", {
    code: "NODE_OUT_OF_MEMORY",
    text: "pod n01 was killed for its memory limit of 8Gi (OOMKilled)",
    endsAtMs: null,
    down: true,
  });
  await recovers(sim);
  assert.deepEqual([incident(sim).code, incident(sim).nodeId], ["NODE_OUT_OF_MEMORY", "n01"]);
  assert.deepEqual(guilty(sim), []);
  await finishes(sim);
});
