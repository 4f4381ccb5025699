import { jobTraits } from "../../job/command_job.js";
import type {
  CheckpointEntry,
  CheckpointSource,
  CheckpointsRecord,
  DurableWrite,
  StateName,
} from "./contract.js";
import { durableKeys } from "./contract.js";
import { persist } from "./durable.js";
import { recallReads } from "./read_back.js";
import { isGivenUp } from "./roll_back.js";
import type { JobState, NodeState } from "./state.js";
import { compareStates, sameState, stateText } from "./state_name.js";
import { log, observe, type Turn } from "./turn.js";
import type { Report } from "./wire.js";

/** Registers a committed checkpoint, whatever generation it is from: what is durable can be restored. */
export function onSaved(
  turn: Turn,
  job: JobState,
  node: NodeState,
  report: Report & { kind: "saved" },
): void {
  const { state, uri, bytes, seconds } = report;
  endSaveAlarm(turn, job, state);
  const told = { uri, state, bytes, seconds, committedAtMs: turn.nowMs };
  const [added] = addCheckpoints(turn, job, [told]);
  if (added === undefined) return;
  const own = { job: job.record.job.name };
  observe(turn, "goku_checkpoint_seconds", seconds, own);
  observe(turn, "goku_checkpoint_written_bytes_total", bytes, own);
  log(turn, {
    level: "info",
    type: "checkpoint",
    jobId: job.record.jobId,
    nodeId: node.nodeId,
    text: `${stateText(state)} is durable at ${uri} (${bytes} bytes in ${seconds.toFixed(1)} s)`,
  });
  persist(turn, [checkpointsWrite(job)]);
  recallReads(turn, job, added);
}

/**
 * Those that are news. They are told by several agents and repeated, also late: by then the run may have come to the same step
 * again, or retention have dropped them. Whoever adds some writes the register.
 */
export function addCheckpoints(
  turn: Turn,
  job: JobState,
  told: readonly Omit<CheckpointEntry, "unusable">[],
): CheckpointEntry[] {
  const news = new Set<CheckpointEntry>();
  for (const one of told) {
    const { uri, state } = one;
    if (job.checkpoints.some((entry) => entry.uri === uri && compareStates(entry.state, state) >= 0))
      continue;
    job.excludedCheckpoints.delete(uri);
    const isUndone = isGivenUp(job.record.rollBacks, state);
    const entry = { ...one, unusable: isUndone ? "the run went back to a step before it" : null };
    news.add(entry);
    job.checkpoints = [...job.checkpoints.filter((other) => other.uri !== uri), entry];
  }
  job.checkpoints.sort((x, y) => compareStates(x.state, y.state));
  job.checkpoints = retain(job);
  const added = job.checkpoints.filter((entry) => news.has(entry));
  const { name } = job.record.job;
  if (added.length > 0) observe(turn, "goku_checkpoints_committed_total", added.length, { job: name });
  return added;
}

/** What storage does not hold: the commits of what retention has removed are told again, late, and by every agent. */
export function strikeCheckpoints(job: JobState, gone: readonly CheckpointSource[]): CheckpointEntry[] {
  const isGone = (entry: CheckpointEntry) =>
    gone.some(({ uri, state }) => uri === entry.uri && sameState(state, entry.state));
  const struck = job.checkpoints.filter(isGone);
  job.checkpoints = job.checkpoints.filter((entry) => !isGone(entry));
  return struck;
}

/** The state that could not be saved, or a newer one, is durable. */
function endSaveAlarm(turn: Turn, job: JobState, state: StateName): void {
  if (job.saveAlarm === null || compareStates(state, job.saveAlarm) < 0) return;
  job.saveAlarm = null;
  const text = `saves succeed again: ${stateText(state)} is durable`;
  log(turn, { level: "info", type: "alarm", jobId: job.record.jobId, text });
}

/** A failed save never stops training. People hear of it once, whoever else failed in it and however often it is told. */
export function onSaveFailed(
  turn: Turn,
  job: JobState,
  node: NodeState,
  report: Report & { kind: "saveFailed" },
): void {
  if (job.saveAlarm !== null && sameState(job.saveAlarm, report.state)) return;
  job.saveAlarm = report.state;
  const kept = job.checkpoints.findLast((entry) => entry.unusable === null);
  const older = kept === undefined ? "nothing is durable yet" : `${kept.uri} stays the newest`;
  observe(turn, "goku_checkpoints_failed_total", 1, { job: job.record.job.name });
  log(turn, {
    level: "alarm",
    type: "alarm",
    jobId: job.record.jobId,
    nodeId: node.nodeId,
    text: `saving ${stateText(report.state)} failed on ${node.nodeId} (${report.error.code}: ${report.error.message}); training goes on, ${older}`,
  });
}

/** Nothing is at risk but room: people are warned once, and told when old checkpoints go again. */
export function onRetentionEnded(
  turn: Turn,
  job: JobState,
  { state, error }: Report & { kind: "retentionEnded" },
): void {
  if (job.retentionFailing === (error !== null)) return;
  job.retentionFailing = error !== null;
  const text =
    error === null
      ? `old checkpoints are removed again, after ${stateText(state)}`
      : `${stateText(state)} is durable, but older checkpoints cannot be removed and fill the storage (${error.code}: ${error.message}); tried again after each save, gokuctl ckpt prune removes them`;
  const level = error === null ? "info" : "warning";
  log(turn, { level, type: "checkpoint", jobId: job.record.jobId, text });
}

/** Checkpoints kept for their step alone that a job remembers, newest kept: its record is written at every save. */
const EVERY_COUNT_MAX = 100;

/** The newest keep_last that can be restored, whatever stands between them, and older ones that retention keeps. */
function retain(job: JobState): JobState["checkpoints"] {
  const { checkpoint } = jobTraits(job.record.job);
  if (checkpoint === null) return job.checkpoints;
  const { keep_last, keep_every } = checkpoint;
  let usable = 0;
  let first = job.checkpoints.length;
  while (first > 0 && usable < keep_last) {
    first -= 1;
    if (job.checkpoints[first]!.unusable === null) usable += 1;
  }
  const older = job.checkpoints.slice(0, first);
  const kept = older.filter(({ state }) => keep_every !== null && state.step % keep_every === 0);
  return [...kept.slice(-EVERY_COUNT_MAX), ...job.checkpoints.slice(first)];
}

export function checkpointsWrite(job: JobState): DurableWrite {
  const { jobId } = job.record;
  const record: CheckpointsRecord = { kind: "checkpoints", jobId, entries: structuredClone(job.checkpoints) };
  return { key: durableKeys.checkpoints(jobId), record };
}
