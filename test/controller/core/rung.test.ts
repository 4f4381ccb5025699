import assert from "node:assert/strict";
import { test } from "node:test";
import { placesOf, rungOf } from "../../../controller/core/rung.js";
import { createGeneration } from "../../../controller/core/state.js";
import { Layout } from "../../../job/layout.js";
import { CONTROLLER_METRICS } from "../../../job/metrics.js";
import { CoreHarness } from "./harness.js";

const known = [{ generation: 1, step: 4 }];

/** Four ranks on n0 and n1, n2 free; five steps done. */
function running(): CoreHarness {
  const core = CoreHarness.running();
  for (let step = 1; step <= 5; step++) core.stepDone("n0", step);
  core.take();
  return core;
}

/** What the metrics were told of recoveries: rung and seconds. */
function told(core: CoreHarness): [string, number][] {
  return core
    .take()
    .flatMap((e) =>
      e.kind === "observe" && e.metric === "goku_recovery_seconds"
        ? [[e.labels.rung!, e.value] as [string, number]]
        : [],
    );
}

test("rung communicator: a rank left its collectives, all processes live", () => {
  const core = running();
  core.failed("n0", 0, "COMM_TIMEOUT");
  core.pass(5_000);
  core.form(known);
  core.nowMs += 500;
  core.stepDone("n0", 5);
  const [[rung, seconds]] = told(core) as [[string, number]];
  assert.equal(rung, "communicator");
  assert.equal(seconds, 5.5);
});

test("rung process: a rank's process was started again on its node", () => {
  const core = running();
  core.exited("n1", 2);
  core.pass(60);
  core.form(known, (rank) => (rank === 2 ? 99 : 10 + rank));
  core.stepDone("n0", 5);
  assert.deepEqual(
    told(core).map(([rung]) => rung),
    ["process"],
  );
});

test("rung node: a spare took the place of a lost node", () => {
  const core = running();
  core.disconnect("n1");
  core.failed("n0", 0, "COMM_PEER_DIED", 2);
  core.beat(120_000);
  core.form(known, (rank) => 50 + rank);
  core.stepDone("n0", 5);
  assert.deepEqual(
    told(core).map(([rung]) => rung),
    ["node"],
  );
});

test("rung layout: another layout goes on from memory, whoever else changed", () => {
  const core = running();
  const { job } = core;
  const whole = job.generation!;
  const half = new Layout({ dp_replicate: 1, dp_shard: 2, sp: 1 });
  job.before = placesOf(whole);
  job.generation = createGeneration({
    number: 2,
    layout: half,
    rankNodes: ["n0", "n2"],
    device: "cpu",
    stage: "run",
    nowMs: 0,
  });
  job.generation.restore = { kind: "snapshot", state: { generation: 1, step: 4 } } as never;
  assert.equal(rungOf(job), "layout");
  job.before = placesOf(job.generation);
  assert.equal(rungOf(job), "communicator");
});

test("rung checkpoint: nothing was left in memory; rung initial: nor in storage", () => {
  for (const rung of ["checkpoint", "initial"]) {
    const core = running();
    if (rung === "checkpoint") core.saved("n0", { generation: 1, step: 3 });
    core.exited("n1", 2);
    core.pass(60);
    core.form();
    core.stepDone("n0", 4);
    assert.deepEqual(
      told(core).map(([each]) => each),
      [rung],
    );
  }
});

test("rung unknown: another controller led when the fault was detected", () => {
  const core = running();
  core.exited("n1", 2);
  core.pass(60);
  const [n0, n1] = ["n0", "n1"].map((nodeId) => core.sessions.get(nodeId)!);
  core.feed({ kind: "leadershipLost", reason: "test" });
  core.lead("c1");
  const generation = BigInt(core.job.generation!.number);
  for (const { nodeId } of [n0!, n1!]) core.hello(nodeId, { jobId: "job-1", generation });
  core.beat(40_000);
  core.form(known);
  core.stepDone("n0", 5);
  assert.deepEqual(
    told(core).map(([rung]) => rung),
    ["unknown"],
  );
});

test("who saw a fault first is a value that the catalogue names, also where the platform did", () => {
  const core = running();
  core.disconnect("n1");
  const fate = {
    code: "NODE_OUT_OF_MEMORY",
    text: "its pod was killed",
    endsAtMs: null,
    down: true,
  } as const;
  core.feed({ kind: "nodeFate", nodeId: "n1", fate });
  const [source] = core
    .take()
    .flatMap((e) => (e.kind === "observe" && e.metric === "goku_detections_total" ? [e.labels.source] : []));
  assert.equal(source, "fate");
  assert.ok(CONTROLLER_METRICS.goku_detections_total.labels.source.split(", ").includes(source));
});

test("what first told of a fault is counted by who saw it", () => {
  const core = running();
  core.exited("n1", 2);
  core.failed("n0", 0, "COMM_PEER_DIED", 2);
  const sources = core
    .take()
    .flatMap((e) => (e.kind === "observe" && e.metric === "goku_detections_total" ? [e.labels] : []));
  assert.deepEqual(sources, [{ job: "shapes", source: "exit" }]);
});
