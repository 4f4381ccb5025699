import { ROLL_BACK } from "../../job/left_out.js";
import { persist } from "./durable.js";
import { countStep, restoredAt } from "./effective_time.js";
import { releaseFormer } from "./former.js";
import { onYielded } from "./grow.js";
import { closeIncident, mark } from "./incident.js";
import { endJob } from "./jobs.js";
import { goOnElsewhere } from "./leave.js";
import { onMissed } from "./missed.js";
import { onNumbers } from "./numbers.js";
import { takeTimes } from "./pace.js";
import { noteProgramsBack, onProgramFinished, programOf } from "./program.js";
import { onReplicated } from "./replica_alarm.js";
import { rememberStepTime } from "./stall_limit.js";
import type { GenerationState, JobState, NodeState } from "./state.js";
import { compareStates, stateText } from "./state_name.js";
import { onRound } from "./stragglers.js";
import {
  arm,
  armSooner,
  disarm,
  enter,
  isReachable,
  jobTimers,
  log,
  observe,
  RECONSIDER_TIMER,
  type Turn,
} from "./turn.js";
import { armStall, notePause } from "./watch_stall.js";
import type { RankPage, Report } from "./wire.js";

/** All ranks hold the same state, or a new leader found them training: from here on progress is what counts. */
export function startRunning(turn: Turn, job: JobState): void {
  const generation = job.generation!;
  generation.stage = "run";
  generation.storage = "unasked"; // it is going to commit more
  generation.runMs = turn.nowMs;
  restoredAt(job.effective, generation.step, turn.nowMs);
  generation.reached.fill(0);
  generation.reachedCount = 0;
  generation.changedMs.fill(turn.nowMs);
  generation.changedLastMs = turn.nowMs;
  disarm(turn, jobTimers.stage(job));
  const nodes = generation.nodeRanks.size;
  const does = programOf(job) === null ? `trains from step ${generation.step}` : "runs its program";
  enter(
    turn,
    job,
    "running",
    `generation ${generation.number} ${does} as ${generation.layout} on ${nodes} ${nodes === 1 ? "node" : "nodes"}`,
  );
  noteProgramsBack(turn, job);
  armStall(turn, job);
}

/**
 * News of a death on one node may overtake another node's report of the last step. That step is told all the same: it may
 * be the one that memory restores, and is then never computed again.
 */
export function onStep(turn: Turn, job: JobState, report: Report & { kind: "step" }): void {
  const generation = job.generation!;
  if (generation.stage !== "run" || report.number <= generation.stepReported) return;
  const steps = report.number - generation.stepReported; // a program of its own may tell every tenth step
  generation.stepReported = report.number;
  if (report.replicated > 0) onReplicated(turn, job, report.replicated);
  passOn(turn, job, report);
  onNumbers(turn, job, report.step, generation);
  if (job.stage !== "running") return;
  const stepMs = 1000 * report.step.stepSeconds;
  if (programOf(job) !== null) noteBeat(job, steps * stepMs);
  else if (report.step.leftOut !== ROLL_BACK) {
    if (generation.hasStepped) rememberStepTime(job.stepTimesMs, stepMs);
    notePause(job, report.step);
  }
  generation.changedLastMs = turn.nowMs;
  noteStep(turn, job, report.number);
  armStall(turn, job);
}

/** The first heartbeat of a program has no pace yet. */
function noteBeat(job: JobState, beatMs: number): void {
  if (beatMs > 0) rememberStepTime(job.stepTimesMs, beatMs);
}

/** On busy nodes the next generation forms already: false where it trains, or another one was in between. */
export function onLateStep(turn: Turn, job: JobState, report: Report & { kind: "step" }): boolean {
  const { left, generation } = job;
  if (left?.number !== report.generation || generation!.hasStepped) return false;
  if (report.number <= left.stepReported) return false;
  left.stepReported = report.number;
  passOn(turn, job, report);
  onNumbers(turn, job, report.step, left);
  return true;
}

function passOn(turn: Turn, job: JobState, { generation, step }: Report & { kind: "step" }): void {
  job.lastStep = step;
  job.lastStepMs = turn.nowMs;
  const ms = 1000 * (step.stepSeconds - step.snapshotSeconds);
  const atMs = Number(step.completedMs) || turn.nowMs;
  countStep(job.effective, { step: Number(step.step), ms, atMs }, turn.nowMs);
  const { jobId } = job.record;
  turn.effects.push({ kind: "step", jobId, generation, step });
  observe(turn, "goku_steps_completed_total", 1, { job: job.record.job.name });
  onMissed(turn, job, step);
}

