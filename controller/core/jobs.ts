import { type AnyJob, jobTraits } from "../../job/command_job.js";
import { type ErrorCode, GokuError } from "../../job/errors.js";
import { Layout } from "../../job/layout.js";
import { STOP_GRACE } from "../../job/stop_grace.js";
import { expireAvoided } from "./avoid.js";
import type { DurableWrite, Event, JobOutcome, JobRecord } from "./contract.js";
import { durableKeys } from "./contract.js";
import { deepEqual } from "./deep_equal.js";
import { persist } from "./durable.js";
import { forgetJobs } from "./forget.js";
import { requestStop, startGeneration } from "./form.js";
import { considerGrowth } from "./grow.js";
import { closeIncident } from "./incident.js";
import { pressToSave } from "./leave.js";
import { furthestStep, membersInput } from "./members.js";
import { outliveFates } from "./outlive.js";
import { planMembers } from "./plan_members.js";
import { giveUpPreview } from "./previews.js";
import { reform } from "./recover.js";
import { releaseNode } from "./release.js";
import { createJobState, type JobState } from "./state.js";
import {
  arm,
  disarm,
  enter,
  jobTimers,
  log,
  observe,
  RECONSIDER_TIMER,
  reply,
  sendAll,
  type Turn,
} from "./turn.js";

type Submission = Event & { kind: "jobSubmitted" };

/** Takes a job in, or says why not. The answer goes out once the job is durable. */
export function submitJob(turn: Turn, event: Submission): void {
  const { requestId, jobId, job, source } = event;
  const living = [...turn.state.jobs.values()].filter((other) => !isOver(other));
  const namesake = living.find((other) => other.record.job.name === job.name);
  if (namesake !== undefined && isSame(namesake, event)) {
    // The very same again, for example after an answer that got lost: answered once its first copy is durable.
    persist(turn, [jobWrite(namesake)], { kind: "accept", requestId, jobId: namesake.record.jobId });
    return;
  }
  const refusal = refusalOf(turn, event, living, namesake);
  if (refusal !== null) {
    reply(turn, requestId, { ok: false, ...refusal });
    return;
  }
  turn.state.jobOrderLast += 1;
  const state = createJobState({
    kind: "job",
    jobId,
    order: turn.state.jobOrderLast,
    job,
    source,
    generationFloor: event.found.generationHighest,
    submittedAtMs: turn.nowMs,
    stop: null,
    rollBacks: [],
    outcome: null,
  });
  turn.state.jobs.set(jobId, state);
  persist(turn, [jobWrite(state)], { kind: "accept", requestId, jobId });
}

function isSame(other: JobState, event: Submission): boolean {
  return deepEqual(other.record.job, event.job) && deepEqual(other.record.source, event.source);
}

function refusalOf(
  turn: Turn,
  event: Submission,
  living: readonly JobState[],
  namesake: JobState | undefined,
): { code: ErrorCode; message: string } | null {
  const { jobId, job } = event;
  if (turn.state.jobs.has(jobId)) {
    return { code: "CONFLICT", message: `Cannot submit job ${job.name}: its id ${jobId} is taken` };
  }
  if (namesake !== undefined) {
    const message = `Cannot submit job ${job.name}: another job of that name is ${namesake.stage}, stop it or choose another name`;
    return { code: "CONFLICT", message };
  }
  const uri = jobTraits(job).checkpoint?.uri;
  const rival =
    uri === undefined
      ? undefined
      : living.find((other) => jobTraits(other.record.job).checkpoint?.uri === uri);
  if (rival !== undefined) {
    const message = `Cannot submit job ${job.name}: job ${rival.record.job.name} writes to ${uri}, choose another checkpoint.uri`;
    return { code: "CONFLICT", message };
  }
  // Retention and lineage know states by generation and step alone: two runs in one folder would mix.
  if (event.found.count > 0 && !event.found.own) {
    const message = `Cannot submit job ${job.name}: ${uri} holds ${event.found.count} checkpoints of another run, continue that one with gokuctl resume --ckpt ${uri} or choose another checkpoint.uri`;
    return { code: "CONFLICT", message };
  }
  return layoutRefusal(job);
}

