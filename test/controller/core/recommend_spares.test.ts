import assert from "node:assert/strict";
import { test } from "node:test";
import { recommendSpares } from "../../../controller/core/recommend_spares.js";
import { jobView } from "../../../controller/core/views.js";
import { CoreHarness, jobOf } from "./harness.js";

test("recommendSpares() gives the 99th percentile of a Poisson number of losses within an hour", () => {
  const of = (losses: number, nodeHours: number, nodes: number) =>
    recommendSpares({ losses, nodeHours, nodes });
  assert.equal(of(0, 1_000, 100), null, "no rate to go by");
  assert.equal(of(1, 0, 4), null);
  // mean 0.01: P(0) = 0.990; 0.0101: just below
  assert.equal(of(1, 100, 1), 0);
  assert.equal(of(1, 99, 1), 1);
  // mean 1: P(<= 3) = 0.981, P(<= 4) = 0.996
  assert.equal(of(10, 1_000, 100), 4);
  // mean 2.5: P(<= 6) = 0.986, P(<= 7) = 0.996
  assert.equal(of(25, 1_000, 100), 7);
  assert.equal(of(1_000_000, 1, 8), 8, "never more than there are nodes");
});

test("the view of a job says how many nodes are ready, and what the losses of this run call for", () => {
  const core = new CoreHarness();
  core.lead();
  for (const nodeId of ["n0", "n1", "n2"]) core.hello(nodeId);
  core.submit(jobOf({ layout: { dp_replicate: 1, dp_shard: 2, sp: 2 } }));
  core.form();
  core.stepDone("n0", 1);
  core.nowMs += 3_600_000;
  const spares = () => jobView(core.state, "job-1", core.nowMs)!.spares;
  for (const nodeId of ["n0", "n1", "n2"]) core.heartbeat(nodeId, 1, []);
  assert.equal(spares(), "0 wanted, 1 node free; no node was lost in 2.0 node-hours");
  core.disconnect("n1");
  core.hello("n1", { incarnation: "n1#2", jobId: "job-1" });
  core.pass(100);
  core.form([{ generation: 1, step: 1 }]);
  core.stepDone("n0", 2);
  assert.equal(spares(), "0 wanted, 1 node free; 1 node lost in 2.0 node-hours call for 2");
});
