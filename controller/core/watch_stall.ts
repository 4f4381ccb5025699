import { awaitsFinalSave, checkFinalSave } from "./final_save.js";
import { type Fault, faultOf, lostFaults } from "./judge_fault.js";
import { localiseStall } from "./localise_stall.js";
import { checkPrograms, programOf } from "./program.js";
import { reportFaults } from "./recover.js";
import { sight } from "./sight.js";
import { rememberPause, SETTLING_STEPS, type StallLimits, stallLimits } from "./stall_limit.js";
import type { GenerationState, JobState } from "./state.js";
import {
  arm,
  armSooner,
  enter,
  heardMs,
  isReachable,
  jobTimers,
  pageAgeMs,
  send,
  silenceMs,
  type Turn,
} from "./turn.js";

// A running generation moves, or some rank hangs. Its timer looks when nothing was heard to move for the learnt limit. What
// the controller knows then is up to a heartbeat old, and older where it stood still itself or messages were late; so it asks
// all agents to tell at once what their ranks do, and judges by their answers and their clocks alone.

/** Phases in which a rank's thread works, or turns while it waits; in the others of a step it may sleep where a GPU computes. */
const ON_GPU = ["idle", "data"];
const ON_CPU = [...ON_GPU, "forward", "backward", "optimizer"];

export function armStall(turn: Turn, job: JobState): void {
  const generation = job.generation!;
  if (generation.finished !== null) return;
  const timer = jobTimers.stall(job);
  if (programOf(job) !== null) {
    armSooner(turn, timer, turn.nowMs + silenceMs(turn));
    return;
  }
  armSooner(turn, timer, generation.changedLastMs + lookAfterMs(turn, job));
}

/** Before a job's pace is known the limit is long; a rank that is blocked is seen sooner. */
function lookAfterMs(turn: Turn, job: JobState): number {
  return Math.min(limitsOf(job).stillMs, turn.state.config.limits.blockedMs);
}

function limitsOf(job: JobState): StallLimits {
  const { pauses, stepTimesMs, record } = job;
  const { layout, stepsTold } = job.generation!;
  return stallLimits({
    stepTimesMs,
    pausesMs: pauses.layout === `${layout}` ? pauses.ms : [],
    floorMs: 1000 * record.job.recovery.stall_seconds,
    stepsTold,
  });
}

/** A step of rank 0 tells its longest pause; an agent of an older version does not, and none was longer than the step. */
export function notePause(job: JobState, step: { stepSeconds: number; longestPauseSeconds: number }): void {
  const generation = job.generation!;
  generation.stepsTold += 1;
  learnPause(job, 1000 * (step.longestPauseSeconds || step.stepSeconds));
}

/** While a generation settles its pauses are no norm; in another layout they are others. */
function learnPause(job: JobState, pauseMs: number): void {
  const { stepsTold, layout: present } = job.generation!;
  if (stepsTold <= SETTLING_STEPS) return;
  const layout = `${present}`;
  if (job.pauses.layout !== layout) job.pauses = { layout, ms: [] };
  rememberPause(job.pauses.ms, pauseMs);
}

/** Nothing may have changed for the learnt limit: asks, compares the pages, and names who holds the others up. */
export function checkStall(turn: Turn, job: JobState): void {
  const program = programOf(job);
  if (program !== null) {
    checkPrograms(turn, job, program);
    return;
  }
  const generation = job.generation!;
  const { nowMs } = turn;
  const timer = jobTimers.stall(job);
  const limits = limitsOf(job);
  if (awaitsFinalSave(job, sight(turn, generation))) {
    generation.asked = null;
    checkFinalSave(turn, job, Math.max(limits.stillMs, pageAgeMs(turn)));
    return;
  }
  const untilMs = generation.changedLastMs + lookAfterMs(turn, job);
  if (nowMs < untilMs) {
    generation.asked = null;
    arm(turn, timer, untilMs);
    return;
  }
  generation.asked ??= askAll(turn, generation);
  for (const nodeId of generation.asked)
    if (!isReachable(turn, turn.state.nodes.get(nodeId))) generation.asked.delete(nodeId);
  if (generation.asked.size > 0) {
    arm(turn, timer, nowMs + turn.state.config.limits.heartbeatMs);
    return;
  }
  generation.asked = null;
  judgeStall(turn, job, limits);
}

