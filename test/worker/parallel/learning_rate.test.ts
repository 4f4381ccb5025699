import assert from "node:assert/strict";
import { test } from "node:test";
import { jobSchema } from "../../../job/job.js";
import { emaDecay, learningRate } from "../../../worker/parallel/learning_rate.js";

function optimizer(overrides: object) {
  const job = {
    name: "lr",
    data: { media: "." },
    train: { steps: 10 },
    checkpoint: { uri: "file://./lr" },
    optimizer: { lr: 0.5, ...overrides },
  };
  return jobSchema.parse(job).optimizer;
}

test("learningRate() without warm-up and constant is the full rate at every step", () => {
  for (const step of [1, 2, 10, 11]) assert.equal(learningRate(step, optimizer({}), 10), 0.5);
});

test("learningRate() grows linearly and reaches the full rate at the last warm-up step", () => {
  const warm = optimizer({ warmup_steps: 4 });
  assert.deepEqual(
    [1, 2, 3, 4, 5, 9].map((step) => learningRate(step, warm, 10)),
    [0.125, 0.25, 0.375, 0.5, 0.5, 0.5],
  );
});

test("learningRate() on a cosine starts full after warm-up, halves in the middle, stays above zero at the last step", () => {
  const cosine = optimizer({ warmup_steps: 2, schedule: "cosine" });
  assert.equal(learningRate(2, cosine, 10), 0.5);
  assert.equal(learningRate(3, cosine, 10), 0.5);
  assert.ok(Math.abs(learningRate(7, cosine, 10) - 0.25) < 1e-15);
  const rates = [3, 4, 5, 6, 7, 8, 9, 10].map((step) => learningRate(step, cosine, 10));
  for (let i = 1; i < rates.length; i++) assert.ok(rates[i]! < rates[i - 1]!);
  assert.ok(rates.at(-1)! > 0);
  assert.ok(Math.abs(learningRate(11, cosine, 10)) < 1e-15);
});

test("emaDecay() warms up as (1 + step) / (10 + step) and ends at the job's decay", () => {
  assert.equal(emaDecay(1, 0.999), 2 / 11);
  assert.equal(emaDecay(10, 0.999), 11 / 20);
  assert.equal(emaDecay(1_000_000, 0.999), 0.999);
});
