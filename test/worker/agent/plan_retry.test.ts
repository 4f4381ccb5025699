import assert from "node:assert/strict";
import { test } from "node:test";
import { planRetry } from "../../../worker/agent/plan_retry.js";

const FAILED = { code: "STORAGE_FULL", tries: 1, final: false, superseded: false, chance: 0.5 } as const;

test("planRetry() waits twice as long after each try, spread by half either way, and gives up after five", () => {
  const plans = [1, 2, 3, 4, 5].map((tries) => planRetry({ ...FAILED, tries }));
  assert.deepEqual(
    plans.map((plan) => (plan.kind === "again" ? plan.waitMs : plan.reason)),
    [1_000, 2_000, 4_000, 8_000, "5 tries failed"],
  );
  assert.deepEqual(planRetry({ ...FAILED, chance: 0 }), { kind: "again", waitMs: 500 });
});

test("planRetry() tries the last save of a run for ever, at most every 45 s", () => {
  for (const tries of [5, 50, 5_000]) {
    const plan = planRetry({ ...FAILED, final: true, tries, chance: 0.999 });
    assert.ok(plan.kind === "again" && plan.waitMs < 45_000, JSON.stringify(plan));
  }
});

test("planRetry() gives way to a newer save, and does not repeat what cannot succeed", () => {
  assert.equal(planRetry({ ...FAILED, superseded: true }).kind, "giveUp");
  assert.equal(planRetry({ ...FAILED, final: true, superseded: true }).kind, "giveUp");
  for (const code of ["SNAPSHOT_MISSING", "CONFLICT", "GENERATION_STALE", "CHECKPOINT_CORRUPT"] as const)
    assert.equal(planRetry({ ...FAILED, code, final: true }).kind, "giveUp", code);
  assert.equal(planRetry({ ...FAILED, code: "STORAGE_FAILED" }).kind, "again");
});
