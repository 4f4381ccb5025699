import assert from "node:assert/strict";
import { test } from "node:test";
import { Metrics } from "../../../controller/shell/metrics.js";
import { StepCompleted } from "../../../gen/goku/v1/agent.pb.js";

test("a completed step sets the gauges of its job and adds its parts to the sums", async () => {
  const metrics = new Metrics();
  const step = StepCompleted.fromPartial({
    step: 7n,
    loss: 0.5,
    replicatedStep: 5n,
    images: 3,
    videos: 1,
    stepSeconds: 2,
    commWaitSeconds: 0.75,
    waits: { allGather: 0.5, vote: 0.25 },
    modelFlops: 6e9,
  });
  metrics.step("shapes", step);
  metrics.step("shapes", { ...step, step: 8n });
  const text = await metrics.render();
  for (const line of [
    'goku_train_step{job="shapes"} 8',
    'goku_train_replicated_step{job="shapes"} 5',
    'goku_train_samples_total{job="shapes",kind="image"} 6',
    'goku_train_step_seconds_sum{job="shapes"} 4',
    'goku_train_section_seconds_total{job="shapes",section="communication"} 1.5',
    'goku_train_wait_seconds_total{job="shapes",collective="all_gather"} 1',
    'goku_train_wait_seconds_total{job="shapes",collective="vote"} 0.5',
    'goku_train_model_flops_total{job="shapes"} 12000000000',
    'goku_bad_steps_total{job="shapes",kind="hardware"} 0',
    'goku_checkpoints_failed_total{job="shapes"} 0',
    'goku_steps_lost_total{job="shapes"} 0',
    'goku_stragglers_total{job="shapes",kind="node"} 0',
    'goku_agent_messages_refused_total{reason="malformed"} 0',
    'goku_checkpoint_seconds_count{job="shapes"} 0',
  ])
    assert.ok(text.includes(`\n${line}\n`), line);
});

test("a step of a program of its own that tells no loss sets none, and the step all the same", async () => {
  const metrics = new Metrics();
  metrics.step("ddp", StepCompleted.fromPartial({ step: 7n }));
  const text = await metrics.render();
  assert.match(text, /^goku_train_step{job="ddp"} 7$/m);
  assert.doesNotMatch(text, /^goku_train_(loss|grad_norm|wait_seconds_total){job="ddp"/m);
});

test("series of jobs that are forgotten go, of all metrics and with all labels; others stay", async () => {
  const metrics = new Metrics();
  const step = StepCompleted.fromPartial({ step: 1n, loss: 1, stepSeconds: 1, waits: { vote: 1 } });
  metrics.step("old", step);
  metrics.step("new", step);
  metrics.observe("goku_steps_completed_total", 1, { job: "old" });
  metrics.observe("goku_incidents_total", 1, { job: "old", code: "RANK_DIED" });
  metrics.observe("goku_generations_failed_total", 1, {});
  const count = async (job: string) =>
    (await metrics.render()).match(new RegExp(`job="${job}"`, "g"))?.length ?? 0;
  const before = await count("new");
  assert.ok(before > 40 && (await count("old")) === before + 2);
  await metrics.keepJobs(new Set(["new"]));
  assert.equal(await count("old"), 0);
  assert.equal(await count("new"), before);
  assert.match(await metrics.render(), /^goku_generations_failed_total 1$/m);
  metrics.step("old", step);
  assert.equal(await count("old"), before, "a job of the same name begins anew");
});

test("series that begin at 0 keep what was told before the first step", async () => {
  const metrics = new Metrics();
  metrics.observe("goku_checkpoint_seconds", 2, { job: "shapes" });
  metrics.observe("goku_steps_lost_total", 3, { job: "shapes" });
  metrics.step("shapes", StepCompleted.fromPartial({ step: 1n }));
  const text = await metrics.render();
  assert.match(text, /^goku_checkpoint_seconds_sum{job="shapes"} 2$/m);
  assert.match(text, /^goku_steps_lost_total{job="shapes"} 3$/m);
  assert.match(text, /^goku_checkpoints_failed_total{job="shapes"} 0$/m);
});

test("what is kept elsewhere is read anew for every scrape, and what is gone there is gone here", async () => {
  const metrics = new Metrics();
  let ranks: [string, number][] = [["shapes", 4]];
  metrics.onScrape((set) =>
    set.show(
      "goku_job_ranks",
      ranks.map(([job, count]) => [{ job }, count] as const),
    ),
  );
  const series = async () => (await metrics.render()).match(/^goku_job_ranks.*$/gm);
  assert.deepEqual(await series(), ['goku_job_ranks{job="shapes"} 4']);
  ranks = [["faces", 8]];
  assert.deepEqual(await series(), ['goku_job_ranks{job="faces"} 8']);
  ranks = [];
  assert.equal(await series(), null);
});

test("ends of jobs are counted from 0 on, so that the first failure is an increase", async () => {
  const metrics = new Metrics();
  for (const phase of ["COMPLETED", "STOPPED", "FAILED"])
    assert.ok((await metrics.render()).includes(`\ngoku_jobs_ended_total{phase="${phase}"} 0\n`), phase);
});
