import { isCommandJob } from "../../job/command_job.js";
import { type SlowSubject, slowSubjects, subjectKey } from "./pace.js";
import { replaceFirst, type Unwanted } from "./replace_node.js";
import type { GenerationState, JobState } from "./state.js";
import { log, observe, send, type Turn } from "./turn.js";

/** A message to every node: a tenth of the messages of a cluster's heartbeats. */
const SCORES_MS = 15_000;

/** A round of steps is over on every rank: people hear once of what has become slow, and once of what is so no more. */
export function onRound(turn: Turn, job: JobState): void {
  const { pace, nodeRanks } = job.generation!;
  const subjects = slowSubjects(pace, nodeRanks);
  const told = new Map(subjects.map((subject) => [subjectKey(subject), subject]));
  for (const [key, subject] of told) if (!pace.told.has(key)) tellSlow(turn, job, subject);
  const slow = new Set(pace.verdict!.slow);
  for (const [key, subject] of pace.told) {
    // What is left of a slow node, or has become one, was told above.
    if (!told.has(key) && !subject.ranks.some((rank) => slow.has(rank))) tellOver(turn, job, subject);
  }
  pace.told = told;
  tellScores(turn, job.generation!);
  replaceSlowest(turn, job, subjects);
}

/** Agents show how slow their own ranks are: one series for each rank would be too many here. */
function tellScores(turn: Turn, generation: GenerationState): void {
  const { pace, nodeRanks, number } = generation;
  if (turn.nowMs < generation.scoresMs + SCORES_MS) return;
  generation.scoresMs = turn.nowMs;
  const { typical } = pace.verdict!;
  for (const [nodeId, all] of nodeRanks) {
    const ranks = all.filter((rank) => Number.isFinite(typical[rank]));
    const slowness = ranks.map((rank) => typical[rank]!);
    if (ranks.length === 0) continue;
    const value = { generation: BigInt(number), ranks, slowness };
    send(turn, turn.state.nodes.get(nodeId), { $case: "rankScores", value });
  }
}

/** The next generation is judged anew. */
export function forgetStragglers(turn: Turn, job: JobState): void {
  for (const subject of job.generation?.pace.told.values() ?? []) {
    const text = `${subjectText(subject)} was slow; the next generation is judged anew`;
    log(turn, { level: "info", type: "straggler", ...placeOf(job, subject), text });
  }
}

function tellSlow(turn: Turn, job: JobState, subject: SlowSubject): void {
  const text = `${subjectText(subject)} is slow: ${subject.evidence}`;
  log(turn, { level: "warning", type: "straggler", ...placeOf(job, subject), text });
  const kind = subject.rank === null ? "node" : "rank";
  observe(turn, "goku_stragglers_total", 1, { job: job.record.job.name, kind });
}

function tellOver(turn: Turn, job: JobState, subject: SlowSubject): void {
  const { typical } = job.generation!.pace.verdict!;
  const slowness = Math.max(...subject.ranks.map((rank) => typical[rank]!));
  const text = `${subjectText(subject)} is slow no more: ${slowness.toFixed(2)} times the time of the others`;
  log(turn, { level: "info", type: "straggler", ...placeOf(job, subject), text });
}

function placeOf(job: JobState, { nodeId }: SlowSubject): { jobId: string; nodeId: string } {
  return { jobId: job.record.jobId, nodeId };
}

function subjectText({ nodeId, rank, ranks }: SlowSubject): string {
  return rank === null ? `${nodeId} with all of its ${ranks.length} ranks` : `rank ${rank} on ${nodeId}`;
}

/** Where the job says so and a node is free that can take them, the ranks of the slowest node go there. */
function replaceSlowest(turn: Turn, job: JobState, subjects: readonly SlowSubject[]): void {
  const { job: spec } = job.record;
  if (isCommandJob(spec) || !spec.recovery.replace_stragglers) return;
  if (turn.nowMs < job.replacedMs + turn.state.config.limits.replaceSlowMs) return;
  const unwanted = subjects.map((subject): Unwanted => {
    const { nodeId, rank, evidence } = subject;
    const who = subjectText(subject);
    return { nodeId, rank, code: "RANK_SLOW", what: `${who} is slow`, evidence: `${who}: ${evidence}` };
  });
  if (replaceFirst(turn, job, unwanted)) job.replacedMs = turn.nowMs;
}
