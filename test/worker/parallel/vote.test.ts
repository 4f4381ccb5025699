import assert from "node:assert/strict";
import { test } from "node:test";
import { fleetJob, trainFleet, wholeState } from "./fleet.js";

test("a step with a NaN changes nothing on any rank, and training goes on without it", async () => {
  // Packs 2 and 3 are step 2's; rank 1 computes pack 3.
  const job = fleetJob({ packs: 2, steps: 3, optimizer: { lr: 1e-2 } });
  const results = await trainFleet({ layout: "1x2x1", job, poisonedPack: 3 });
  for (const result of results) {
    assert.deepEqual(result.applied, [true, false, true]);
    assert.deepEqual(
      result.votes.map((vote) => vote.finite),
      [true, false, true],
    );
    assert.equal(result.adamStep, 2);
    assert.deepEqual(result.leaks, [0, 0, 0]);
  }
  const one = await trainFleet({ layout: "1x2x1", job, steps: 1 });
  const two = await trainFleet({ layout: "1x2x1", job, steps: 2, poisonedPack: 3 });
  assert.deepEqual(wholeState(two), wholeState(one));
  for (const values of wholeState(results).values()) assert.ok(values.every(Number.isFinite));
});

test("requests of one rank reach all; a missing snapshot or slot of one rank is known to all", async () => {
  const job = fleetJob({ packs: 1, steps: 4 });
  const results = await trainFleet({
    layout: "1x1x3",
    job,
    flags: [
      { rank: 0, step: 1, flags: { save: true } },
      { rank: 2, step: 2, flags: { stop: true } },
      { rank: 1, step: 3, flags: { snapshotWhole: false } },
      { rank: 2, step: 4, flags: { slotFree: false } },
      { rank: 1, step: 1, flags: { replicated: false } },
      { rank: 0, step: 2, flags: { replicated: false, replicaLost: true } },
    ],
  });
  for (const { votes } of results) {
    assert.deepEqual(
      votes.map((vote) => [vote.replicated, vote.replicaLost]),
      [
        [false, false],
        [false, true],
        [true, false],
        [true, false],
      ],
    );
    assert.deepEqual(
      votes.map((vote) => vote.save),
      [true, false, false, false],
    );
    assert.deepEqual(
      votes.map((vote) => vote.stop),
      [false, true, false, false],
    );
    assert.deepEqual(
      votes.map((vote) => vote.snapshotWhole),
      [true, true, false, true],
    );
    assert.deepEqual(
      votes.map((vote) => vote.slotFree),
      [true, true, true, false],
    );
  }
});

test("samples that a rank could not read are named once, by their place in the step, and weigh nothing", async () => {
  const job = fleetJob({ packs: 3, steps: 1 });
  const unreadable = ["pack 2 sample 1", "pack 0 sample 0"];
  const results = await trainFleet({ layout: "1x2x2", job, unreadable });
  for (const { votes } of results) assert.deepEqual(votes[0]!.excluded, [0, 4]); // the packs hold 1, 2 and 3 samples
  const one = await trainFleet({ layout: "1x1x1", job, unreadable });
  const all = await trainFleet({ layout: "1x1x1", job });
  assert.ok(Math.abs(one[0]!.votes[0]!.loss / results[0]!.votes[0]!.loss - 1) < 1e-6);
  assert.ok(one[0]!.votes[0]!.loss < all[0]!.votes[0]!.loss);
});

test("a step is voted down when the ranks of a sequence could not read the same samples, and names them", async () => {
  const job = fleetJob({ packs: 2, steps: 1 });
  const unreadableAt = { rank: 3, sample: "pack 1 sample 1" };
  for (const { votes, applied } of await trainFleet({ layout: "1x2x2", job, unreadableAt })) {
    assert.deepEqual(votes[0]!.excluded, [2]);
    assert.deepEqual(applied, [false]);
  }
  const [whole] = await trainFleet({ layout: "1x2x1", job, unreadableAt: { ...unreadableAt, rank: 1 } });
  assert.deepEqual(whole!.applied, [true], "a rank that has its sequences alone agrees with itself");
});

test("the learning rate follows warm-up and schedule by step", async () => {
  const job = fleetJob({ packs: 1, steps: 4, optimizer: { lr: 1, warmup_steps: 2, schedule: "cosine" } });
  const [result] = await trainFleet({ layout: "1x1x1", job });
  assert.deepEqual(result!.lrs, [0.5, 1, 1, 0.5]);
});
