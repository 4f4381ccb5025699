import assert from "node:assert/strict";
import { test } from "node:test";
import {
  rememberStepTime,
  STEP_TIMES_COUNT_MAX,
  stallLimitMs,
} from "../../../controller/core/stall_limit.js";

const steady = (count: number, ms: number) => new Array<number>(count).fill(ms);
const cases: [name: string, stepTimesMs: number[], generationHasStepped: boolean, limitMs: number][] = [
  ["is 12 floors before three steps are known", [100, 100], true, 60_000],
  ["never falls below the floor", steady(64, 300), true, 5_000],
  ["is 4 medians for even steps", steady(64, 2_000), true, 8_000],
  ["is 4 limits before the first step of a generation", steady(64, 2_000), false, 32_000],
  [
    "follows the 90th percentile when every fifth step is slow",
    [...steady(50, 1_000), ...steady(14, 6_000)],
    true,
    12_000,
  ],
  ["is not blinded by a few very long steps", [...steady(60, 1_000), ...steady(4, 300_000)], true, 5_000],
];
for (const [name, stepTimesMs, generationHasStepped, limitMs] of cases) {
  test(`stallLimitMs() ${name}`, () => {
    assert.equal(stallLimitMs({ stepTimesMs, floorMs: 5_000, generationHasStepped }), limitMs);
  });
}

test("rememberStepTime() forgets the oldest", () => {
  const times: number[] = [];
  for (let i = 0; i < STEP_TIMES_COUNT_MAX + 3; i++) rememberStepTime(times, i);
  assert.equal(times.length, STEP_TIMES_COUNT_MAX);
  assert.equal(times[0], 3);
});
