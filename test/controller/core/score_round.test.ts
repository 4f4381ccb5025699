import assert from "node:assert/strict";
import { test } from "node:test";
import { scoreRound } from "../../../controller/core/score_round.js";
import type { RankTimes } from "../../../controller/core/wire.js";

/** What one rank did in a round: work, and microseconds for each unit of it. */
function did(work: number, forwardUs: number, more: Partial<RankTimes> = {}): RankTimes {
  const backwardUs = 2 * forwardUs;
  return { steps: 5, work, forwardUs, backwardUs, optimizerUs: 100, dataUs: 0, waitUs: 0, ...more };
}
const rounded = (values: Float64Array) => Array.from(values, (value) => Number(value.toFixed(3)));

const CASES: { name: string; deltas: (RankTimes | null)[]; want: number[] }[] = [
  {
    name: "equal work, equal times",
    deltas: [did(10, 1_000), did(10, 1_000), did(10, 1_000)],
    want: [1, 1, 1],
  },
  {
    name: "three times the work in three times the time is not slow",
    deltas: [did(30, 3_000), did(10, 1_000), did(20, 2_000)],
    want: [1, 1, 1],
  },
  {
    name: "waiting, for packs or for others, is not slow",
    deltas: [did(10, 1_000, { dataUs: 9_000 }), did(10, 1_000, { waitUs: 9_000 }), did(10, 1_000)],
    want: [1, 1, 1],
  },
  {
    name: "twice the time for the same work",
    deltas: [did(10, 1_000), did(10, 2_000), did(10, 1_000), did(10, 1_000)],
    want: [1, 1.968, 1, 1],
  },
  {
    name: "of two, each is measured by the other",
    deltas: [did(10, 1_000, { optimizerUs: 0 }), did(10, 2_000, { optimizerUs: 0 })],
    want: [0.5, 2],
  },
  {
    name: "half of all are slow: they are, not the others fast",
    deltas: [did(10, 1_000), did(10, 1_000), did(10, 2_000), did(10, 2_000)].map((delta) => ({
      ...delta,
      optimizerUs: 0,
    })),
    want: [0.5, 0.5, 2, 2],
  },
  {
    name: "a rank without a pack, or not heard of, is not judged, nor others by it",
    deltas: [did(10, 1_000), did(0, 50), null, did(10, 1_000)],
    want: [1, Number.NaN, Number.NaN, 1],
  },
  { name: "one alone has nobody to be compared with", deltas: [did(10, 1_000)], want: [Number.NaN] },
];
for (const { name, deltas, want } of CASES) {
  test(`scoreRound(): ${name}`, () => {
    assert.deepEqual(rounded(scoreRound(deltas).slowness), want);
  });
}

test("scoreRound() says in which section a rank is slow", () => {
  const fast = did(10, 1_000);
  const { sections, slowness } = scoreRound([fast, fast, { ...fast, forwardUs: 3_000 }]);
  assert.deepEqual(
    [sections.forward[2], sections.backward[2], sections.optimizer[2]],
    [3, 1, 1],
    "its forward passes only",
  );
  assert.ok(Math.abs(slowness[2]! - 5_100 / 3_100) < 1e-12, `${slowness[2]}`);
});
