import { persist } from "./durable.js";
import { mustStop } from "./form.js";
import { closeIncident, mark } from "./incident.js";
import { endJob } from "./jobs.js";
import { type Fault, faultOf } from "./judge_fault.js";
import { goOnElsewhere } from "./leave.js";
import { localiseStall, type RankSighting } from "./localise_stall.js";
import { reportFaults } from "./recover.js";
import { rememberStepTime, stallLimitMs } from "./stall_limit.js";
import type { GenerationState, JobState, NodeState } from "./state.js";
import { compareStates, stateText } from "./state_name.js";
import { arm, disarm, enter, isReachable, jobTimers, log, observe, silenceMs, type Turn } from "./turn.js";
import type { RankPage, Report } from "./wire.js";

/** All ranks hold the same state, or a new leader found them training: from here on progress is what counts. */
export function startRunning(turn: Turn, job: JobState): void {
  const generation = job.generation!;
  generation.stage = "run";
  generation.reached.fill(0);
  generation.reachedCount = 0;
  generation.changedMs.fill(turn.nowMs);
  generation.changedLastMs = turn.nowMs;
  disarm(turn, jobTimers.stage(job));
  const nodes = generation.nodeRanks.size;
  enter(
    turn,
    job,
    "running",
    `generation ${generation.number} trains from step ${generation.step} as ${generation.layout} on ${nodes} ${nodes === 1 ? "node" : "nodes"}`,
  );
  armStall(turn, job);
}

/**
 * News of a death on one node may overtake another node's report of the last step. That step is told all the same: it may
 * be the one that memory restores, and is then never computed again.
 */
export function onStep(turn: Turn, job: JobState, report: Report & { kind: "step" }): void {
  const generation = job.generation!;
  if (generation.stage !== "run" || report.number <= generation.stepReported) return;
  generation.stepReported = report.number;
  if (report.replicated > 0) job.replicated = { generation: generation.number, step: report.replicated };
  passOn(turn, job, report);
  if (job.stage !== "running") return;
  if (generation.hasStepped) rememberStepTime(job.stepTimesMs, 1000 * report.step.stepSeconds);
  generation.changedLastMs = turn.nowMs;
  noteStep(turn, job, report.number);
  armStall(turn, job);
}

/** On busy nodes the next generation forms already: false where it trains, or another one was in between. */
export function onLateStep(turn: Turn, job: JobState, report: Report & { kind: "step" }): boolean {
  const { left, generation } = job;
  if (left?.generation !== report.generation || generation!.hasStepped) return false;
  if (report.number <= left.stepReported) return false;
  left.stepReported = report.number;
  passOn(turn, job, report);
  return true;
}

function passOn(turn: Turn, job: JobState, { generation, step }: Report & { kind: "step" }): void {
  job.lastStep = step;
  const { jobId } = job.record;
  turn.effects.push({ kind: "step", jobId, generation, step });
  observe(turn, "goku_steps_completed_total", 1, { job: job.record.job.name });
}

/** Takes over what a node tells of its ranks. Costs the node's ranks, never the job's. */
export function onPages(turn: Turn, job: JobState, node: NodeState, pages: readonly RankPage[]): void {
  const generation = job.generation!;
  let step = generation.step;
  for (const page of pages) {
    if (generation.rankNodes[page.rank] !== node.nodeId || page.generation !== generation.number) continue;
    const before = generation.pages[page.rank] ?? null;
    if (before === null || !samePlace(before, page)) {
      const changedMs = Math.max(generation.changedMs[page.rank]!, turn.nowMs - page.unchangedMs);
      generation.changedMs[page.rank] = changedMs;
      generation.changedLastMs = Math.max(generation.changedLastMs, changedMs);
    }
    generation.pages[page.rank] = page;
    step = Math.max(step, page.step);
  }
  if (job.stage === "running" && generation.stage === "run") noteStep(turn, job, step);
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
  generation.hasStepped = true;
  if (step > job.stepHighest) {
    job.stepHighest = step;
    job.attempts = 0;
    job.blame.clear();
  }
  // With a member that leaves, the incident ends in the generation that goes on without it.
  if (job.incident === null || generation.draining.size > 0) return;
  mark(turn, job, "stepped");
  persist(turn, closeIncident(turn, job, "recovered"));
}

function armStall(turn: Turn, job: JobState): void {
  const generation = job.generation!;
  if (generation.finished !== null) return;
  const timer = jobTimers.stall(job);
  const atMs = generation.changedLastMs + limitMs(turn, job);
  const armed = turn.state.timers.get(timer);
  // Moved only to fire earlier: firing too early merely looks again.
  if (armed === undefined || atMs < armed - silenceMs(turn)) arm(turn, timer, atMs);
}

function limitMs(turn: Turn, job: JobState): number {
  const limit = stallLimitMs({
    stepTimesMs: job.stepTimesMs,
    floorMs: 1000 * job.record.job.recovery.stall_seconds,
    generationHasStepped: job.generation!.hasStepped,
  });
  // Pages are up to a heartbeat old, and as late as a message may be without its node counting as silent.
  return Math.max(limit, silenceMs(turn) + turn.state.config.limits.heartbeatMs);
}

