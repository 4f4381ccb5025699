import { type CommandJob, isCommandJob } from "../../job/command_job.js";
import { persist } from "./durable.js";
import { closeIncident, mark } from "./incident.js";
import { endJob } from "./jobs.js";
import { faultOf, lostFaults } from "./judge_fault.js";
import { judgePrograms } from "./judge_programs.js";
import { goOnElsewhere } from "./leave.js";
import { reportFaults } from "./recover.js";
import { countFinished } from "./run.js";
import { sight } from "./sight.js";
import { beatLimitMs } from "./stall_limit.js";
import type { GenerationState, JobState } from "./state.js";
import { arm, heardMs, isInSight, jobTimers, pageAgeMs, silenceMs, type Turn } from "./turn.js";
import type { Report } from "./wire.js";

/**
 * What is different about a job whose ranks run a program of its own: we hold no state of it, so nothing is saved,
 * replicated or restored; it shows progress by heartbeats, if at all; and it is done when every rank has ended well.
 * Everything else (members, faults, attempts, incidents, a node that leaves) is as for ranks of ours.
 */

/** The looks of such a job in `trainer`; null: its ranks are ours. */
export function programOf(job: JobState): CommandJob["trainer"] | null {
  const { job: spec } = job.record;
  return isCommandJob(spec) ? spec.trainer : null;
}

/** Looks again and again, since one that hangs may leave others beating: names who does not beat, and nodes that are gone. */
export function checkPrograms(turn: Turn, job: JobState, { heartbeat }: CommandJob["trainer"]): void {
  const generation = job.generation!;
  noteProgramsBack(turn, job);
  const lost = lostNodes(turn, job, generation);
  if (lost.length > 0) {
    const text = (nodeId: string) => `${nodeId} is silent, and its programs show no progress`;
    reportFaults(turn, job, lostFaults(turn.nowMs, lost, text));
    return;
  }
  const limitMs = programLimitMs(turn, job);
  const verdict = judgePrograms(sight(turn, generation), { limitMs, required: heartbeat === "required" });
  if (verdict === null) {
    arm(turn, jobTimers.stall(job), turn.nowMs + silenceMs(turn));
    return;
  }
  const base = { atMs: turn.nowMs, source: "stall", code: "RANK_STALLED" } as const;
  const { late, reason: text } = verdict;
  const named = late.map(({ rank, nodeId }) =>
    faultOf({ ...base, rank, nodeId, operation: "program", text, remedy: "kill" }),
  );
  reportFaults(turn, job, named.length > 0 ? named : [faultOf({ ...base, operation: "program", text })]);
}

function programLimitMs(turn: Turn, job: JobState): number {
  const floorMs = 1000 * job.record.job.recovery.stall_seconds;
  const learnt = beatLimitMs({ stepTimesMs: job.stepTimesMs, floorMs });
  return Math.max(learnt, pageAgeMs(turn));
}

/**
 * Members whose agents have been silent for too long: three silences, counted anew while heartbeats of others come, but
 * never more than the grace for lost nodes. With nobody in sight the controller may be the one cut off: then the grace.
 */
function lostNodes(turn: Turn, job: JobState, generation: GenerationState): string[] {
  const { nowMs } = turn;
  const graceMs = 1000 * job.record.job.recovery.node_grace_seconds;
  const nodeIds = [...generation.nodeRanks.keys()];
  const someoneIsThere = nodeIds.some((nodeId) => isInSight(turn, nodeId));
  let beatMs = 0;
  for (const [rank, page] of generation.pages.entries()) {
    const nodeId = generation.rankNodes[rank]!;
    const beats = page !== null && page.microStep > 0 && isInSight(turn, nodeId);
    if (beats) beatMs = Math.max(beatMs, generation.changedMs[rank]!);
  }
  return nodeIds
    .filter((nodeId) => {
      const heard = heardMs(turn, nodeId);
      const soonMs = Math.max(heard, beatMs) + 3 * silenceMs(turn);
      const lateMs = heard + graceMs;
      return nowMs >= (someoneIsThere ? Math.min(soonMs, lateMs) : lateMs);
    })
    .sort();
}

/**
 * An incident ends when the programs that were started again beat; where none is known to, they run again, and that is
 * all that can be said. One that tells steps ends it by a step (see `onPages`), if not by its first heartbeat.
 */
export function noteProgramsBack(turn: Turn, job: JobState): void {
  const trainer = programOf(job);
  const generation = job.generation!;
  if (trainer === null || job.incident === null || generation.draining.size > 0) return;
  const beats = trainer.heartbeat === "required" || job.stepHighest > 0;
  const beaten = generation.pages.some((page) => page !== null && page.microStep > 0);
  if (beats && !beaten) return;
  mark(turn, job, "stepped");
  persist(turn, closeIncident(turn, job, "recovered"));
}

/** A program that tells no steps and has run for long has got somewhere, as far as anybody can know. */
export function forgiveAttempts(turn: Turn, job: JobState): void {
  const generation = job.generation!;
  if (programOf(job) === null || job.stepHighest > 0 || generation.stage !== "run") return;
  if (turn.nowMs - generation.runMs >= turn.state.config.limits.programSteadyMs) job.attempts = 0;
}

/** One rank's program has ended well. The job is done with the last of them: until then any may still fail. */
export function onProgramFinished(turn: Turn, job: JobState, report: Report & { kind: "finished" }): void {
  const generation = job.generation!;
  const { rank, state, reason } = report;
  countFinished(generation, rank);
  generation.step = Math.max(generation.step, state.step);
  if (reason === "stop") generation.programsStopped = true;
  if (generation.reachedCount < generation.layout.worldSize) return;
  const stopped = generation.programsStopped;
  const end = { generation: generation.number, step: generation.step };
  generation.finished = { state: end, reason: stopped ? "stop" : "steps" };
  if (stopped && job.record.stop === null) {
    goOnElsewhere(turn, job, end);
    return;
  }
  const told = `all ${generation.layout.worldSize} programs ended`;
  const reasonText = stopped ? `stopped as asked: ${told}` : `${told} with exit code 0`;
  endJob(turn, job, { phase: stopped ? "STOPPED" : "COMPLETED", code: null, reason: reasonText }, end.step);
}
