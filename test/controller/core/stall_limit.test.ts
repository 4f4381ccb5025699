import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  beatLimitMs,
  PAUSES_COUNT_MAX,
  rememberPause,
  rememberStepTime,
  SETTLING_STEPS,
  STEP_TIMES_COUNT_MAX,
  type StallEvidence,
  stallLimits,
} from "../../../controller/core/stall_limit.js";

const FLOOR_MS = 1_500;
const steady = (count: number, ms: number) => new Array<number>(count).fill(ms);

function limits({ stepMs, pauseMs, ...more }: { stepMs: number; pauseMs: number } & Partial<StallEvidence>) {
  return stallLimits({
    stepTimesMs: steady(64, stepMs),
    pausesMs: steady(256, pauseMs),
    floorMs: FLOOR_MS,
    stepsTold: SETTLING_STEPS,
    ...more,
  });
}

describe("stallLimits()", () => {
  const cases: [name: string, given: Parameters<typeof limits>[0], stillMs: number][] = [
    ["never falls below the floor", { stepMs: 100, pauseMs: 20 }, 1_500],
    ["is 4 usual pauses where these are far shorter than a step", { stepMs: 60_000, pauseMs: 1_000 }, 4_000],
    [
      "is 2 steps and the floor where nothing is seen of a step but its end",
      { stepMs: 10_000, pauseMs: 10_000 },
      21_500,
    ],
    [
      "does not follow one long pause",
      { stepMs: 100, pauseMs: 20, pausesMs: [...steady(255, 20), 60_000] },
      1_500,
    ],
    [
      "follows a pause that returns, though it is rare",
      { stepMs: 100, pauseMs: 20, pausesMs: [...steady(120, 20), 4_000, ...steady(100, 20), 3_000] },
      3_750,
    ],
    [
      "is twice what two of the last three steps showed: a machine has become slower",
      { stepMs: 1_000, pauseMs: 1_000, pausesMs: [...steady(60, 1_000), 3_000, 1_000, 2_900] },
      5_800,
    ],
    [
      "does not follow the last step alone",
      { stepMs: 1_000, pauseMs: 1_000, pausesMs: [...steady(60, 1_000), 3_000] },
      3_500,
    ],
    ["is a minute before three pauses are known", { stepMs: 100, pauseMs: 20, pausesMs: [20, 20] }, 60_000],
    [
      "is 12 floors then where these are more",
      { stepMs: 100, pauseMs: 20, pausesMs: [], floorMs: 10_000 },
      120_000,
    ],
    ["is 4 steps then where these are long", { stepMs: 50_000, pauseMs: 1, pausesMs: [] }, 200_000],
    [
      "is at least 20 s before the first step of a generation",
      { stepMs: 100, pauseMs: 20, stepsTold: 0 },
      20_000,
    ],
    ["is 4 limits while a generation settles", { stepMs: 100, pauseMs: 20, stepsTold: 3 }, 6_000],
    [
      "is 4 limits before the first step of a generation",
      { stepMs: 9_000, pauseMs: 3_000, stepsTold: 0 },
      48_000,
    ],
  ];
  for (const [name, given, stillMs] of cases) {
    test(name, () => assert.equal(limits(given).stillMs, stillMs));
  }

  test("with a step's delay and half a second of messages, is within 3 usual steps and 2 s, whatever steps and pauses take", () => {
    for (const stepMs of [1, 10, 100, 400, 1_000, 5_000, 60_000, 600_000]) {
      for (const share of [0.001, 0.05, 0.3, 0.9, 1]) {
        const { stillMs } = limits({ stepMs, pauseMs: share * stepMs });
        assert.ok(
          stepMs + stillMs + 500 <= 3 * stepMs + 2_000,
          `${stepMs} ms, of them ${share} still: ${stillMs}`,
        );
      }
    }
  });

  test("is never shorter than the usual pause of all ranks", () => {
    for (const stepMs of [10, 1_000, 100_000])
      for (const share of [0.01, 0.5, 1])
        assert.ok(limits({ stepMs, pauseMs: share * stepMs }).stillMs > 2 * share * stepMs);
  });

  test("what is mistaken for a hang again and again ends by being known as a pause", () => {
    const pausesMs = steady(256, 20);
    const returning = 4_000;
    let mistaken = 0;
    for (let round = 0; round < 20; round++) {
      for (let step = 0; step < 50; step++) rememberPause(pausesMs, 20);
      const { stillMs } = limits({ stepMs: 100, pauseMs: 20, pausesMs });
      if (returning >= stillMs) mistaken += 1;
      rememberPause(pausesMs, returning < stillMs ? returning : 2 * stillMs);
    }
    assert.ok(mistaken <= 4, `${mistaken} times`);
    assert.ok(limits({ stepMs: 100, pauseMs: 20, pausesMs }).stillMs > returning);
  });

  const parts: [name: string, given: Parameters<typeof limits>[0], partMs: number][] = [
    [
      "2 steps and the floor, though pauses of all together are short",
      { stepMs: 5_000, pauseMs: 250 },
      11_500,
    ],
    ["no less than all together", { stepMs: 100, pauseMs: 20, pausesMs: steady(256, 4_000) }, 8_000],
    ["4 times as long while a generation settles", { stepMs: 5_000, pauseMs: 250, stepsTold: 3 }, 46_000],
    [
      "what is granted to all before three pauses are known",
      { stepMs: 100, pauseMs: 20, pausesMs: [] },
      60_000,
    ],
  ];
  for (const [name, given, partMs] of parts) {
    test(`grants ranks of which only a part is in sight ${name}`, () =>
      assert.equal(limits(given).partMs, partMs));
  }

  const waits: [name: string, given: Parameters<typeof limits>[0], waitingMs: number][] = [
    ["at least 30 s", { stepMs: 100, pauseMs: 20 }, 30_000],
    ["4 usual steps", { stepMs: 10_000, pauseMs: 20 }, 40_000],
    [
      "2 slow steps where every fifth is slow",
      { stepMs: 1, pauseMs: 20, stepTimesMs: [...steady(50, 1_000), ...steady(14, 60_000)] },
      120_000,
    ],
    ["4 times as long before the first step", { stepMs: 100, pauseMs: 20, stepsTold: 0 }, 120_000],
  ];
  for (const [name, given, waitingMs] of waits) {
    test(`grants ranks that wait for data and live ${name}`, () =>
      assert.equal(limits(given).waitingMs, waitingMs));
  }
});