/** Nothing may have changed for the learnt limit: compare the pages and name who holds the others up. */
export function checkStall(turn: Turn, job: JobState): void {
  const generation = job.generation!;
  const { nowMs } = turn;
  const timer = jobTimers.stall(job);
  const sightings = sight(turn, generation);
  const saving = sightings.every((s) => s.page === null || ["snapshot", "finished"].includes(s.page.phase));
  const limit = Math.max(
    limitMs(turn, job),
    saving && isEnding(job) ? turn.state.config.limits.finalSaveMs : 0,
  );
  if (nowMs < generation.changedLastMs + limit) {
    arm(turn, timer, generation.changedLastMs + limit);
    return;
  }
  const verdict = localiseStall(sightings);
  const base = { atMs: nowMs, source: "stall", code: "RANK_STALLED" } as const;
  switch (verdict.kind) {
    case "unseen":
      checkUnseen(turn, job, verdict.reason);
      return;
    case "ranks": {
      const { operation, reason: text } = verdict;
      const name = (rank: number) => ({ rank, nodeId: generation.rankNodes[rank]!, operation, text });
      reportFaults(
        turn,
        job,
        verdict.ranks.map((rank): Fault => faultOf({ ...base, ...name(rank), remedy: "kill" })),
      );
      return;
    }
    case "nodes":
      reportFaults(
        turn,
        job,
        verdict.nodeIds.map((nodeId) =>
          faultOf({ ...base, source: "lost", code: "NODE_LOST", nodeId, text: verdict.reason }),
        ),
      );
      return;
    case "unknown":
      reportFaults(turn, job, [faultOf({ ...base, text: `no progress: ${verdict.reason}`, remedy: "ask" })]);
      return;
  }
}

/** Pages of reachable nodes; a rank whose page was never told counts as unseen. */
function sight(turn: Turn, generation: GenerationState): RankSighting[] {
  return generation.rankNodes.map((nodeId, rank) => ({
    rank,
    nodeId,
    page: isInSight(turn, nodeId) ? generation.pages[rank]! : null,
    unchangedMs: turn.nowMs - generation.changedMs[rank]!,
  }));
}

function isInSight(turn: Turn, nodeId: string): boolean {
  const node = turn.state.nodes.get(nodeId);
  return isReachable(turn, node) && turn.nowMs >= node.steadyMs;
}

/** The last steps are done, or a stop is asked for: what follows is the final save, which may take long. */
function isEnding(job: JobState): boolean {
  return mustStop(job) || job.generation!.step >= job.record.job.train.steps;
}

/** Silent is not dead: with nobody in sight training may well go on. Only the grace for lost nodes ends that. */
function checkUnseen(turn: Turn, job: JobState, reason: string): void {
  const generation = job.generation!;
  let heardMs = turn.state.leader!.electedMs;
  for (const nodeId of generation.nodeRanks.keys()) {
    heardMs = Math.max(heardMs, turn.state.nodes.get(nodeId)?.heardMs ?? 0);
  }
  const graceMs = 1000 * job.record.job.recovery.node_grace_seconds;
  if (turn.nowMs < heardMs + graceMs) {
    enter(turn, job, "running", `${reason}; training may go on, waits ${graceMs / 1000} s to hear of it`);
    arm(turn, jobTimers.stall(job), Math.min(heardMs + graceMs, turn.nowMs + silenceMs(turn)));
    return;
  }
  const nodeIds = [...generation.nodeRanks.keys()].sort();
  const text = `${reason} for ${graceMs / 1000} s`;
  reportFaults(
    turn,
    job,
    nodeIds.map((nodeId) => faultOf({ atMs: turn.nowMs, source: "lost", code: "NODE_LOST", nodeId, text })),
  );
}

/** The first finished rank proves that the final state is durable for all. */
export function onRankFinished(turn: Turn, job: JobState, report: Report & { kind: "finished" }): void {
  const generation = job.generation!;
  const { rank, state, reason } = report;
  countFinished(generation, rank);
  if (generation.finished === null) {
    generation.finished = { state, reason };
    noteStep(turn, job, state.step);
    disarm(turn, jobTimers.stall(job));
    arm(turn, jobTimers.stage(job), turn.nowMs + turn.state.config.limits.finishMs);
  }
  tryComplete(turn, job, false);
}

export function countFinished(generation: GenerationState, rank: number): void {
  if (generation.reached[rank] === 1) return;
  generation.reached[rank] = 1;
  generation.reachedCount += 1;
}

/** @param overdue waiting is over: whoever has not told its end by now does not change that the state is durable */
export function tryComplete(turn: Turn, job: JobState, overdue: boolean): void {
  const generation = job.generation!;
  const { finished } = generation;
  if (finished === null || job.stage !== "running") return;
  const { worldSize } = generation.layout;
  const known = job.checkpoints.some((entry) => compareStates(entry.state, finished.state) >= 0);
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
  endJob(turn, job, { phase, code: null, reason: `${why} at step ${step}: ${told}` }, step);
}
