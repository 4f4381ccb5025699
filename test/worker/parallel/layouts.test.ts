import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import { type FleetResult, fleetJob, TINY, trainFleet, wholeState } from "./fleet.js";

const STEPS = 4;

function losses(results: readonly FleetResult[]): number[] {
  return results[0]!.votes.map((vote) => vote.loss);
}

function norms(results: readonly FleetResult[]): number[] {
  return results[0]!.votes.map((vote) => vote.gradNorm);
}

function assertNear(found: readonly number[], want: readonly number[], relative: number, what: string): void {
  assert.equal(found.length, want.length);
  for (const [i, value] of found.entries()) {
    const error = Math.abs(value - want[i]!) / Math.abs(want[i]!);
    assert.ok(
      error <= relative,
      `${what} of step ${i + 1}: ${value}, want ${want[i]} within ${relative}, is off by ${error}`,
    );
  }
}

function assertWhole(results: readonly FleetResult[]): void {
  for (const result of results) {
    assert.deepEqual(
      result.leaks,
      result.leaks.map(() => 0),
      "bytes alive after a step",
    );
    assert.deepEqual(result.votes, results[0]!.votes, "ranks disagree on a vote");
  }
}

for (const precision of ["fp32", "bf16"] as const) {
  describe(`layouts in ${precision}`, () => {
    const job = fleetJob({ packs: 3, steps: STEPS, precision });
    let one: FleetResult[];
    before(async () => {
      one = await trainFleet({ layout: "1x1x1", job });
      assertWhole(one);
    });

    test("the same layout twice gives identical bits, with any thread count", async () => {
      const again = await trainFleet({ layout: "1x1x1", job, threads: 2 });
      assert.deepEqual(losses(again), losses(one));
      assert.deepEqual(norms(again), norms(one));
      assert.deepEqual(wholeState(again), wholeState(one));
    });

    // 3 packs over 2, 3 and 4 ranks: an uneven deal, an even one, and a rank that never has a pack.
    for (const layout of ["1x2x1", "1x3x1", "1x4x1"]) {
      test(`${layout} gives the bits of 1x1x1`, async () => {
        const results = await trainFleet({ layout, job });
        assertWhole(results);
        assert.deepEqual(losses(results), losses(one));
        assert.deepEqual(norms(results), norms(one));
        assert.deepEqual(wholeState(results), wholeState(one));
      });
    }

    // TINY has 3 heads and packs of 6 tokens and more: with sp 4 a rank holds no head, with sp 8 some hold no token.
    for (const layout of ["1x1x2", "2x1x1", "1x2x2", "2x1x2", "1x1x4", "4x1x1", "1x1x8"]) {
      test(`${layout} stays near 1x1x1`, async () => {
        const results = await trainFleet({ layout, job });
        assertWhole(results);
        assertNear(losses(results), losses(one), precision === "fp32" ? 1e-6 : 1e-3, "loss");
        assertNear(norms(results), norms(one), precision === "fp32" ? 1e-5 : 1e-2, "gradient norm");
      });
    }

    for (const recompute of ["none", "full"] as const) {
      test(`recompute ${recompute} gives the bits of selective recomputation`, async () => {
        const results = await trainFleet({ layout: "1x1x1", job: { ...job, recompute } });
        assertWhole(results);
        assert.deepEqual(losses(results), losses(one));
        assert.deepEqual(wholeState(results), wholeState(one));
      });
    }

    test("all ways to recompute give the same bits where a sequence is spread", async () => {
      const spread = await trainFleet({ layout: "1x2x2", job: { ...job, recompute: "selective" } });
      for (const recompute of ["none", "full"] as const) {
        const results = await trainFleet({ layout: "1x2x2", job: { ...job, recompute } });
        assert.deepEqual(losses(results), losses(spread));
        assert.deepEqual(wholeState(results), wholeState(spread));
      }
    });

    test("TCP gives the bits of shared memory", async () => {
      const shared = await trainFleet({ layout: "1x2x2", job });
      const tcp = await trainFleet({ layout: "1x2x2", job, transport: "tcp" });
      assert.deepEqual(losses(tcp), losses(shared));
      assert.deepEqual(wholeState(tcp), wholeState(shared));
    });
  });
}

test("a reference frame trains alike on a split sequence", async () => {
  const model = { ...TINY, reference_frame: true };
  const job = fleetJob({ packs: 2, steps: 2 });
  const one = await trainFleet({ layout: "1x1x1", job, model });
  const split = await trainFleet({ layout: "1x1x3", job, model });
  assertWhole(split);
  assertNear(losses(split), losses(one), 1e-6, "loss");
  assertNear(norms(split), norms(one), 1e-5, "gradient norm");
});
