import assert from "node:assert/strict";
import { test } from "node:test";
import { backoffMs } from "../../../worker/agent/backoff.js";

test("backoffMs() doubles from 100 ms to 5 s and spreads agents by half either way", () => {
  assert.deepEqual(
    [0, 1, 2, 5, 6, 60].map((attempt) => backoffMs(attempt, 0.5)),
    [100, 200, 400, 3_200, 5_000, 5_000],
  );
  assert.equal(backoffMs(1, 0), 100);
  assert.ok(backoffMs(1, 0.999) < 300);
});
