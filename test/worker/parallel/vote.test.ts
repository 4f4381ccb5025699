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

test("computed again, a step gives the same numbers where the data is bad, and tells which packs", async () => {
  const job = fleetJob({ packs: 3, steps: 3 });
  // Packs 3, 4 and 5 are step 2's; the ranks of the second sequence group compute pack 4.
  const results = await trainFleet({ layout: "1x2x2", job, poisonedPack: 4 });
  for (const { votes, leaks } of results) {
    const vote = votes[1]!;
    assert.deepEqual(
      [vote.finite, vote.numbersFinite, vote.packLosses.map(Number.isFinite)],
      [false, false, [true, false, true]],
    );
    assert.deepEqual(vote.differences, Array(4).fill({ losses: false, norm: false }));
    assert.equal(votes[0]!.differences, null);
    assert.deepEqual(leaks, [0, 0, 0]);
  }
});

for (const layout of ["1x3x1", "1x2x2", "3x1x1"]) {
  test(`${layout}: a rank that was wrong once is told by its losses, and the step is applied as if nothing had been`, async () => {
    const job = fleetJob({ packs: 3, steps: 3 });
    const [wanted, results] = [
      await trainFleet({ layout, job }),
      await trainFleet({ layout, job, poisonedPack: 4, poisonedOnce: true }),
    ];
    const wrong = results.flatMap((_, rank) =>
      results[0]!.votes[1]!.differences![rank]!.losses ? [rank] : [],
    );
    assert.deepEqual(wrong, layout === "1x2x2" ? [2, 3] : [1]);
    for (const [rank, { applied, votes }] of results.entries()) {
      assert.deepEqual(applied, [true, true, true]);
      assert.deepEqual(
        votes.map(({ loss, gradNorm }) => [loss, gradNorm]),
        wanted[rank]!.votes.map(({ loss, gradNorm }) => [loss, gradNorm]),
      );
    }
    assert.deepEqual(wholeState(results), wholeState(wanted));
  });
}

for (const layout of ["1x3x1", "1x2x2", "2x1x2", "1x4x1"]) {
  test(`${layout}: packs moved on to other ranks have the very losses that they have at home`, async () => {
    const job = fleetJob({ packs: 5, steps: 2 });
    const wanted = await trainFleet({ layout, job });
    const results = await trainFleet({ layout, job, movedFirst: true });
    for (const { moved } of results) {
      assert.equal(moved[0]!.length, 5);
      assert.deepEqual(moved[1], moved[0]);
    }
    assert.deepEqual(wholeState(results), wholeState(wanted), "computing a step for nothing changes nothing");
  });
}
