import assert from "node:assert/strict";
import { test } from "node:test";
import { sameState } from "../../../controller/core/state_name.js";
import type { SimCluster, SimJobOptions, SimOptions } from "../sim_cluster.js";
import { stepsOf } from "../sim_content.js";
import { decisions, finishes, generation, JOB, members, recovers, resumed, trained } from "./scenario.js";

const BACK: Partial<SimJobOptions> = {
  badStep: "roll_back",
  spike: "roll_back",
  rollBackSteps: 5,
  saveEverySteps: 10,
};
const leftOut = (sim: SimCluster) => stepsOf(sim.rankOf(JOB, 0).content!.leftOut);
const undone = (sim: SimCluster) => sim.record(JOB)!.rollBacks.map(({ first, last }) => [first, last]);
const ended = (sim: SimCluster) => {
  const { phase, code } = sim.record(JOB)!.outcome!;
  return [phase, code];
};

/** A job that goes back five steps when a number is bad, and has done 20. */
async function goesBack(
  job: Partial<SimJobOptions> = {},
  options: Partial<SimOptions> = {},
): Promise<SimCluster> {
  return trained(20, options, { ...BACK, ...job });
}

/** The ranks vote to go back at that step, and it happens in the same moment. */
async function upon(sim: SimCluster, step: number, happens: () => void): Promise<void> {
  let voted = false;
  sim.onRollBack.push(() => {
    voted = true;
    happens();
  });
  sim.job(JOB).badSteps.set(step, "loss");
  await sim.until(() => voted);
}

for (const what of ["loss", "gradient", "notFinite"] as const)
  test(`roll back: ${what} of a step is bad: five steps are undone and left out, and the run equals one that voted them down`, async () => {
    const sim = await goesBack();
    sim.job(JOB).badSteps.set(24, what);
    await recovers(sim);
    assert.deepEqual([undone(sim), resumed(sim) <= 19], [[[20, 24]], true]);
    assert.match(decisions(sim), /go back to step 19: steps 20 to 24 are left out/);
    await finishes(sim);
    const { digest, numbers } = sim.rankOf(JOB, 0).content!;
    const other = await trained(15, {}, { badStep: "skip" });
    for (const step of [20, 21, 22, 23, 24]) other.job(JOB).badSteps.set(step, "notFinite");
    await finishes(other);
    assert.deepEqual(
      [leftOut(sim), leftOut(other)],
      [
        [20, 21, 22, 23, 24],
        [20, 21, 22, 23, 24],
      ],
    );
    const calm = other.rankOf(JOB, 0).content!;
    assert.deepEqual([digest, numbers], [calm.digest, calm.numbers]);
  });

test("roll back: the leader falls before it has written it: the next one hears of it, and writes the same", async () => {
  const sim = await goesBack({}, { controllers: 3 });
  await upon(sim, 24, () => sim.leader()!.crash());
  await recovers(sim);
  assert.deepEqual([undone(sim), generation(sim)], [[[20, 24]], 2]);
  await finishes(sim);
});

test("roll back: the leader falls just when it has written it: its successor hears of it again, and adds nothing", async () => {
  const sim = await goesBack({}, { controllers: 3 });
  await upon(sim, 24, () => {});
  await sim.until(() => sim.record(JOB)!.rollBacks.length > 0);
  sim.leader()!.crash();
  await finishes(sim);
  assert.deepEqual([undone(sim), leftOut(sim)], [[[20, 24]], [20, 21, 22, 23, 24]]);
});

test("roll back: the leader is deposed and does not know it: its successor writes it, once", async () => {
  const sim = await goesBack({}, { controllers: 3 });
  await upon(sim, 24, () => {
    const old = sim.leader()!;
    sim.store.cutOff.add(old.id);
    old.stopClock(10_000);
  });
  await finishes(sim);
  assert.deepEqual([undone(sim), leftOut(sim)], [[[20, 24]], [20, 21, 22, 23, 24]]);
});

test("roll back: the store is gone: nobody goes on from what is to be undone, and the way back begins when it is there", async () => {
  const sim = await goesBack({}, { controllers: 3 });
  await upon(sim, 24, () => {
    for (const { id } of sim.controllers) sim.store.cutOff.add(id);
  });
  await sim.run(40_000);
  assert.deepEqual([undone(sim), sim.groups.size], [[], 1]);
  sim.store.cutOff.clear();
  await finishes(sim);
  assert.deepEqual(undone(sim), [[20, 24]]);
});

