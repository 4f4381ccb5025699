import assert from "node:assert/strict";
import { test } from "node:test";
import {
  beginEffective,
  countStep,
  createEffectiveTime,
  effectiveRecord,
  ettrOf,
  restoredAt,
} from "../../../controller/core/effective_time.js";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const START = 1_000_000;

/** Formed at START, and training from its first step on. */
function begun(step = 0) {
  const time = createEffectiveTime();
  beginEffective(time, START);
  restoredAt(time, step, START);
  return time;
}

test("ettrOf() is null before the first generation, and 0 before the first step", () => {
  assert.equal(ettrOf(createEffectiveTime(), START), null);
  assert.deepEqual(ettrOf(begun(), START + 1), { total: 0, hour: 0 });
});

test("a step counts once, whatever is computed again; steps before a resume are another job's", () => {
  const time = begun(100);
  for (const step of [101, 102, 103])
    countStep(time, { step, ms: 1_000, atMs: START + 2_000 }, START + 2_000);
  restoredAt(time, 101, START + 5_000);
  for (const step of [102, 103, 104])
    countStep(time, { step, ms: 1_000, atMs: START + 8_000 }, START + 8_000);
  assert.deepEqual([time.step, time.effectiveMs], [104, 4_000]);
  assert.deepEqual(ettrOf(time, START + 8_000), { total: 0.5, hour: 0.5 });
});

test("steps that nobody told took as long as the one that was", () => {
  const time = begun();
  countStep(time, { step: 1, ms: 500, atMs: START + 1_000 }, START + 1_000);
  countStep(time, { step: 4, ms: 1_000, atMs: START + 4_000 }, START + 4_000);
  assert.equal(time.effectiveMs, 3_500);
});

test("the hour forgets what was before it, and counts an hour in which nothing happened", () => {
  const time = begun();
  // Two hours of steps of a minute, half of it lost.
  let at = START;
  let step = 0;
  for (; at < START + 2 * HOUR; at += 2 * MINUTE)
    countStep(time, { step: ++step, ms: MINUTE, atMs: at + 2 * MINUTE }, at + 2 * MINUTE);
  const half = ettrOf(time, at)!;
  assert.equal(half.total, 0.5);
  assert.ok(Math.abs(half.hour - 0.5) <= 1 / 60, `${half.hour}`);
  // Then an hour without loss.
  for (; at < START + 3 * HOUR; at += MINUTE)
    countStep(time, { step: ++step, ms: MINUTE, atMs: at + MINUTE }, at + MINUTE);
  assert.ok(ettrOf(time, at)!.hour > 0.98);
  assert.ok(Math.abs(ettrOf(time, at)!.total - 2 / 3) < 0.01);
  // A stall of 50 minutes, then steps again: the stall is in the hour.
  at += 50 * MINUTE;
  for (let i = 0; i < 10; i++, at += MINUTE)
    countStep(time, { step: ++step, ms: MINUTE, atMs: at + MINUTE }, at + MINUTE);
  assert.ok(Math.abs(ettrOf(time, at)!.hour - 10 / 60) <= 1 / 60, `${ettrOf(time, at)!.hour}`);
  assert.equal(ettrOf(time, at + 2 * HOUR)!.hour, 0);
  assert.ok(time.minutes.length <= 62, `${time.minutes.length} samples`);
});

test("a new leader goes on from the record, and its hour begins with it", () => {
  const time = begun();
  for (let step = 1; step <= 90; step++)
    countStep(time, { step, ms: MINUTE, atMs: START + step * MINUTE }, START + step * MINUTE);
  const record = JSON.parse(JSON.stringify(effectiveRecord(time)));
  assert.deepEqual(record, { startedMs: START, effectiveMs: 90 * MINUTE, step: 90 });
  const next = createEffectiveTime(record);
  const now = START + 100 * MINUTE;
  restoredAt(next, 40, now);
  countStep(next, { step: 91, ms: 30_000, atMs: now + MINUTE }, now + MINUTE);
  assert.deepEqual(ettrOf(next, now + MINUTE), { total: 90.5 / 101, hour: 0.5 });
});

test("steps done before this controller led, and told afterwards, are not of the hour that it has seen", () => {
  const now = START + 5 * HOUR;
  const time = createEffectiveTime({ startedMs: START, effectiveMs: 0, step: 0 });
  restoredAt(time, 0, now);
  for (let step = 1; step <= 240; step++)
    countStep(time, { step, ms: MINUTE, atMs: START + step * MINUTE }, now + 10);
  countStep(time, { step: 241, ms: MINUTE, atMs: now + 2 * MINUTE }, now + 2 * MINUTE);
  assert.deepEqual(ettrOf(time, now + 2 * MINUTE), { total: 241 / 302, hour: 0.5 });
});
