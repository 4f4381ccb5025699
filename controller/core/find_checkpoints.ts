import { jobTraits } from "../../job/command_job.js";
import { addCheckpoints, checkpointsWrite, strikeCheckpoints } from "./checkpoints.js";
import type { Event } from "./contract.js";
import { persist } from "./durable.js";
import { chooseSource } from "./form.js";
import { isOver } from "./jobs.js";
import { recallReads } from "./read_back.js";
import { reform } from "./recover.js";
import type { JobState } from "./state.js";
import { stateText } from "./state_name.js";
import { arm, enter, jobTimers, log, type Turn } from "./turn.js";

/**
 * A periodic commit is told by one agent, that of rank 0. Where that is lost before a leader has written the news down, the
 * register lags behind the storage, which alone knows. So each generation asks it, before it goes back further than memory
 * reaches: to a checkpoint that may not be the newest, to initial values, or nowhere. True: an answer is waited for.
 */
export function askStorage(turn: Turn, job: JobState): boolean {
  const generation = job.generation!;
  const uri = jobTraits(job.record.job).checkpoint?.uri;
  // Before its first generation a job has committed nothing.
  if (uri === undefined || job.restarts === 0 || generation.storage !== "unasked") return false;
  const why = "its memory holds nothing as new as what may be there";
  enter(turn, job, "forming", `generation ${generation.number} looks what is committed in ${uri}: ${why}`);
  ask(turn, job, uri);
  return true;
}

/**
 * So does a job that is to end at what is durable, since its members cannot be reached, and a run before it goes back to an earlier
 * step: which it can go back to retention decides. For as long as a listing may take. True: an answer is waited for.
 */
export function awaitListing(turn: Turn, job: JobState, why: string): boolean {
  const { generation } = job;
  const uri = jobTraits(job.record.job).checkpoint?.uri;
  if (generation === null || uri === undefined || generation.storage === "answered") return false;
  const { storageMs, heartbeatMs } = turn.state.config.limits;
  if (generation.storage === "unasked") generation.deadlineMs = turn.nowMs + storageMs;
  else if (turn.nowMs >= generation.deadlineMs) {
    generation.storage = "answered";
    return false;
  }
  if (generation.storage !== "asked") ask(turn, job, uri);
  enter(turn, job, "waiting", `looks what is committed in ${uri}: ${why}`);
  arm(turn, jobTimers.stage(job), Math.min(generation.deadlineMs, turn.nowMs + heartbeatMs));
  return true;
}

function ask(turn: Turn, job: JobState, uri: string): void {
  const generation = job.generation!;
  generation.storage = "asked";
  const { jobId } = job.record;
  const known = job.checkpoints.map((entry) => ({ uri: entry.uri, state: entry.state }));
  turn.effects.push({ kind: "findCheckpoints", jobId, generation: generation.number, uri, known });
}

/** What is there may be restored, whichever generation has asked. */
export function onCheckpointsFound(turn: Turn, event: Event & { kind: "checkpointsFound" }): void {
  const job = turn.state.jobs.get(event.jobId);
  if (job === undefined || isOver(job)) return;
  const { jobId, generationFloor } = job.record;
  const { generation } = job;
  const isAwaited = generation?.number === event.generation && generation.storage === "asked";
  if (event.found === null) {
    const text = `what is committed cannot be listed: ${event.reason}`;
    log(turn, { level: "warning", type: "checkpoint", jobId, text });
    if (isAwaited) generation.storage = "failed";
    return;
  }
  // Those of an older run in the same folder are none of this job.
  const own = event.found.filter(({ state }) => state.generation > generationFloor);
  const told = own.map((entry) => ({ ...entry, seconds: 0 }));
  const added = addCheckpoints(turn, job, told);
  for (const { state, uri } of added) {
    const text = `${stateText(state)} is durable at ${uri}, which no agent has told`;
    log(turn, { level: "info", type: "checkpoint", jobId, text });
  }
  const struck = isAwaited ? strikeCheckpoints(job, event.gone) : [];
  for (const { state, uri } of struck) {
    const text = `${stateText(state)} is not at ${uri} any more: retention or a person has removed it`;
    log(turn, { level: "info", type: "checkpoint", jobId, text });
  }
  if (added.length + struck.length > 0) persist(turn, [checkpointsWrite(job)]);
  for (const entry of added) recallReads(turn, job, entry);
  if (isAwaited) goOn(turn, job);
}

/** Looked at now and then: a storage that failed is asked again until time is up. True: the generation goes on. */
export function checkStorage(turn: Turn, job: JobState, isOverdue: boolean): boolean {
  const { storage } = job.generation!;
  if (storage !== "asked" && storage !== "failed") return false;
  if (isOverdue) goOn(turn, job);
  else if (storage === "failed") ask(turn, job, jobTraits(job.record.job).checkpoint!.uri);
  return isOverdue;
}

/** From what is known by now; where a fault came in between, the way back from it does. */
function goOn(turn: Turn, job: JobState): void {
  job.generation!.storage = "answered";
  if (job.stage === "forming") chooseSource(turn, job);
  else if (job.stage === "waiting") reform(turn, job);
}
