import assert from "node:assert/strict";
import { test } from "node:test";
import { finishes, JOB, trained } from "./scenario.js";

for (const phase of ["forward", "vote"] as const)
  for (const stepMs of [100, 400, 3_000]) {
    test(`rank: stopped in ${phase}, with steps of ${stepMs} ms: named within 3 of them and 2 s`, async () => {
      for (const rank of [0, 3]) {
        const sim = await trained(35, {}, { stepMs, steps: 40 });
        const victim = sim.rankOf(JOB, rank);
        await sim.until(() => victim.phase === phase);
        sim.groupOf(JOB)!.holdChance = 1;
        victim.stopped = true;
        sim.groupOf(JOB)!.disturbed = true;
        const sinceMs = sim.scheduler.nowMs;
        await sim.until(() => !victim.alive);
        const tookMs = sim.scheduler.nowMs - sinceMs;
        const usualMs = 1.3 * stepMs; // a step takes as long as its slowest rank
        assert.ok(tookMs <= 3 * usualMs + 2_000, `${tookMs} ms`);
        await finishes(sim);
      }
    });
  }

test("ranks: stand still again and again, for less than a hang takes, with agents that beat at any time: nobody is judged", async () => {
  const sim = await trained(10, {}, { stepMs: 200, steps: 120 });
  for (let i = 0; i < 12; i++) {
    const rank = sim.rankOf(JOB, i % 4);
    rank.stopped = true;
    await sim.run(1_150 + 15 * i);
    rank.goOn();
    await sim.run(600 + 70 * i);
  }
  await finishes(sim);
  assert.equal(sim.groups.size, 1);
});

test("rank: waits for data for 20 s and shows that it lives: nobody is judged; one that only says so is", async () => {
  const sim = await trained(20, {}, { stepMs: 200, steps: 60 });
  await sim.until(() => sim.rankOf(JOB, 2).phase === "forward");
  sim.rankOf(JOB, 2).awaitData(20_000);
  await sim.run(21_000);
  assert.equal(sim.groups.size, 1, sim.status());
  await sim.until(() => sim.rankOf(JOB, 2).phase === "forward");
  sim.rankOf(JOB, 2).awaitData(60_000);
  sim.groupOf(JOB)!.disturbed = true;
  await sim.until(() => sim.incidents(JOB).length === 1);
  assert.match(sim.incidents(JOB)[0]!.what, /^rank 2 on n01 has not moved for 3\d\.\d s \(step \d+, data/);
  await finishes(sim);
});

test("machine: becomes slower by and by, three times in all: nobody is judged, and a rank that then stops is", async () => {
  for (const seed of [1, 2, 3]) {
    const alone = { layout: { dp_replicate: 1, dp_shard: 1, sp: 1 }, stepMs: 1_500, steps: 50 };
    const sim = await trained(20, { seed }, alone);
    for (const slowness of [2, 3]) {
      const from = sim.stepOf(JOB);
      for (const node of sim.nodes) node.setSlowness(slowness, sim.nowMs);
      await sim.until(() => sim.stepOf(JOB) >= from + 6);
      assert.equal(sim.groups.size, 1, sim.status());
    }
    const victim = sim.rankOf(JOB, 0);
    await sim.until(() => victim.phase === "forward");
    victim.stopped = true;
    sim.groupOf(JOB)!.disturbed = true;
    const sinceMs = sim.nowMs;
    await sim.until(() => !victim.alive);
    const usualMs = 1.3 * 3 * 1_500;
    assert.ok(sim.nowMs - sinceMs <= 3 * usualMs + 2_000, `${sim.nowMs - sinceMs} ms`);
    await finishes(sim);
  }
});

test("rank: stopped before it is ready, in a process that is new or was there before: named in seconds", async () => {
  for (const isNew of [true, false]) {
    const sim = await trained(10, {}, { stepMs: 400, steps: 40 });
    sim.agentOf(JOB, 2).rankDies(sim.rankOf(JOB, 2), "SIGKILL");
    const before = sim.groupOf(JOB)!.generation;
    const place = isNew ? 2 : 1;
    const victim = () =>
      sim.livingRanks().find(({ rank }) => rank.rank === place && rank.generation > before)?.rank;
    await sim.until(() => victim() !== undefined);
    const rank = victim()!;
    rank.stopped = true;
    const sinceMs = sim.nowMs;
    await sim.until(() => !rank.alive);
    assert.ok(sim.nowMs - sinceMs <= 8_000, `${sim.nowMs - sinceMs} ms`);
    const evidence = sim.incidents(JOB).flatMap((incident) => incident.evidence.map(({ text }) => text));
    assert.ok(
      evidence.some((text) => /no sign of life for \d s \(prepare of generation \d\)/.test(text)),
      evidence.join("; "),
    );
    await finishes(sim);
  }
});
