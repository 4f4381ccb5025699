import assert from "node:assert/strict";
import { test } from "node:test";
import { finishes, generation, JOB, pids, trained } from "./scenario.js";

test("controller: gone for 20 s: training does not pause, and its return disturbs nothing", async () => {
  const sim = await trained(10, { controllers: 1 });
  const before = { generation: generation(sim), pids: pids(sim), step: sim.stepOf(JOB) };
  sim.controllers[0]!.crash();
  await sim.run(20_000);
  assert.ok(sim.stepOf(JOB) > before.step + 30);
  sim.controllers[0]!.restart();
  await sim.until(() => sim.view(JOB)?.stage === "running");
  await sim.run(10_000);
  assert.deepEqual(
    { generation: generation(sim), pids: pids(sim) },
    { generation: before.generation, pids: before.pids },
  );
  await finishes(sim);
});

test("controller: falls in the middle of forming a generation: the next leader forms it anew", async () => {
  const sim = await trained(20);
  sim.agentOf(JOB, 2).rankDies(sim.rankOf(JOB, 2), "SIGKILL");
  await sim.until(() => sim.view(JOB)?.generation?.stage === "connect");
  sim.leader()!.crash();
  await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  assert.equal(sim.incidents(JOB).length, 1, "one incident, over both leaders");
  await finishes(sim);
});

test("controller: stands still for 3 s while slow ranks train: judges nobody by what it has not read yet", async () => {
  const sim = await trained(
    15,
    { controllers: 2, limits: { heartbeatMs: 250 } },
    { stepMs: 1_300, steps: 40 },
  );
  for (let i = 0; i < 8; i++) {
    sim.leader()!.pause(2_900 + 100 * i);
    await sim.run(7_000);
  }
  await finishes(sim);
  assert.equal(sim.groups.size, 1);
});

test("controller: stands still for 3 s while a generation forms: does not call its members silent", async () => {
  const sim = await trained(20, { limits: { heartbeatMs: 250 } });
  sim.agentOf(JOB, 2).rankDies(sim.rankOf(JOB, 2), "SIGKILL");
  await sim.until(() => sim.view(JOB)?.generation?.stage === "prepare");
  sim.leader()!.pause(3_000);
  await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
  assert.equal(sim.groups.size, 2);
  await finishes(sim);
});

test("controller: deposed, and does not know it: what it orders counts no more, the next leader heals", async () => {
  const sim = await trained(10, { controllers: 3 });
  const old = sim.leader()!;
  sim.store.cutOff.add(old.id);
  old.stopClock(20_000);
  await sim.until(() => sim.leader() !== old);
  assert.ok(old.leads, "two believe to lead");
  sim.agentOf(JOB, 2).rankDies(sim.rankOf(JOB, 2), "SIGKILL");
  await sim.run(5_000);
  assert.ok(old.leads);
  assert.equal(sim.groups.size, 1, "no generation by the word of one who was deposed");
  await sim.until(() => sim.groupOf(JOB)!.generation > 1 && sim.groupOf(JOB)!.votes > 0);
  assert.ok(!old.leads);
  await finishes(sim);
});

test("controller: three fight for the lead whenever the leader dies: one at a time leads, training does not pause", async () => {
  const sim = await trained(10, { controllers: 3 }, { steps: 150 });
  const led: string[] = [];
  for (let i = 0; i < 6; i++) {
    const { id } = sim.leader()!;
    led.push(id);
    sim.leader()!.crash();
    await sim.until(() => sim.leader() !== null && sim.leader()!.id !== id);
    for (const controller of sim.controllers) controller.restart();
  }
  assert.ok(new Set(led).size >= 2, led.join(" "));
  await finishes(sim);
  assert.equal(sim.groups.size, 1);
});

test("store: answers nobody for a while: a death is recovered when it does again, training elsewhere goes on", async () => {
  const sim = await trained(20, { controllers: 1 });
  sim.store.faultRate = 1;
  sim.agentOf(JOB, 3).rankDies(sim.rankOf(JOB, 3), "SIGKILL");
  await sim.run(8_000);
  assert.equal(sim.groups.size, 1, "no generation without a durable number");
  sim.store.faultRate = 0;
  await finishes(sim);
});
