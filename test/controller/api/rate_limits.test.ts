import assert from "node:assert/strict";
import { test } from "node:test";
import { RateLimits } from "../../../controller/api/rate_limits.js";

test("RateLimits: a burst, then the pace; refused requests take nothing, and callers do not share", () => {
  const limits = new RateLimits({ perSecond: 10, burst: 3 });
  const take = (nowMs: number, caller = "a") => limits.take(caller, nowMs);
  assert.deepEqual([take(0), take(0), take(0), take(0)], [0, 0, 0, 100]);
  assert.equal(take(0, "b"), 0);
  assert.equal(take(40), 60);
  assert.deepEqual([take(100), take(100)], [0, 100]);
  assert.deepEqual(
    [take(10_000), take(10_000), take(10_000), take(10_000)],
    [0, 0, 0, 100],
    "never more than the burst",
  );
  assert.equal(take(9_000), 100, "a clock that goes back gives nothing");
});

test("RateLimits: over a long time no more than the pace gets through, however the requests fall", () => {
  const limits = new RateLimits({ perSecond: 7, burst: 5 });
  let seed = 11;
  let passed = 0;
  let nowMs = 0;
  while (nowMs < 60_000) {
    seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
    nowMs += seed % 50;
    if (limits.take("a", nowMs) === 0) passed++;
  }
  assert.ok(passed <= 5 + 7 * (nowMs / 1000) && passed >= 0.99 * 7 * 60, String(passed));
});

test("RateLimits: what it remembers is bounded, and those who asked last are not forgotten for strangers", () => {
  const limits = new RateLimits({ perSecond: 1, burst: 2 });
  limits.take("busy", 0);
  for (let i = 0; i < 30_000; i++) {
    limits.take(`stranger ${i}`, 1);
    if (i % 1_000 === 0) limits.take("busy", 1);
  }
  assert.ok(limits.take("busy", 1) > 0);
});
