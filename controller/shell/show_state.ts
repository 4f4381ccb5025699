import { jobTraits } from "../../job/command_job.js";
import type { Labels, MetricSet } from "../../job/metric_set.js";
import type { ControllerMetric } from "../../job/metrics.js";
import { ettrOf } from "../core/effective_time.js";
import { programOf } from "../core/program.js";
import type { CoreState, JobState } from "../core/state.js";
import { type JobPhase, phaseOf } from "../core/views.js";

type Series = [labels: Labels, value: number][];
type Shown = Extract<
  ControllerMetric,
  `goku_${"job" | "jobs" | "nodes" | "checkpoint" | "incidents" | "leader" | "train"}${string}`
>;

/** Of a job that is not over. */
const PHASES: readonly JobPhase[] = ["QUEUED", "FORMING", "RUNNING", "RECOVERING", "STOPPING"];
export const ENDS: readonly JobPhase[] = ["COMPLETED", "STOPPED", "FAILED"];

/**
 * What the core's state says, as series: of the nodes and jobs together, and of each job that is not over. One look at each
 * node and each rank, a millisecond or two for 12,288 of them; as many series whatever their number.
 */
export function showState(metrics: MetricSet<ControllerMetric>, state: CoreState, nowMs: number): void {
  const { leader } = state;
  metrics.show("goku_leader_term", [[{}, leader?.term ?? 0]]);
  metrics.show("goku_leader_ready", [[{}, leader?.ready ? 1 : 0]]);
  metrics.show("goku_nodes", nodeStates(state));
  const jobs = [...state.jobs.values()].filter((job) => job.accepted);
  const phases = [...PHASES, ...ENDS];
  metrics.show(
    "goku_jobs",
    phases.map((phase) => [{ phase }, jobs.filter((job) => phaseOf(job) === phase).length]),
  );
  const living = jobs.filter((job) => job.stage !== "ended");
  const series = new Map<Shown, Series>();
  for (const job of living) {
    for (const [name, own] of jobSeries(job, nowMs)) {
      const all = series.get(name);
      if (all) all.push(...own);
      else series.set(name, [...own]);
    }
  }
  for (const name of JOB_SERIES) metrics.show(name, series.get(name) ?? []);
}

function nodeStates({ nodes, quarantine }: CoreState): Series {
  const count = { connected: 0, absent: 0, quarantined: 0, drained: 0, leaving: 0 };
  for (const { drained } of quarantine.values()) count[drained ? "drained" : "quarantined"] += 1;
  for (const node of nodes.values()) {
    if (quarantine.has(node.nodeId)) continue;
    if (node.leaving !== null) count.leaving += 1;
    else if (node.session === null) count.absent += 1;
    else count.connected += 1;
  }
  return Object.entries(count).map(([name, value]) => [{ state: name }, value]);
}

/** What jobSeries() may name. */
const JOB_SERIES = [
  "goku_job_phase",
  "goku_job_generation",
  "goku_job_ranks",
  "goku_job_started_timestamp_seconds",
  "goku_job_ettr_ratio",
  "goku_job_effective_seconds_total",
  "goku_job_slowness_ratio",
  "goku_job_stragglers",
  "goku_job_stuck_seconds",
  "goku_incidents_open",
  "goku_train_steps_planned",
  "goku_train_last_step_timestamp_seconds",
  "goku_checkpoint_last_timestamp_seconds",
  "goku_checkpoint_last_step",
  "goku_checkpoint_failing",
  "goku_checkpoint_retention_failing",
] as const satisfies readonly Shown[];

function* jobSeries(job: JobState, nowMs: number): Generator<[(typeof JOB_SERIES)[number], Series]> {
  const { generation, record } = job;
  const own = { job: record.job.name };
  const phase = phaseOf(job);
  yield ["goku_job_phase", PHASES.map((each) => [{ ...own, phase: each }, each === phase ? 1 : 0])];
  yield ["goku_job_generation", [[own, generation?.number ?? 0]]];
  yield ["goku_job_ranks", [[own, generation?.layout.worldSize ?? 0]]];
  yield ["goku_job_effective_seconds_total", [[own, job.effective.effectiveMs / 1000]]];
  const ettr = tellsSteps(job) ? ettrOf(job.effective, nowMs) : null;
  const { startedMs } = job.effective;
  if (startedMs > 0) yield ["goku_job_started_timestamp_seconds", [[own, startedMs / 1000]]];
  if (ettr !== null)
    yield [
      "goku_job_ettr_ratio",
      [
        [{ ...own, window: "total" }, ettr.total],
        [{ ...own, window: "hour" }, ettr.hour],
      ],
    ];
  yield ["goku_incidents_open", [[own, job.incident === null ? 0 : 1]]];
  const { stepsTotal, checkpoint } = jobTraits(record.job);
  yield ["goku_train_steps_planned", [[own, stepsTotal ?? 0]]];
  // A job that never does its first step is as far behind as one whose steps have ended.
  const stepMs = Math.max(job.lastStepMs, generation?.runMs ?? 0);
  if (stepMs > 0 && tellsSteps(job)) yield ["goku_train_last_step_timestamp_seconds", [[own, stepMs / 1000]]];
  if (checkpoint !== null) yield* checkpointSeries(job);
  if (job.stage === "running" && generation !== null) yield* runSeries(job, nowMs);
}

/** A program of its own may tell none, and how long they take from the second on: until then nobody knows what counts. */
function tellsSteps(job: JobState): boolean {
  return programOf(job) === null || job.effective.effectiveMs > 0;
}

/** A program of its own that has not beaten shows no progress, however well it runs. */
function tellsProgress(job: JobState): boolean {
  return programOf(job) === null || job.generation!.pages.some((page) => page !== null && page.microStep > 0);
}

function* checkpointSeries(job: JobState): Generator<[(typeof JOB_SERIES)[number], Series]> {
  const own = { job: job.record.job.name };
  const newest = job.checkpoints.findLast((entry) => entry.unusable === null);
  const atMs = newest?.committedAtMs ?? (job.effective.startedMs || job.record.submittedAtMs);
  yield ["goku_checkpoint_last_timestamp_seconds", [[own, atMs / 1000]]];
  yield ["goku_checkpoint_last_step", [[own, newest?.state.step ?? 0]]];
  yield ["goku_checkpoint_failing", [[own, job.saveAlarm === null ? 0 : 1]]];
  yield ["goku_checkpoint_retention_failing", [[own, job.retentionFailing ? 1 : 0]]];
}

function* runSeries(job: JobState, nowMs: number): Generator<[(typeof JOB_SERIES)[number], Series]> {
  const { pace, changedLastMs } = job.generation!;
  const own = { job: job.record.job.name };
  if (tellsProgress(job))
    yield ["goku_job_stuck_seconds", [[own, Math.max(0, nowMs - changedLastMs) / 1000]]];
  const told = [...pace.told.values()];
  const ranks = told.filter(({ rank }) => rank !== null).length;
  yield [
    "goku_job_stragglers",
    [
      [{ ...own, kind: "rank" }, ranks],
      [{ ...own, kind: "node" }, told.length - ranks],
    ],
  ];
  let slowest = 0;
  for (const ratio of pace.verdict?.typical ?? []) if (ratio > slowest) slowest = ratio; // NaN: not known
  if (slowest > 0) yield ["goku_job_slowness_ratio", [[own, slowest]]];
}
