import assert from "node:assert/strict";
import { test } from "node:test";
import { Layout } from "../../../job/layout.js";
import { Packer } from "../../../job/packer.js";
import { announcedSteps, ownPacks } from "../../../worker/rank/own_packs.js";
import { Random } from "../../sim/random.js";

test("ownPacks() deals packs round-robin over data ranks, all ranks of a sequence alike", () => {
  const layout = Layout.parse("1x2x2");
  assert.deepEqual(
    [0, 1, 2, 3].map((rank) => ownPacks(layout, rank, 3)),
    [
      [0, 2],
      [0, 2],
      [1, null],
      [1, null],
    ],
  );
});

test("ownPacks() gives a rank nothing when there are fewer packs than data ranks", () => {
  assert.deepEqual(ownPacks(Layout.parse("1x3x1"), 2, 2), [null]);
});

test("ownPacks() covers every pack exactly once on every layout", () => {
  for (const text of ["1x1x1", "2x1x3", "2x3x1", "1x5x2"]) {
    const layout = Layout.parse(text);
    const first = Array.from({ length: layout.dataRankCount }, (_, i) => i * layout.sp);
    const all = first.flatMap((rank) => ownPacks(layout, rank, 7)).filter((pack) => pack !== null);
    assert.deepEqual(all.sort(), [0, 1, 2, 3, 4, 5, 6], text);
  }
});

test("announcedSteps() is three steps, and two where a rank has many packs in each", () => {
  assert.deepEqual([1, 21, 22, 1000].map(announcedSteps), [3, 3, 2, 2]);
});

test("data position: any number of resumes, at any layouts and from any earlier step, consumes the samples of an uninterrupted run, in the same packs", () => {
  for (let seed = 1; seed <= 200; seed++) {
    const random = new Random(seed);
    const sizes = Array.from({ length: random.between(8, 60) }, () => random.between(1, 40));
    const packsPerStep = random.between(1, 9);
    const stepsTotal = random.between(5, 30);
    // All that a process knows of the data: nothing is handed from one to the next but the step.
    const begin = () => new Packer({ sizes, tokensPerPack: 48, seed });
    const stepPacks = (packer: Packer, step: number, indices: readonly number[]) =>
      indices.map((pack) => packer.pack((step - 1) * packsPerStep + pack).samples);
    const consumed = new Map<number, number[][]>();
    for (let step = 0; step < stepsTotal; ) {
      const packer = begin();
      const [replicate, shard, sp] = [random.between(1, 3), random.between(1, 4), random.between(1, 3)];
      const layout = Layout.parse(`${replicate}x${shard}x${sp}`);
      const until = random.between(step + 1, stepsTotal);
      while (step < until) {
        step++;
        const byRank = Array.from({ length: layout.worldSize }, (_, rank) =>
          ownPacks(layout, rank, packsPerStep).filter((pack) => pack !== null),
        );
        for (const [rank, own] of byRank.entries())
          assert.deepEqual(own, byRank[rank - (rank % sp)], "ranks of one sequence compute the same packs");
        const indices = byRank.filter((_, rank) => rank % sp === 0).flat();
        consumed.set(
          step,
          stepPacks(
            packer,
            step,
            indices.sort((a, b) => a - b),
          ),
        );
      }
      if (step < stepsTotal && random.chance(0.5)) step = random.between(0, step); // back to an older state
    }
    const packer = begin();
    const all = Array.from({ length: packsPerStep }, (_, pack) => pack);
    for (let step = 1; step <= stepsTotal; step++)
      assert.deepEqual(consumed.get(step), stepPacks(packer, step, all), `seed ${seed}, step ${step}`);
  }
});
