import assert from "node:assert/strict";
import { test } from "node:test";
import { judgeSlowRanks, ROUNDS_COUNT } from "../../../controller/core/judge_slow_ranks.js";
import { type RoundScores, scoreRound } from "../../../controller/core/score_round.js";
import type { RankTimes } from "../../../controller/core/wire.js";
import { Random } from "../../sim/random.js";

function round(...slowness: number[]): RoundScores {
  const scores = Float64Array.from(slowness);
  return { slowness: scores, sections: { forward: scores, backward: scores, optimizer: scores } };
}
const times = (count: number, make: (i: number) => RoundScores) =>
  Array.from({ length: count }, (_, i) => make(i));
const nobody = new Set<number>();

test("a rank is slow after six slow rounds, not after five", () => {
  assert.deepEqual(
    judgeSlowRanks(
      times(5, () => round(1, 1, 1, 1.5)),
      nobody,
    ).slow,
    [],
  );
  assert.deepEqual(
    judgeSlowRanks(
      times(6, () => round(1, 1, 1, 1.5)),
      nobody,
    ).slow,
    [3],
  );
});

test("it stays slow until six of the last eight rounds were not", () => {
  const was = new Set([3]);
  const mixed = (calm: number) =>
    times(ROUNDS_COUNT, (i) => (i < ROUNDS_COUNT - calm ? round(1, 1, 1, 1.5) : round(1, 1, 1, 1)));
  assert.deepEqual(judgeSlowRanks(mixed(5), was).slow, [3]);
  assert.deepEqual(judgeSlowRanks(mixed(6), was).slow, []);
});

test("less than a tenth is never slow, however steady", () => {
  assert.deepEqual(
    judgeSlowRanks(
      times(8, () => round(1, 1, 1, 1.09)),
      nobody,
    ).slow,
    [],
  );
  assert.deepEqual(
    judgeSlowRanks(
      times(8, () => round(1, 1, 1, 1.12)),
      nobody,
    ).slow,
    [3],
  );
});

test("noise of the rounds, and a wide field of ranks, raise the limit", () => {
  const noisy = judgeSlowRanks(
    times(8, (i) => round(i % 2 ? 0.8 : 1.2, i % 2 ? 1.2 : 0.8, i % 2 ? 0.9 : 1.1, 1.5)),
    nobody,
  );
  assert.ok(noisy.limit > 1.5, `${noisy.limit}`);
  const wide = judgeSlowRanks(
    times(8, () => round(0.8, 0.85, 0.9, 0.95, 1, 1.05, 1.1, 1.15, 1.2, 2)),
    nobody,
  );
  assert.ok(wide.limit > 1.3 && wide.limit < 2, `${wide.limit}`);
  assert.deepEqual(wide.slow, [9]);
});

test("rounds without work count for neither side", () => {
  const rounds = times(8, (i) => round(1, 1, i < 5 ? Number.NaN : 1.5, Number.NaN));
  const { slow, typical } = judgeSlowRanks(rounds, nobody);
  assert.deepEqual(slow, []);
  assert.deepEqual([typical[2], typical[3]], [1.5, Number.NaN]);
});

interface Field {
  ranks: number;
  rounds: number;
  /** Standard deviation of the logarithm of the time of a step. */
  noise: number;
  /** Factor of the last rank, from a third of the rounds on. */
  slowness?: number;
}

/** Names every rank that is called slow in a run of seeded lognormal step times and unequal work, and the round of it. */
function named(random: Random, { ranks, rounds, noise, slowness = 1 }: Field): Map<number, number> {
  const normal = () => Math.sqrt(-2 * Math.log(1 - random.unit())) * Math.cos(2 * Math.PI * random.unit());
  const found = new Map<number, number>();
  const last: RoundScores[] = [];
  let slow = new Set<number>();
  for (let at = 0; at < rounds; at++) {
    const deltas = Array.from({ length: ranks }, (_, rank): RankTimes => {
      const sum = { steps: 5, work: 0, forwardUs: 0, backwardUs: 0, optimizerUs: 0, dataUs: 0, waitUs: 0 };
      const factor = rank === ranks - 1 && at >= rounds / 3 ? slowness : 1;
      for (let step = 0; step < 5; step++) {
        const work = random.between(50, 150);
        sum.work += work;
        sum.forwardUs += 10 * work * factor * Math.exp(noise * normal());
        sum.backwardUs += 20 * work * factor * Math.exp(noise * normal());
        sum.optimizerUs += 100 * factor * Math.exp(noise * normal());
      }
      return sum;
    });
    last.push(scoreRound(deltas));
    if (last.length > ROUNDS_COUNT) last.shift();
    slow = new Set(judgeSlowRanks(last, slow).slow);
    for (const rank of slow) if (!found.has(rank)) found.set(rank, at);
  }
  return found;
}

/** 50 runs of 100 rounds (500 steps) for each: 200 in all. */
const FIELDS: Field[] = [
  { ranks: 2, rounds: 100, noise: 0.1 },
  { ranks: 4, rounds: 100, noise: 0.3 },
  { ranks: 8, rounds: 100, noise: 0.05 },
  { ranks: 64, rounds: 100, noise: 0.2 },
];
for (const field of FIELDS) {
  test(`${field.ranks} ranks with ${100 * field.noise} % noise in each step: 50 undisturbed runs name nobody`, () => {
    for (let seed = 1; seed <= 50; seed++) {
      const found = named(new Random(seed), field);
      assert.deepEqual([...found], [], `seed ${seed} names ranks in rounds`);
    }
  });
}

for (const [field, slowness] of [
  [FIELDS[0]!, 1.5],
  [FIELDS[1]!, 2.2],
  [FIELDS[2]!, 1.15],
  [FIELDS[3]!, 1.5],
] as const) {
  test(`${field.ranks} ranks with ${100 * field.noise} % noise: one ${slowness} times as slow is named in 12 rounds, and no other`, () => {
    for (let seed = 1; seed <= 50; seed++) {
      const found = named(new Random(seed), { ...field, rounds: 60, slowness });
      assert.deepEqual([...found.keys()], [field.ranks - 1], `seed ${seed}`);
      const after = found.get(field.ranks - 1)! - 20 + 1;
      assert.ok(after <= 12, `seed ${seed}: after ${after} rounds`);
    }
  });
}
