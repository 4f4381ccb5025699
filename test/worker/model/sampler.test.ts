import assert from "node:assert/strict";
import { test } from "node:test";
import { loadNative } from "../../../worker/engine/load_native.js";
import { Arena } from "../../../worker/engine/tensor.js";
import { type SampleRequest, sampleLatents } from "../../../worker/model/sampler.js";
import { WholeWeights } from "../../../worker/model/whole_weights.js";
import { TINY } from "../parallel/fleet.js";

const native = loadNative();
const P = 8;
const GRIDS: [number, number, number][] = [
  [1, 2, 2],
  [2, 1, 3],
];

function wave(count: number, step: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => Math.sin(i * step));
}

function request(overrides: Partial<SampleRequest>): SampleRequest {
  return {
    grids: GRIDS,
    text: { lengths: [1, 2], data: wave(3 * TINY.text_width, 0.7) },
    emptyText: { lengths: [1, 1], data: wave(2 * TINY.text_width, 0.3) },
    steps: 3,
    guidance: 2,
    shift: 1,
    noise: { seed: 9n, places: [4, 2] },
    reference: null,
    ...overrides,
  };
}

async function draw(overrides: Partial<SampleRequest>, steps: number[] = []): Promise<Float32Array> {
  const arena = new Arena(native);
  const weights = new WholeWeights(TINY, ({ name, count }) =>
    arena.from(
      wave(count, 0.1 + name.length / 97).map((x) => x / 4),
      "f32",
      count,
    ),
  );
  const latents = await sampleLatents(arena, TINY, "f32", weights, request(overrides), (done) =>
    steps.push(done),
  );
  weights.close();
  assert.equal(arena.live, 0, "tensors left behind");
  return latents;
}

test("sampleLatents() reports every step and gives finite numbers for every token", async () => {
  const steps: number[] = [];
  const latents = await draw({}, steps);
  assert.deepEqual(steps, [1, 2, 3]);
  assert.equal(latents.length, 10 * P);
  assert.ok(latents.every(Number.isFinite));
  assert.deepEqual(await draw({}), latents);
});

test("a sample does not depend on what is drawn beside it", async () => {
  const together = await draw({});
  const alone = await draw({
    grids: [GRIDS[1]!],
    text: { lengths: [2], data: wave(3 * TINY.text_width, 0.7).subarray(TINY.text_width) },
    emptyText: { lengths: [1], data: wave(2 * TINY.text_width, 0.3).subarray(TINY.text_width) },
    noise: { seed: 9n, places: [2] },
  });
  for (const [i, value] of alone.entries()) {
    // Sums of some 100 f32 terms near 1, in three steps: 1e-5 is far above their rounding and far below a mix-up.
    assert.ok(Math.abs(value - together[4 * P + i]!) < 1e-5);
  }
});

test("guidance 1 ignores the empty text, other guidance does not, and the seed matters", async () => {
  const other = { lengths: [1, 1], data: wave(2 * TINY.text_width, 1.9) };
  assert.deepEqual(await draw({ guidance: 1, emptyText: other }), await draw({ guidance: 1 }));
  assert.notDeepEqual(await draw({ emptyText: other }), await draw({}));
  assert.notDeepEqual(await draw({ noise: { seed: 10n, places: [4, 2] } }), await draw({}));
});
