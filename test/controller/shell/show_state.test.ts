import assert from "node:assert/strict";
import { test } from "node:test";
import { showState } from "../../../controller/shell/show_state.js";
import { MetricSet } from "../../../job/metric_set.js";
import { CONTROLLER_METRICS, type ControllerMetric } from "../../../job/metrics.js";
import { readExposition } from "../../support/exposition.js";
import { CoreHarness, jobOf, page, programJobOf } from "../core/harness.js";

async function shown(core: CoreHarness): Promise<Map<string, number>> {
  const metrics = new MetricSet<ControllerMetric>(CONTROLLER_METRICS);
  showState(metrics, core.state, core.nowMs);
  const series = [...readExposition(await metrics.render()).values()].flatMap((metric) => metric.series);
  return new Map(
    series
      .filter(({ name }) => name.startsWith("goku_"))
      .map(({ name, labels, value }) => [`${name} ${Object.values(labels).join(" ")}`.trim(), value]),
  );
}

/** A job on `nodes` nodes of two ranks that has done a step. */
function running(nodes: number): CoreHarness {
  const core = new CoreHarness();
  core.lead();
  for (let i = 0; i < nodes; i++) core.hello(`n${i}`);
  core.submit(jobOf({ layout: { dp_replicate: 1, dp_shard: 2 * nodes, sp: 1 } }));
  core.pass(2_000);
  core.form();
  core.pass(4_000);
  core.stepDone(core.job.generation!.rankNodes[0]!, 1, 2);
  return core;
}

test("a controller shows as many series for 12,288 ranks as for 4", async () => {
  const [few, many] = [await shown(running(2)), await shown(running(6_144))];
  assert.equal(many.get("goku_job_ranks shapes"), 12_288);
  assert.equal(many.get("goku_nodes connected"), 6_144);
  assert.deepEqual([...many.keys()], [...few.keys()]);
});

test("a running job: phase, ranks, effective time, the beginning of its last checkpoint's age", async () => {
  const core = running(2);
  const all = await shown(core);
  const expected: [string, number][] = [
    ["goku_leader_ready", 1],
    ["goku_leader_term", 1],
    ["goku_jobs RUNNING", 1],
    ["goku_job_phase shapes RUNNING", 1],
    ["goku_job_phase shapes RECOVERING", 0],
    ["goku_job_generation shapes", 1],
    ["goku_job_effective_seconds_total shapes", 2],
    ["goku_incidents_open shapes", 0],
    ["goku_train_steps_planned shapes", 100],
    ["goku_checkpoint_last_step shapes", 0],
    ["goku_checkpoint_failing shapes", 0],
    ["goku_checkpoint_retention_failing shapes", 0],
    ["goku_job_stuck_seconds shapes", 0],
  ];
  for (const [name, value] of expected) assert.equal(all.get(name), value, name);
  const ratio = 2_000 / (core.nowMs - core.job.effective.startedMs);
  assert.equal(all.get("goku_job_ettr_ratio shapes total"), ratio);
  assert.equal(all.get("goku_checkpoint_last_timestamp_seconds shapes"), core.job.effective.startedMs / 1000);
  core.saved("n0", { generation: 1, step: 1 });
  const later = await shown(core);
  assert.equal(later.get("goku_checkpoint_last_step shapes"), 1);
  assert.equal(later.get("goku_checkpoint_last_timestamp_seconds shapes"), core.nowMs / 1000);
  core.pass(1_500);
  assert.equal((await shown(core)).get("goku_job_stuck_seconds shapes"), 1.5);
});

test("a fault is open until a step is completed; a job that is over has no series of its own", async () => {
  const core = running(2);
  core.exited("n1", 2);
  const fault = await shown(core);
  assert.equal(fault.get("goku_incidents_open shapes"), 1);
  assert.equal(fault.get("goku_job_phase shapes RECOVERING"), 1);
  assert.ok(!fault.has("goku_job_stuck_seconds shapes"), "only while it runs");
  core.pass(60);
  core.form([{ generation: 1, step: 1 }]);
  core.stepDone("n0", 2);
  assert.equal((await shown(core)).get("goku_incidents_open shapes"), 0);
  core.take();
  core.ended(100, "steps");
  const counted = core.take().filter((e) => e.kind === "observe" && e.metric === "goku_jobs_ended_total");
  assert.deepEqual(
    counted.map((e) => e.kind === "observe" && [e.value, e.labels]),
    [[1, { phase: "COMPLETED" }]],
  );
  const over = await shown(core);
  assert.equal(over.get("goku_jobs COMPLETED"), 1);
  assert.deepEqual(
    [...over.keys()].filter((name) => name.includes("shapes")),
    [],
  );
});

