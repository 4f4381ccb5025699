import assert from "node:assert/strict";
import { test } from "node:test";
import { sameState } from "../../../controller/core/state_name.js";
import { SimCluster } from "../sim_cluster.js";
import { FOUR, finishes, JOB, trained } from "./scenario.js";

test("checkpoint: the newest is corrupt and memory is lost: the one before serves", async () => {
  const sim = await trained(35, {}, { saveEverySteps: 10 });
  await sim.until(() => sim.job(JOB).storage.durable.length >= 3);
  const { durable } = sim.job(JOB).storage;
  // Told by agents: storage is listed only when a job goes back behind its memory.
  await sim.until(() => {
    const registered = sim.view(JOB)?.checkpoints ?? [];
    return durable.every(({ content }) => registered.some(({ state }) => sameState(state, content.state)));
  });
  sim.job(JOB).storage.durable.at(-1)!.corrupt = true;
  for (const node of sim.nodes.slice(0, 2)) sim.crashNode(node, 2_000);
  await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  const decisions = sim
    .incidents(JOB)[0]!
    .decisions.map((d) => d.text)
    .join("; ");
  assert.match(decisions, /from checkpoint .*-30 .*; .*from checkpoint .*-20 /);
  await finishes(sim);
});

test("checkpoint: the news of the only one is lost with its agent, and all memory with it: it is found in storage", async () => {
  const sim = await trained(18, {}, { saveEverySteps: 20, keepLast: 1 });
  sim.blockade("n00", "up", 10_000_000); // the agent of rank 0
  const { storage } = sim.job(JOB);
  await sim.until(() => storage.durable.length > 0);
  for (const node of sim.nodes.slice(0, 2)) sim.crashNode(node, 10_000_000);
  await finishes(sim);
  const [incident] = sim.incidents(JOB);
  assert.match(incident!.decisions.map(({ text }) => text).join("; "), /from checkpoint .*-20 /);
  assert.ok(sim.logs.some((line) => /checkpoint-20, which no agent has told/.test(line)));
});

test("person: stops the job while a rank's death is being dealt with: it saves, then stops", async () => {
  const sim = await trained(20);
  sim.agentOf(JOB, 2).rankDies(sim.rankOf(JOB, 2), "SIGKILL");
  await sim.run(100);
  sim.requestStop(JOB);
  await sim.until(() => sim.allOver);
  const { outcome } = sim.record(JOB)!;
  assert.equal(outcome?.phase, "STOPPED");
  assert.equal(sim.job(JOB).storage.durable.at(-1)?.content.state.step, outcome?.step);
});

test("person: two jobs, room for one: the second runs on the first one's nodes", async () => {
  const sim = new SimCluster({ seed: 3, nodes: 2 });
  sim.submit({ name: "j", layout: FOUR, steps: 10 });
  sim.submit({ name: "k", layout: FOUR, steps: 10 });
  await sim.until(() => sim.allOver);
  for (const name of ["j", "k"]) assert.equal(sim.record(`job-${name}`)!.outcome?.phase, "COMPLETED");
});

test("save: fails again and again: training goes on, the last one is tried until it is durable", async () => {
  const sim = await trained(20, {}, { saveEverySteps: 5, saveFailRate: 0.8 });
  await finishes(sim);
  assert.equal(sim.groups.size, 1);
});
