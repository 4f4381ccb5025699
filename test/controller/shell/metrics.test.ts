import assert from "node:assert/strict";
import { test } from "node:test";
import { Metrics } from "../../../controller/shell/metrics.js";
import { StepCompleted } from "../../../gen/goku/v1/agent.pb.js";

test("a completed step sets the gauges of its job, the newest replicated step among them", async () => {
  const metrics = new Metrics();
  metrics.step("shapes", StepCompleted.fromPartial({ step: 7n, loss: 0.5, replicatedStep: 5n }));
  const text = await metrics.render();
  assert.match(text, /^goku_train_step{job="shapes"} 7$/m);
  assert.match(text, /^goku_train_replicated_step{job="shapes"} 5$/m);
});
