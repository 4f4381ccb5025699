import assert from "node:assert/strict";
import { test } from "node:test";
import { jobSchema } from "../../../job/job.js";
import { RateLimiter, replicaBytesPerSecond } from "../../../worker/agent/rate_limiter.js";

const checkpoint = (rate: number | null) =>
  jobSchema.parse({
    name: "rates",
    data: { media: "." },
    train: { steps: 1 },
    checkpoint: { uri: "file:///unused", replica_mib_per_second: rate },
  }).checkpoint;

test("replicaBytesPerSecond() is 2 MiB for each core unless the job says more or less", () => {
  assert.equal(replicaBytesPerSecond(checkpoint(null), 96), 192 * 2 ** 20);
  assert.equal(replicaBytesPerSecond(checkpoint(0.5), 96), 2 ** 19);
});

test("RateLimiter lets bytes go when those before are paid for", () => {
  const limiter = new RateLimiter();
  assert.equal(limiter.delayMs(100, 1000, 0), 0);
  assert.equal(limiter.delayMs(100, 1000, 0), 100);
  assert.equal(limiter.delayMs(100, 1000, 150), 50);
  assert.equal(limiter.delayMs(100, 1000, 5000), 0, "what was not sent is not saved up");
});
