import assert from "node:assert/strict";
import { test } from "node:test";
import { jobSchema } from "../../../job/job.js";
import { STREAM } from "../../../job/philox.js";
import { loadNative } from "../../../worker/engine/load_native.js";
import { Arena, readFloats } from "../../../worker/engine/tensor.js";
import { drawDropText, drawNoise, drawTime, shiftTime } from "../../../worker/model/draws.js";
import { packShape } from "../../../worker/model/pack_context.js";

const native = loadNative();
const arena = new Arena(native);

function flow(overrides: object) {
  const job = { name: "f", data: { media: "." }, train: { steps: 1 }, checkpoint: { uri: "file://./f" } };
  return jobSchema.parse({ ...job, flow: overrides }).flow;
}

test("drawNoise() over a sequence group draws what one rank draws, however the tokens are split", () => {
  const grids = [
    [1, 2, 3],
    [3, 1, 1],
    [1, 1, 1],
  ] as const;
  const P = 6;
  const draw = { seed: 2n ** 40n + 5n, stream: STREAM.NOISE, step: 9, places: [4, 0, 2] };
  const whole = readFloats(native, drawNoise(arena, packShape(grids, [1, 1, 1]), P, draw));
  for (const parts of [2, 3, 4, 12]) {
    const split = Array.from({ length: parts }, (_, index) =>
      readFloats(native, drawNoise(arena, packShape(grids, [1, 1, 1], { parts, index }), P, draw)),
    );
    assert.deepEqual(
      split.flatMap((part) => [...part]),
      [...whole],
    );
  }
  arena.freeAll();
});

test("drawNoise() of a sample depends on its place alone, not on its pack", () => {
  const draw = (grids: [number, number, number][], places: number[]) =>
    readFloats(
      native,
      drawNoise(
        arena,
        packShape(
          grids,
          grids.map(() => 1),
        ),
        4,
        { seed: 1n, stream: STREAM.NOISE, step: 3, places },
      ),
    );
  const together = draw(
    [
      [1, 2, 2],
      [1, 1, 3],
    ],
    [5, 8],
  );
  assert.deepEqual(together.subarray(0, 16), draw([[1, 2, 2]], [5]));
  assert.deepEqual(together.subarray(16), draw([[1, 1, 3]], [8]));
  arena.freeAll();
});

test("drawTime() is logit-normal or uniform, inside (0, 1), and shifts towards noise", () => {
  for (const time of ["logit_normal", "uniform"]) {
    const times = Array.from({ length: 400 }, (_, place) =>
      drawTime(arena, flow({ time }), { seed: 3n, step: 1, place }),
    );
    assert.ok(times.every((t) => t > 0 && t < 1));
    const mean = times.reduce((a, b) => a + b) / times.length;
    // Standard deviation of one draw is below 0.3, so of the mean below 0.015; four of them.
    assert.ok(Math.abs(mean - 0.5) < 0.06, `${time}: mean ${mean}`);
    const shifted = drawTime(arena, flow({ time, shift: 3 }), { seed: 3n, step: 1, place: 7 });
    assert.ok(shifted < times[7]!);
    assert.ok(Math.abs(shifted - shiftTime(times[7]!, 3)) < 1e-6);
  }
  assert.equal(arena.live, 0);
});

test("shiftTime() keeps both ends and is the identity at 1", () => {
  for (const shift of [0.5, 1, 3]) {
    assert.equal(shiftTime(0, shift), 0);
    assert.equal(shiftTime(1, shift), 1);
  }
  assert.ok(Math.abs(shiftTime(0.3, 1) - 0.3) < 1e-15);
  assert.ok(Math.abs(shiftTime(0.5, 3) - 0.25) < 1e-15);
});

test("drawDropText() never drops at 0, always at 1, and about as often as told", () => {
  const at = (chance: number) =>
    Array.from({ length: 1000 }, (_, place) =>
      drawDropText(native, chance, { seed: 5n, step: 2, place }),
    ).filter(Boolean);
  assert.equal(at(0).length, 0);
  assert.equal(at(1).length, 1000);
  // Binomial: standard deviation 9.5 of 1000 draws at 0.1; five of them.
  assert.ok(Math.abs(at(0.1).length - 100) < 48);
});
