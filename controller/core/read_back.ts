import { checkpointsWrite } from "./checkpoints.js";
import { FOUND_DAMAGED } from "./choose_restore.js";
import type { CheckpointEntry, StateName } from "./contract.js";
import { persist } from "./durable.js";
import type { JobState } from "./state.js";
import { sameState, stateText } from "./state_name.js";
import { log, observe, type Turn } from "./turn.js";
import type { Report } from "./wire.js";

type ReadReport = Report & { kind: "checkpointRead" };

/** Reports of checkpoints that are not in the register, yet or any more; the newest. */
const EARLY_COUNT_MAX = 32;
export interface EarlyRead {
  nodeId: string;
  report: ReadReport;
}

/** What of a checkpoint its writers have read back and found whole, since this controller leads. */
export interface ReadParts {
  state: StateName;
  writers: Set<number>;
  of: number;
  /** When the last of them was told. */
  atMs: number;
}

export interface ReadView {
  /** All of them, `of`: the checkpoint is verified. */
  whole: number;
  of: number;
  atMs: number;
}

/**
 * A node has read back its parts of a checkpoint. One that is damaged is not restored from, durably, as if a restore had found it:
 * the next source is taken at once, in place of after a failed attempt. Training goes on. What the register does not hold may
 * be told later.
 */
export function onCheckpointRead(turn: Turn, job: JobState, nodeId: string, report: ReadReport): void {
  const { state, uri, writers, of, damage } = report;
  forgetDropped(job);
  const entry = job.checkpoints.find((one) => one.uri === uri && sameState(one.state, state));
  if (entry === undefined) {
    job.readEarly = [...job.readEarly.slice(1 - EARLY_COUNT_MAX), { nodeId, report }];
    return;
  }
  if (damage !== null) {
    onDamage(turn, job, nodeId, { entry, damage });
    return;
  }
  const parts = job.readBack.get(uri) ?? { state, writers: new Set<number>(), of, atMs: turn.nowMs };
  const before = parts.writers.size;
  for (const writer of writers) if (writer < parts.of) parts.writers.add(writer);
  job.readBack.set(uri, parts);
  if (parts.writers.size === before) return; // told again
  parts.atMs = turn.nowMs;
  if (parts.writers.size < parts.of) return;
  observe(turn, "goku_checkpoint_verified_total", 1, { job: job.record.job.name, result: "whole" });
  const text = `${stateText(state)} at ${uri} was read back: each of its ${parts.of} parts is as it was written`;
  log(turn, { level: "info", type: "checkpoint", jobId: job.record.jobId, text });
}

/** A commit is told by one agent, and may be after others have read their parts: what these said of it counts now. */
export function recallReads(turn: Turn, job: JobState, { uri, state }: CheckpointEntry): void {
  const isOf = ({ report }: EarlyRead) => report.uri === uri && sameState(report.state, state);
  const early = job.readEarly.filter(isOf);
  job.readEarly = job.readEarly.filter((each) => !isOf(each));
  for (const { nodeId, report } of early) onCheckpointRead(turn, job, nodeId, report);
}

function onDamage(
  turn: Turn,
  job: JobState,
  nodeId: string,
  { entry, damage }: { entry: CheckpointEntry; damage: string },
): void {
  if (entry.unusable !== null) return;
  entry.unusable = `${FOUND_DAMAGED}${damage}`;
  persist(turn, [checkpointsWrite(job)]);
  const { jobId, job: spec } = job.record;
  observe(turn, "goku_checkpoint_verified_total", 1, { job: spec.name, result: "damaged" });
  const kept = job.checkpoints.findLast((one) => one.unusable === null);
  const rest = kept === undefined ? "no other is known" : `${kept.uri} is the newest that is left`;
  const text = `${stateText(entry.state)} at ${entry.uri} is damaged, as ${nodeId} read it back (${damage}): it is not restored from, ${rest}; training goes on, gokuctl save ${spec.name} makes a new one`;
  log(turn, { level: "alarm", type: "alarm", jobId, nodeId, text });
}

/** Those that retention has dropped, or a later state of the same step has replaced. */
function forgetDropped(job: JobState): void {
  for (const [uri, { state }] of job.readBack)
    if (!job.checkpoints.some((entry) => entry.uri === uri && sameState(entry.state, state)))
      job.readBack.delete(uri);
}

/** Null: nobody has told that he read any of it. */
export function readView(job: JobState, { uri, state }: CheckpointEntry): ReadView | null {
  const parts = job.readBack.get(uri);
  if (parts === undefined || !sameState(parts.state, state)) return null;
  return { whole: parts.writers.size, of: parts.of, atMs: parts.atMs };
}