/** Takes over what a node tells of its ranks. Costs the node's ranks, never the job's. */
export function onPages(turn: Turn, job: JobState, node: NodeState, pages: readonly RankPage[]): void {
  const generation = job.generation!;
  let step = generation.step;
  let roundsEnded = false;
  for (const page of pages) {
    if (generation.rankNodes[page.rank] !== node.nodeId || page.generation !== generation.number) continue;
    const before = generation.pages[page.rank] ?? null;
    if (before === null || !samePlace(before, page)) {
      const changedMs = Math.max(generation.changedMs[page.rank]!, turn.nowMs - page.unchangedMs);
      generation.changedMs[page.rank] = changedMs;
      generation.changedLastMs = Math.max(generation.changedLastMs, changedMs);
    }
    generation.pages[page.rank] = page;
    roundsEnded = takeTimes(generation.pace, page) || roundsEnded;
    step = Math.max(step, page.step);
  }
  if (job.stage !== "running" || generation.stage !== "run") return;
  noteStep(turn, job, step);
  if (roundsEnded) onRound(turn, job);
}

function samePlace(a: RankPage, b: RankPage): boolean {
  return (
    a.pid === b.pid &&
    a.step === b.step &&
    a.microStep === b.microStep &&
    a.phase === b.phase &&
    a.layer === b.layer &&
    a.entered === b.entered &&
    a.completed === b.completed
  );
}

/** A completed step ends an incident; one never completed before ends a streak of attempts. */
function noteStep(turn: Turn, job: JobState, step: number): void {
  const generation = job.generation!;
  if (step <= generation.step) return;
  generation.step = step;
  if (!generation.hasStepped) armSooner(turn, RECONSIDER_TIMER, turn.nowMs); // it may be smaller than it could be
  generation.hasStepped = true;
  releaseFormer(turn, job, () => true);
  if (step > job.stepHighest) {
    job.stepHighest = step;
    job.attempts = 0;
    job.blame.clear();
    job.unreadable.clear();
    job.unreadTries = 0;
  }
  // With a member that leaves, the incident ends in the generation that goes on without it.
  if (job.incident === null || generation.draining.size > 0) return;
  mark(turn, job, "stepped");
  persist(turn, closeIncident(turn, job, "recovered"));
}

/** The first finished rank proves that the final state is durable for all. */
export function onRankFinished(turn: Turn, job: JobState, report: Report & { kind: "finished" }): void {
  const generation = job.generation!;
  const { rank, state, reason } = report;
  if (reason === "yield") {
    onYielded(turn, job, report);
    return;
  }
  if (programOf(job) !== null) {
    onProgramFinished(turn, job, report);
    return;
  }
  countFinished(generation, rank);
  if (generation.finished === null) {
    generation.finished = { state, reason };
    noteStep(turn, job, state.step);
    disarm(turn, jobTimers.stall(job));
    const { finishMs, rehomeMs } = turn.state.config.limits;
    generation.finishByMs = turn.nowMs + finishMs;
    const rehomedMs = turn.state.leader!.electedMs + rehomeMs;
    const isNew = turn.nowMs < rehomedMs;
    arm(
      turn,
      jobTimers.stage(job),
      isNew ? Math.min(rehomedMs, generation.finishByMs) : generation.finishByMs,
    );
  }
  tryComplete(turn, job, false);
}

export function countFinished(generation: GenerationState, rank: number): void {
  if (generation.reached[rank] === 1) return;
  generation.reached[rank] = 1;
  generation.reachedCount += 1;
}

/** A node that has not re-homed to a new leader by now has left meanwhile: of its ranks no word will come. */
export function onFinishDue(turn: Turn, job: JobState): void {
  const generation = job.generation!;
  if (generation.finished === null) return;
  for (const [nodeId, ranks] of generation.nodeRanks) {
    if (isReachable(turn, turn.state.nodes.get(nodeId))) continue;
    for (const rank of ranks) countFinished(generation, rank);
  }
  const overdue = turn.nowMs >= generation.finishByMs;
  if (!overdue) arm(turn, jobTimers.stage(job), generation.finishByMs);
  tryComplete(turn, job, overdue);
}

/** @param overdue waiting is over: whoever has not told its end by now does not change that the state is durable */
export function tryComplete(turn: Turn, job: JobState, overdue: boolean): void {
  const generation = job.generation!;
  const { finished } = generation;
  if (finished === null || job.stage !== "running") return;
  const { worldSize } = generation.layout;
  const saved = job.checkpoints.findLast((entry) => compareStates(entry.state, finished.state) >= 0);
  const known = saved !== undefined;
  if (!overdue && (generation.reachedCount < worldSize || !known)) return;
  if (!known) {
    const text = `ranks report ${stateText(finished.state)} durable, its commit was not told`;
    log(turn, { level: "alarm", type: "alarm", jobId: job.record.jobId, text });
  }
  if (finished.reason === "stop" && job.record.stop === null) {
    goOnElsewhere(turn, job, finished.state);
    return;
  }
  const told = `${generation.reachedCount} of ${worldSize} ranks finished`;
  const phase = finished.reason === "stop" ? "STOPPED" : "COMPLETED";
  const why = finished.reason === "stop" ? "stopped as asked" : "all steps are done";
  const { step } = finished.state;
  const kept = known ? `, durable at ${saved.uri}` : "";
  endJob(turn, job, { phase, code: null, reason: `${why} at step ${step}: ${told}${kept}` }, step);
}
