import assert from "node:assert/strict";
import { test } from "node:test";
import { trainingBetween } from "./page_watch.js";

const samples = [
  { atMs: 100, step: 1 },
  { atMs: 200, step: 2 },
  { atMs: 300, step: 3 },
  { atMs: 900, step: 4 },
];

test("trainingBetween() counts the steps of a time, and finds its longest pause", () => {
  assert.deepEqual(trainingBetween(samples, 150, 1_000), { steps: 3, pauseSeconds: 0.6 });
});

test("trainingBetween() counts the pauses before the first step and after the last", () => {
  assert.deepEqual(trainingBetween(samples, 301, 880), { steps: 0, pauseSeconds: 0.579 });
  assert.deepEqual(trainingBetween([], 0, 5_000), { steps: 0, pauseSeconds: 5 });
});
