import assert from "node:assert/strict";
import { test } from "node:test";
import { planProcesses, threadsPerRank, warmCount } from "../../../worker/agent/plan_processes.js";

const living = (...ranks: (number | null)[]) => ranks.map((rank, i) => ({ id: i + 1, rank }));

test("planProcesses() keeps a rank on the process that held it and starts the missing ones", () => {
  const plan = planProcesses({ ranks: [2, 3, 4], living: living(3, 2), sparesKept: 1 });
  assert.deepEqual(plan.places, [
    { rank: 2, id: 2 },
    { rank: 3, id: 1 },
    { rank: 4, id: null },
  ]);
  assert.deepEqual(plan.surplus, []);
});

test("planProcesses() gives a dead rank's place to a spare rather than to a new process", () => {
  const plan = planProcesses({ ranks: [0, 1], living: living(0, null), sparesKept: 1 });
  assert.deepEqual(plan.places, [
    { rank: 0, id: 1 },
    { rank: 1, id: 2 },
  ]);
});

test("planProcesses() moves a process to another rank before it takes a spare", () => {
  const plan = planProcesses({ ranks: [0, 5], living: living(null, 0, 1), sparesKept: 1 });
  assert.deepEqual(plan.places, [
    { rank: 0, id: 2 },
    { rank: 5, id: 3 },
  ]);
  assert.deepEqual(plan.surplus, []);
});

test("planProcesses() ends former ranks and spares that are too many", () => {
  const plan = planProcesses({ ranks: [0], living: living(0, 1, null, null), sparesKept: 1 });
  assert.deepEqual(plan.surplus, [2, 4]);
});

test("planProcesses() never gives one process two ranks nor one rank two processes", () => {
  const plan = planProcesses({ ranks: [0, 1, 2], living: living(1, 1, 1), sparesKept: 0 });
  const ids = plan.places.map((place) => place.id);
  assert.deepEqual(new Set(ids).size, 3);
  assert.equal(plan.places[1]!.id, 1);
});

test("threadsPerRank() fills the cores and gives at least one", () => {
  assert.equal(threadsPerRank({ cores: 8, ranks: 3 }), 2);
  assert.equal(threadsPerRank({ cores: 2, ranks: 4 }), 1);
});

test("warmCount() has a process wait for each slot without a rank, and one for a rank that dies", () => {
  const memoryBytes = 2 ** 40;
  assert.equal(warmCount({ slots: 8, ranks: 0, memoryBytes }), 8);
  assert.equal(warmCount({ slots: 8, ranks: 6, memoryBytes }), 2);
  assert.equal(warmCount({ slots: 8, ranks: 8, memoryBytes }), 1);
});

test("warmCount() leaves the memory of a small node to its ranks, and one process waits all the same", () => {
  assert.equal(warmCount({ slots: 8, ranks: 0, memoryBytes: 2 * 2 ** 30 }), 3);
  assert.equal(warmCount({ slots: 8, ranks: 0, memoryBytes: 2 ** 29 }), 1);
});