function layoutRefusal(job: AnyJob): { code: ErrorCode; message: string } | null {
  if (job.layout === "auto") return null;
  try {
    new Layout(job.layout);
    return null;
  } catch (error) {
    if (error instanceof GokuError) return { code: error.code, message: error.message };
    throw error;
  }
}

/** The job's record is durable: it may run. */
export function acceptJob(turn: Turn, requestId: string, jobId: string): void {
  const job = turn.state.jobs.get(jobId)!;
  if (!job.accepted) {
    job.accepted = true;
    enter(turn, job, job.stage, `submitted as number ${job.record.order}`);
  }
  reply(turn, requestId, { ok: true, jobId });
  reconsider(turn);
}

/** Saves and stops; at once when nothing runs yet. */
export function stopJob(turn: Turn, event: Event & { kind: "stopRequested" }): void {
  const { requestId, jobId } = event;
  const job = livingJob(turn, requestId, jobId, "stop");
  if (job === null) return;
  const isProgram = jobTraits(job.record.job).checkpoint === null;
  if (isProgram && event.graceMs !== null) {
    const message = `Cannot stop job ${job.record.job.name} with a grace: it runs a program of its own, which gets trainer.stop_grace_seconds of its file; leave the grace out`;
    reply(turn, requestId, { ok: false, code: "ARGUMENT_INVALID", message });
    return;
  }
  const endMs = isProgram ? null : turn.nowMs + (event.graceMs ?? 1000 * STOP_GRACE.seconds);
  job.record = { ...job.record, stop: soonest(job.record.stop, { atMs: turn.nowMs, endMs }) };
  if (job.stage === "queued") {
    endJob(turn, job, { phase: "STOPPED", code: null, reason: "stopped before it ran" });
  }
  persist(turn, [jobWrite(job)], { kind: "stop", requestId, jobId });
}

/** Asked for twice: the earlier end counts. */
function soonest(before: JobRecord["stop"], now: NonNullable<JobRecord["stop"]>): JobRecord["stop"] {
  return before?.endMs != null && (now.endMs === null || before.endMs <= now.endMs) ? before : now;
}

/**
 * The wish to stop is durable: tell the ranks, unless no generation runs; the next one is told when it does. A job that
 * waits to recover does not wait on for that.
 */
export function passStop(turn: Turn, requestId: string, jobId: string): void {
  reply(turn, requestId, { ok: true, jobId });
  const job = turn.state.jobs.get(jobId);
  if (job === undefined || isOver(job)) return;
  log(turn, { level: "info", type: "phase", jobId, text: "will save and stop, as asked" });
  if (job.stage === "running" && job.generation!.stage === "run") requestStop(turn, job.generation!);
  pressToSave(turn, job);
  if (job.stage === "waiting") reform(turn, job);
}

export function saveJob(turn: Turn, event: Event & { kind: "saveRequested" }): void {
  const { requestId, jobId } = event;
  const job = livingJob(turn, requestId, jobId, "save");
  if (job === null) return;
  const { generation } = job;
  if (jobTraits(job.record.job).checkpoint === null) {
    const message = `Cannot save job ${job.record.job.name}: its checkpoints are those of its own program (trainer.command)`;
    reply(turn, requestId, { ok: false, code: "STATE_INVALID", message });
    return;
  }
  if (job.stage !== "running" || generation?.stage !== "run" || generation.yielding) {
    const message = `Cannot save job ${job.record.job.name}: it is ${job.stage} (${job.reason}), try again when it trains`;
    reply(turn, requestId, { ok: false, code: "STATE_INVALID", message });
    return;
  }
  sendAll(turn, generation, { $case: "requestSave", value: { generation: BigInt(generation.number) } });
  reply(turn, requestId, { ok: true, jobId });
}