test("nodes are counted once each: connected, absent, leaving, quarantined, drained", async () => {
  const core = new CoreHarness();
  core.lead();
  for (const nodeId of ["a", "b", "c", "d", "e"]) core.hello(nodeId);
  core.disconnect("b");
  core.leaves("c");
  const record = { kind: "quarantine", reason: "test", atMs: 0, untilMs: null, drained: false } as const;
  core.state.quarantine.set("d", { ...record, nodeId: "d" });
  core.feed({ kind: "drainRequested", requestId: "drain", nodeId: "e" });
  const all = await shown(core);
  for (const state of ["connected", "absent", "leaving", "quarantined", "drained"])
    assert.equal(all.get(`goku_nodes ${state}`), 1, state);
});

test("a program of its own has no checkpoints of ours, and no steps that we plan", async () => {
  const core = new CoreHarness();
  core.lead();
  core.hello("n0");
  core.submit(programJobOf());
  core.pass(2_000);
  const all = await shown(core);
  assert.equal(all.get("goku_train_steps_planned ddp"), 0);
  assert.ok(![...all.keys()].some((name) => name.startsWith("goku_checkpoint_last")));
});

/** A program of its own that runs as two ranks on one node. */
function runningProgram(): CoreHarness {
  const core = new CoreHarness();
  core.lead();
  core.hello("n0");
  core.submit(programJobOf());
  core.pass(2_000);
  core.form();
  return core;
}
const WATCHED = ["goku_job_stuck_seconds ddp"];
const MEASURED = [
  "goku_job_ettr_ratio ddp total",
  "goku_job_ettr_ratio ddp hour",
  "goku_train_last_step_timestamp_seconds ddp",
];
const has = (all: Map<string, number>, names: string[]) => names.map((name) => all.has(name));

test("a program that never beats has no time without progress and no share of time that counts: nobody knows them", async () => {
  const core = runningProgram();
  const quiet = [0, 1].map((rank) => page(rank, { step: 0n, phase: "program" }));
  core.beat(600_000, () => quiet);
  const all = await shown(core);
  assert.equal(all.get("goku_job_phase ddp RUNNING"), 1);
  assert.deepEqual(has(all, [...WATCHED, ...MEASURED]), [false, false, false, false]);
});

test("a program's first heartbeat shows how long it has not moved, its second step how much of its time counts", async () => {
  const core = runningProgram();
  core.heartbeat("n0", 1, [page(0, { step: 0n, phase: "program", microStep: 1 })]);
  core.pass(3_000);
  const beaten = await shown(core);
  assert.equal(beaten.get("goku_job_stuck_seconds ddp"), 3);
  assert.deepEqual(has(beaten, MEASURED), [false, false, false]);
  core.stepDone("n0", 1, 0);
  assert.deepEqual(has(await shown(core), MEASURED), [false, false, false], "since when is not known");
  core.stepDone("n0", 2, 2);
  assert.deepEqual(has(await shown(core), [...WATCHED, ...MEASURED]), [true, true, true, true]);
});

test("the last step of a job that has done none is when it began to run: an alert sees one that never does", async () => {
  const name = "goku_train_last_step_timestamp_seconds shapes";
  const core = new CoreHarness();
  core.lead();
  core.hello("n0");
  core.submit(jobOf());
  core.pass(2_000);
  assert.ok(!(await shown(core)).has(name), "it does not run yet");
  core.form();
  const runMs = core.nowMs;
  core.pass(5_000);
  assert.equal((await shown(core)).get(name), runMs / 1000);
  core.stepDone("n0", 1);
  const stepMs = core.nowMs;
  core.pass(5_000);
  assert.equal((await shown(core)).get(name), stepMs / 1000);
  core.exited("n0", 1);
  core.pass(60);
  assert.equal((await shown(core)).get(name), stepMs / 1000, "a fault is no step");
  core.form([{ generation: 1, step: 1 }]);
  assert.equal((await shown(core)).get(name), core.job.generation!.runMs / 1000, "it runs anew");
});

test("a controller that does not lead shows no job", async () => {
  const core = running(2);
  core.feed({ kind: "leadershipLost", reason: "test" });
  const all = await shown(core);
  assert.equal(all.get("goku_leader_ready"), 0);
  assert.deepEqual(
    [...all.keys()].filter((name) => name.includes("shapes")),
    [],
  );
});
