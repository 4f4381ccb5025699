import assert from "node:assert/strict";
import { test } from "node:test";
import { backoffMs, nextTryMs } from "../../../worker/agent/backoff.js";

test("backoffMs() doubles from 100 ms to 5 s and spreads agents by half either way", () => {
  assert.deepEqual(
    [0, 1, 2, 5, 6, 60].map((attempt) => backoffMs(attempt, 0.5)),
    [100, 200, 400, 3_200, 5_000, 5_000],
  );
  assert.equal(backoffMs(1, 0), 100);
  assert.ok(backoffMs(1, 0.999) < 300);
});

test("nextTryMs() tries a whole round of controllers at once, and every second while another one takes over", () => {
  const waits = (lostMs: number) =>
    [1, 2, 3, 4, 8, 12, 16, 40].map((tries) => nextTryMs({ tries, controllers: 2, lostMs, chance: 0.5 }));
  assert.deepEqual(waits(2_000), [100, 100, 100, 200, 800, 1_000, 1_000, 1_000]);
  assert.deepEqual(waits(60_000), [100, 100, 100, 200, 800, 3_200, 5_000, 5_000]);
  assert.equal(nextTryMs({ tries: 5, controllers: 1, lostMs: 60_000, chance: 0.5 }), 1_600);
});