function livingJob(turn: Turn, requestId: string, jobId: string, action: string): JobState | null {
  const job = turn.state.jobs.get(jobId);
  if (job === undefined) {
    reply(turn, requestId, {
      ok: false,
      code: "NOT_FOUND",
      message: `Cannot ${action} job ${jobId}: there is none of that id`,
    });
    return null;
  }
  if (!isOver(job)) return job;
  const message = `Cannot ${action} job ${job.record.job.name}: it is over (${job.reason})`;
  reply(turn, requestId, { ok: false, code: "STATE_INVALID", message });
  return null;
}

/**
 * Makes the outcome durable; nodes are released after that.
 * @param step where it ended
 */
export function endJob(
  turn: Turn,
  job: JobState,
  outcome: Pick<JobOutcome, "phase" | "code" | "reason">,
  step = job.generation?.step ?? 0,
): void {
  disarm(turn, jobTimers.stage(job));
  disarm(turn, jobTimers.stall(job));
  disarm(turn, jobTimers.leave(job));
  giveUpPreview(turn, job);
  const ahead = outcome.phase === "STOPPED" ? furthestStep(turn, job) - step : 0;
  const end = { step, stepsGivenUp: Math.max(0, ahead), atMs: turn.nowMs };
  job.record = { ...job.record, outcome: { ...outcome, ...end } };
  enter(turn, job, "ending", outcome.reason);
  const incident = closeIncident(turn, job, outcome.phase === "COMPLETED" ? "recovered" : "failed");
  persist(turn, [jobWrite(job), ...incident], { kind: "end", jobId: job.record.jobId });
}

export function onEnded(turn: Turn, jobId: string): void {
  const job = turn.state.jobs.get(jobId)!;
  const { phase, reason } = job.record.outcome!;
  job.stage = "ended";
  observe(turn, "goku_jobs_ended_total", 1, { phase });
  log(turn, {
    level: phase === "FAILED" ? "alarm" : "info",
    type: "phase",
    jobId,
    text: `${phase}: ${reason}`,
  });
  for (const node of turn.state.nodes.values()) {
    if (node.jobId === jobId || node.heldJobId === jobId) releaseNode(turn, node.nodeId, jobId);
  }
  forgetJobs(turn);
  reconsider(turn);
}

/** Looks again at every job that waits for nodes, oldest first. A job that waits holds no free node back. */
export function reconsider(turn: Turn): void {
  expireAvoided(turn);
  outliveFates(turn);
  // Whoever forms changes what the others read about free slots: their reasons are told anew.
  while (reconsiderOnce(turn));
  // What they leave free is for jobs that train already; one that waits for more nodes than are free must not wait for ever.
  const jobs = [...turn.state.jobs.values()];
  if (jobs.some(({ stage, accepted }) => stage === "queued" && accepted)) return;
  for (const job of jobs) considerGrowth(turn, job);
}

/** True when a job formed that had been queued. */
function reconsiderOnce(turn: Turn): boolean {
  let atMs = Number.POSITIVE_INFINITY;
  let formed = false;
  for (const job of turn.state.jobs.values()) {
    if (job.stage === "waiting") reform(turn, job);
    if (job.stage !== "queued" || !job.accepted) continue;
    const plan = planMembers(membersInput(turn, job));
    if (plan.kind === "form") {
      startGeneration(turn, job, plan);
      formed = true;
    } else if (plan.kind === "wait") {
      enter(turn, job, "queued", plan.reason);
      atMs = Math.min(atMs, plan.retryAtMs ?? Number.POSITIVE_INFINITY);
    } else {
      endJob(turn, job, { phase: "FAILED", code: plan.code, reason: plan.reason });
    }
  }
  if (Number.isFinite(atMs)) arm(turn, RECONSIDER_TIMER, atMs);
  return formed;
}

/** Its outcome is decided. */
export function isOver(job: JobState): boolean {
  return job.stage === "ending" || job.stage === "ended";
}

/** A copy as of now. */
export function jobWrite(job: JobState): DurableWrite {
  return { key: durableKeys.job(job.record.jobId), record: structuredClone(job.record) };
}