test("roll back: a node is lost on the way: the same steps are left out by who takes over", async () => {
  const sim = await goesBack();
  await upon(sim, 24, () => {});
  await sim.until(() => sim.record(JOB)!.rollBacks.length > 0);
  const [lost] = members(sim);
  sim.crashNode(sim.node(lost!), 10_000_000);
  await finishes(sim);
  assert.deepEqual([undone(sim), leftOut(sim)], [[[20, 24]], [20, 21, 22, 23, 24]]);
  assert.ok(!members(sim).includes(lost!));
});

test("roll back: then a rank dies: its run goes on from what has been computed since", async () => {
  const sim = await goesBack();
  await upon(sim, 24, () => {});
  await sim.until(() => sim.stepOf(JOB) >= 32);
  sim.agentOf(JOB, 2).rankDies(sim.rankOf(JOB, 2), "SIGKILL");
  await sim.until(() => generation(sim) === 3 && sim.stepOf(JOB) > 32);
  assert.ok(resumed(sim) >= 31);
  await finishes(sim);
});

test("roll back: saves of steps that are undone become durable later: nobody restores them", async () => {
  const sim = await goesBack({ rollBackSteps: 8 });
  for (const node of sim.nodes) node.disk = "STORAGE_FAILED";
  await upon(sim, 24, () => {
    for (const node of sim.nodes) node.disk = null; // what failed is tried again after some seconds
  });
  await sim.until(() => sim.record(JOB)!.rollBacks.length > 0);
  const late = { generation: 1, step: 20 };
  await sim.until(() => sim.view(JOB)!.checkpoints.some(({ state }) => sameState(state, late)));
  for (const node of sim.nodes) sim.crashNode(node, 3_000);
  await finishes(sim);
  assert.deepEqual([undone(sim), leftOut(sim)], [[[17, 24]], [17, 18, 19, 20, 21, 22, 23, 24]]);
});

test("roll back: what lies before the target has been removed: it goes as far as it can, and says so", async () => {
  const sim = await goesBack({ keepLast: 1, rollBackSteps: 8, saveEverySteps: 10 });
  await sim.until(() => sim.view(JOB)?.checkpoints.at(-1)?.state.step === 20);
  await upon(sim, 24, () => {});
  await finishes(sim);
  assert.deepEqual(undone(sim), [[21, 24]]);
  assert.match(decisions(sim), /go back to step 20, not to step 16, since no earlier state is left/);
});

test("roll back: nothing is durable: it leads to initial values", async () => {
  const sim = await trained(20, {}, { ...BACK, saveFailRate: 1, replicas: 0 });
  sim.job(JOB).badSteps.set(24, "loss");
  await recovers(sim);
  assert.equal(resumed(sim), 0);
  sim.job(JOB).saveFailRate = 0;
  await finishes(sim);
  assert.deepEqual(leftOut(sim), [20, 21, 22, 23, 24]);
});

test("roll back: trouble that comes again at once leads further back, and ends the job when it comes too often", async () => {
  const sim = await goesBack({ maxRollBacks: 2 });
  for (const step of [24, 26, 28]) sim.job(JOB).badSteps.set(step, "loss");
  await sim.until(() => sim.allOver);
  assert.deepEqual(undone(sim), [
    [20, 24],
    [17, 26],
  ]);
  assert.deepEqual(ended(sim), ["FAILED", "NUMBERS_SPIKED"]);
  assert.equal(sim.job(JOB).storage.durable.at(-1)!.content.state.step, 28);
});

test("stop: a spike ends the job with the state before it durable", async () => {
  const sim = await trained(20, {}, { spike: "stop", badStep: "stop" });
  sim.job(JOB).badSteps.set(24, "gradient");
  await sim.until(() => sim.allOver);
  assert.deepEqual(ended(sim), ["FAILED", "NUMBERS_SPIKED"]);
  const { content } = sim.job(JOB).storage.durable.at(-1)!;
  assert.deepEqual([content.state.step, stepsOf(content.leftOut)], [24, [24]]);
});

test("spike: taken as it is unless the job says otherwise, and told", async () => {
  const sim = await trained(20);
  sim.job(JOB).badSteps.set(24, "loss");
  await finishes(sim);
  assert.deepEqual([generation(sim), leftOut(sim)], [1, []]);
  assert.ok(sim.logs.some((line) => /step 24 had a loss of .*: a spike.*applied all the same/.test(line)));
});

test("spike: of a device that is wrong once: never rolled back, its node is replaced", async () => {
  const sim = await goesBack();
  const { node } = sim.agentOf(JOB, 2);
  node.computesWrong("surge");
  await recovers(sim);
  assert.deepEqual([undone(sim), sim.incidents(JOB)[0]!.code], [[], "RANK_CORRUPT"]);
  await finishes(sim);
  assert.deepEqual([leftOut(sim), members(sim).includes(node.nodeId)], [[], false]);
});