describe("beatLimitMs()", () => {
  const cases: [name: string, stepTimesMs: number[], limitMs: number][] = [
    ["is the floor before three beats are known", [90_000, 90_000], 5_000],
    ["is 4 medians for even beats", steady(64, 2_000), 8_000],
    [
      "follows the 90th percentile when every fifth beat is slow",
      [...steady(50, 1_000), ...steady(14, 6_000)],
      12_000,
    ],
    ["is not blinded by a few very long ones", [...steady(60, 1_000), ...steady(4, 300_000)], 5_000],
  ];
  for (const [name, stepTimesMs, limitMs] of cases) {
    test(name, () => assert.equal(beatLimitMs({ stepTimesMs, floorMs: 5_000 }), limitMs));
  }
});

test("rememberStepTime() and rememberPause() forget the oldest", () => {
  const times: number[] = [];
  const pauses: number[] = [];
  for (let i = 0; i < STEP_TIMES_COUNT_MAX + 3; i++) rememberStepTime(times, i);
  for (let i = 0; i < PAUSES_COUNT_MAX + 3; i++) rememberPause(pauses, i);
  assert.deepEqual([times.length, times[0]], [STEP_TIMES_COUNT_MAX, 3]);
  assert.deepEqual([pauses.length, pauses[0]], [PAUSES_COUNT_MAX, 3]);
});
