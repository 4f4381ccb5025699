import assert from "node:assert/strict";
import { test } from "node:test";
import { jobDetail } from "../../cli/format_job.js";
import { jobJson } from "../../controller/api/json.js";
import { JobPhase, JobStatus } from "../../gen/goku/v1/controller.pb.js";

const status = JobStatus.fromPartial({ name: "shapes", phase: JobPhase.RUNNING, step: 7n, stepsTotal: 10n });

test("jobDetail() says how the state in memory is protected, and up to which step", () => {
  const protection = "replicas: 4 ranks keep a copy on another node";
  const detail = jobDetail({ ...status, protection, replicatedStep: 5n });
  assert.match(detail, /^replicated +step 5$/m);
  assert.match(detail, /^protection +replicas: 4 ranks keep a copy on another node$/m);
});

test("jobDetail() of a job of which nothing is replicated yet names no step", () => {
  const detail = jobDetail(status);
  assert.match(detail, /^replicated +-$/m);
  assert.doesNotMatch(detail, /protection/);
  const { protection, replicated_step } = jobJson(status);
  assert.deepEqual({ protection, replicated_step }, { protection: null, replicated_step: null });
});
