import assert from "node:assert/strict";
import { test } from "node:test";
import { retentionEnded, saveFailed } from "../../support/agent_messages.js";
import { CoreHarness, jobOf } from "./harness.js";

function trained(checkpoint: object = {}): CoreHarness {
  const core = new CoreHarness();
  core.lead();
  core.hello("n0", { slots: 1 });
  const job = jobOf({ layout: { dp_replicate: 1, dp_shard: 1, sp: 1 } });
  core.submit({ ...job, checkpoint: { ...job.checkpoint, ...checkpoint } });
  core.form();
  return core;
}

function stepsAfterSaves(checkpoint: object, steps: readonly number[]): number[] {
  const core = trained(checkpoint);
  for (const step of steps) core.saved("n0", { generation: 1, step });
  return core.job.checkpoints.map(({ state }) => state.step);
}

test("a job falls back on the checkpoints that retention keeps: the newest few, and those of round steps", () => {
  const steps = [10, 20, 30, 40, 50, 60, 70];
  assert.deepEqual(stepsAfterSaves({ keep_last: 2 }, steps), [60, 70]);
  assert.deepEqual(stepsAfterSaves({ keep_last: 2, keep_every: 30 }, steps), [30, 60, 70]);
  assert.deepEqual(stepsAfterSaves({ keep_last: 1, keep_every: 20 }, steps), [20, 40, 60, 70]);
});

test("a job remembers a hundred checkpoints of round steps, the newest", () => {
  const steps = Array.from({ length: 250 }, (_, i) => 10 * (i + 1));
  const found = stepsAfterSaves({ keep_last: 1, keep_every: 10 }, steps);
  assert.deepEqual(found, steps.slice(-101));
});

test("a commit that is told again after retention has dropped it counts once and is not written down", () => {
  const core = trained({ keep_last: 2 });
  for (const step of [10, 20, 30]) core.saved("n0", { generation: 1, step });
  core.effects = [];
  core.saved("n0", { generation: 1, step: 10 });
  assert.deepEqual(core.effects, []);
});

test("a commit that is told late does not take the place of the one that its run, gone back, made at the same step", () => {
  const core = trained();
  core.saved("n0", { generation: 3, step: 30 });
  core.saved("n0", { generation: 1, step: 30 });
  assert.deepEqual(
    core.job.checkpoints.map(({ state }) => state),
    [{ generation: 3, step: 30 }],
  );
  core.saved("n0", { generation: 4, step: 30 });
  assert.deepEqual(
    core.job.checkpoints.map(({ state }) => state),
    [{ generation: 4, step: 30 }],
  );
});

test("an alarm about a save that is durable ends when that is told once more", () => {
  const core = trained();
  const state = { generation: 1, step: 10 };
  core.saved("n0", state);
  core.say("n0", saveFailed(1, state));
  assert.deepEqual(core.job.saveAlarm, state);
  core.saved("n0", state);
  assert.equal(core.job.saveAlarm, null);
});

test("old checkpoints that cannot be removed are a warning, once, until they can: no save has failed", () => {
  const core = trained();
  const texts = () =>
    core.effects.flatMap((effect) =>
      effect.kind === "log" && effect.entry.type !== "phase"
        ? [`${effect.entry.level}: ${effect.entry.text}`]
        : [],
    );
  core.saved("n0", { generation: 1, step: 10 });
  core.effects = [];
  for (const step of [10, 20]) core.say("n0", retentionEnded(1, { generation: 1, step }, "not permitted"));
  assert.equal(core.job.retentionFailing, true);
  assert.equal(core.job.saveAlarm, null);
  core.say("n0", retentionEnded(1, { generation: 1, step: 30 }, null));
  assert.equal(core.job.retentionFailing, false);
  assert.deepEqual(texts(), [
    "warning: step 10 of generation 1 is durable, but older checkpoints cannot be removed and fill the storage (STORAGE_FAILED: not permitted); tried again after each save, gokuctl ckpt prune removes them",
    "info: old checkpoints are removed again, after step 30 of generation 1",
  ]);
  assert.deepEqual(
    core.effects.filter((effect) => effect.kind === "observe" && effect.metric.startsWith("goku_checkpoint")),
    [],
  );
});
