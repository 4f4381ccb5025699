import { decide, mark } from "./incident.js";
import { orderKills } from "./reap.js";
import { reform } from "./recover.js";
import type { JobState } from "./state.js";
import { arm, enter, hasHeard, jobTimers, type Turn } from "./turn.js";
import { askAll } from "./watch_stall.js";

// All ranks wait in one collective, or none does: their pages do not tell who hangs. All are told to leave it, and who hangs
// does not answer. A rank that waits in a collective hears of that within milliseconds, so that one that still stands there
// when the others have answered is known soon; one that computes may be in the middle of something. Where messages are late,
// the abort and a question that was sent long after it reach a node at once: so all are asked at first whether they have heard
// of it, and only some time after the last has said so where their ranks are.

export function awaitAnswers(turn: Turn, job: JobState, what: string): void {
  decide(
    turn,
    job,
    "abort and see which ranks do not answer: their pages do not tell who holds the others up",
  );
  enter(turn, job, "answering", `${what}: looks for the ranks that do not answer`);
  job.generation!.asked = askAll(turn, job.generation!);
  arm(turn, jobTimers.stage(job), turn.nowMs + turn.state.config.limits.answerMs);
}

/** Those who have heard of the abort have had time to leave, or all time is over. */
export function onAnswersDue(turn: Turn, job: JobState): void {
  const generation = job.generation!;
  const { answerMs, answerSoonMs } = turn.state.config.limits;
  if (generation.asked !== null) {
    finishAnswering(turn, job);
    return;
  }
  generation.askedAgainId = turn.state.commandLast;
  generation.asked = askAll(turn, generation);
  arm(turn, jobTimers.stage(job), Math.max(generation.abortedMs + answerMs, turn.nowMs + answerSoonMs));
}

/** A node tells where its ranks are: an answer, if it has heard what it was asked. */
export function onAnswerPages(turn: Turn, job: JobState, nodeId: string): void {
  const generation = job.generation!;
  const { asked, askedAgainId } = generation;
  if (asked === null || !hasHeard(turn, generation, nodeId, askedAgainId) || !asked.delete(nodeId)) return;
  if (askedAgainId > 0) {
    if (isClear(turn, job)) finishAnswering(turn, job);
  } else if (asked.size === 0) {
    generation.asked = null;
    arm(turn, jobTimers.stage(job), turn.nowMs + turn.state.config.limits.answerSoonMs);
  }
}

/** Whoever has not answered stands in its collective still, long after its node has heard of the abort. */
function isClear(turn: Turn, job: JobState): boolean {
  const { answered, asked, rankNodes, pages } = job.generation!;
  if (answered.size === 0) return false;
  return rankNodes.every((nodeId, rank) => {
    if (answered.has(rank) || hasMoved(job, rank)) return true;
    const page = pages[rank];
    const waits = page != null && page.entered > page.completed;
    return waits && !asked!.has(nodeId) && hasHeard(turn, job.generation!, nodeId);
  });
}

function hasMoved(job: JobState, rank: number): boolean {
  const { pages, changedMs, abortedMs } = job.generation!;
  const phase = pages[rank]?.phase;
  return phase === "idle" || phase === "forming" || changedMs[rank]! > abortedMs;
}

/** Time for answers is over, or enough is known: silent ranks hang. */
export function finishAnswering(turn: Turn, job: JobState): void {
  const generation = job.generation!;
  generation.asked = null;
  mark(turn, job, "aborted");
  const silent: number[] = [];
  for (const [rank, nodeId] of generation.rankNodes.entries()) {
    if (generation.answered.has(rank) || !hasHeard(turn, generation, nodeId)) continue;
    if (!hasMoved(job, rank)) silent.push(rank);
  }
  if (silent.length === 0) {
    reform(turn, job);
    return;
  }
  orderKills(turn, job, silent, "it did not answer the abort");
}
