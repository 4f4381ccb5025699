import assert from "node:assert/strict";
import { test } from "node:test";
import { planSeed, planText } from "./plan_seed.js";
import { runSeed } from "./run_seed.js";

const NODES = { min: 4, max: 16 };
const SEED_COUNT = 500;
const CHUNK = 100;

for (let first = 1; first <= SEED_COUNT; first += CHUNK) {
  test(`seeds ${first} to ${first + CHUNK - 1}: every invariant holds, and every job ends once healed`, async () => {
    for (let seed = first; seed < first + CHUNK; seed++) {
      const plan = planSeed(seed, NODES);
      const { error } = await runSeed(plan);
      assert.equal(
        error,
        null,
        `${planText(plan)}\n${error?.stack}\nreplay: node dist/scripts/sim.js --seed ${seed} --trace`,
      );
    }
  });
}

test("the same seed gives the same trace twice, and another seed another one", async () => {
  for (const seed of [3, 14, 159]) {
    const run = async (which: number) => (await runSeed(planSeed(which, NODES))).hash;
    assert.equal(await run(seed), await run(seed));
    assert.notEqual(await run(seed), await run(seed + 1));
  }
});