/** Asks all agents of a generation what their ranks do now. */
export function askAll(turn: Turn, generation: GenerationState): Set<string> {
  const value = { generation: BigInt(generation.number) };
  for (const nodeId of generation.nodeRanks.keys())
    send(turn, turn.state.nodes.get(nodeId), { $case: "tellProgress", value });
  return new Set(generation.nodeRanks.keys());
}

/** A node has told what its ranks do; with the last that was asked it is known whether the generation stands still. */
export function onProgressTold(turn: Turn, job: JobState, nodeId: string): void {
  const { asked } = job.generation!;
  if (asked?.delete(nodeId) && asked.size === 0) checkStall(turn, job);
}

function judgeStall(turn: Turn, job: JobState, limits: StallLimits): void {
  const generation = job.generation!;
  const { nowMs } = turn;
  const timer = jobTimers.stall(job);
  const sightings = sight(turn, generation);
  const verdict = localiseStall(sightings);
  if (verdict.kind === "unseen") {
    checkUnseen(turn, job, verdict.reason);
    return;
  }
  // Known are the pauses of all ranks together.
  const limitMs = sightings.every(({ page }) => page !== null) ? limits.stillMs : limits.partMs;
  const waitsUntilMs = generation.changedLastMs + limits.waitingMs;
  const stillMs = sightings.reduce(
    (least, { page }) => Math.min(least, page?.unchangedMs ?? least),
    nowMs - generation.changedLastMs,
  );
  const { blockedMs, heartbeatMs } = turn.state.config.limits;
  const held = verdict.kind === "ranks" ? leastBlockedMs(generation, verdict.ranks) : null;
  const isHung = held !== null && Math.min(held, stillMs) >= blockedMs;
  if (!isHung && stillMs < limitMs && nowMs < waitsUntilMs) {
    const againMs = held === null ? limitMs - stillMs : Math.min(limitMs - stillMs, heartbeatMs);
    arm(turn, timer, Math.min(nowMs + againMs, waitsUntilMs));
    return;
  }
  // Nodes that cannot be seen may be out of the controller's reach alone, and for a moment.
  const unseenUntilMs = generation.changedLastMs + pageAgeMs(turn);
  if (verdict.kind === "nodes" && nowMs < unseenUntilMs) {
    arm(turn, timer, unseenUntilMs);
    return;
  }
  const base = { atMs: nowMs, source: "stall", code: "RANK_STALLED" } as const;
  if (verdict.kind === "nodes") {
    reportFaults(
      turn,
      job,
      lostFaults(nowMs, verdict.nodeIds, () => verdict.reason),
    );
    return;
  }
  learnPause(job, 2 * limitMs);
  if (verdict.kind === "unknown") {
    reportFaults(turn, job, [faultOf({ ...base, text: `no progress: ${verdict.reason}`, remedy: "ask" })]);
    return;
  }
  const { operation, reason: text } = verdict;
  const name = (rank: number) => ({ rank, nodeId: generation.rankNodes[rank]!, operation, text });
  reportFaults(
    turn,
    job,
    verdict.ranks.map((rank): Fault => faultOf({ ...base, ...name(rank), remedy: "kill" })),
  );
}

/** For how long the threads of these ranks have been blocked where they must not be; null: one of them may well wait there. */
function leastBlockedMs({ pages, device }: GenerationState, ranks: readonly number[]): number | null {
  const never = device === "cpu" ? ON_CPU : ON_GPU;
  return ranks.reduce<number | null>((least, rank) => {
    const page = pages[rank];
    if (least === null || page == null || !never.includes(page.phase)) return null;
    return Math.min(least, page.blockedMs);
  }, Number.POSITIVE_INFINITY);
}

/** Silent is not dead: with nobody in sight training may well go on. Only the grace for lost nodes ends that. */
function checkUnseen(turn: Turn, job: JobState, reason: string): void {
  const generation = job.generation!;
  const nodeIds = [...generation.nodeRanks.keys()].sort();
  const heardLastMs = nodeIds.reduce((last, nodeId) => Math.max(last, heardMs(turn, nodeId)), 0);
  const graceMs = 1000 * job.record.job.recovery.node_grace_seconds;
  if (turn.nowMs < heardLastMs + graceMs) {
    enter(turn, job, "running", `${reason}; training may go on, waits ${graceMs / 1000} s to hear of it`);
    arm(turn, jobTimers.stall(job), Math.min(heardLastMs + graceMs, turn.nowMs + silenceMs(turn)));
    return;
  }
  const text = `${reason} for ${graceMs / 1000} s`;
  reportFaults(
    turn,
    job,
    lostFaults(turn.nowMs, nodeIds, () => text),
  );
}
