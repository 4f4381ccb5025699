import { deepEqual } from "../core/deep_equal.js";
import { type Refusal, reasonOf, refusedStatus, statusOf, unknownStatus } from "./job_status.js";
import type { JobEvent } from "./kube_api.js";
import {
  FINALIZER,
  isOver,
  RESUME_ANNOTATION,
  type TrainingJob,
  type TrainingJobStatus,
} from "./training_job.js";
import type { TrainedIncident, TrainedJob } from "./training_port.js";

/** Steps come many a second; the API server is told of mere progress no oftener than this. */
const PROGRESS_MS = 5_000;
/** A job that could not be taken for the time being (its name or folder is in use) is tried again after this. */
const RETRY_MS = 30_000;
/** Events about older incidents are not made any more: those that were have been forgotten by the API server, too. */
const TOLD_MS = 1_800_000;
/** Of an Event's message. */
const MESSAGE_MAX = 1_000;

export interface JobRef {
  name: string;
  uid: string;
}

export type JobAction =
  | { kind: "applyFinalizers"; job: JobRef; finalizers: string[] }
  | { kind: "submit"; job: JobRef; spec: Record<string, unknown>; resumeUri: string | null }
  | { kind: "stop"; job: JobRef; jobId: string }
  | { kind: "applyStatus"; job: JobRef; status: TrainingJobStatus }
  | { kind: "createEvent"; job: JobRef; event: JobEvent };

export interface JobInput {
  object: TrainingJob;
  /** All jobs that the controller knows, by id. */
  trained: ReadonlyMap<string, TrainedJob>;
  /** How the last try to submit ended, if it was refused. */
  refusal: Refusal | null;
  nowMs: number;
}

/**
 * What brings a TrainingJob and the controller's job together, from what is observed alone. Pure.
 *
 * The job's id is the object's uid, so that an answer that got lost, a new leader or an old cache never start a second
 * run. The finalizer comes first: a job that was taken is never left behind by a deletion that nobody saw.
 */
export function reconcileJob(input: JobInput): JobAction[] {
  const { object, trained } = input;
  const { uid, name, deletionTimestamp, finalizers = [] } = object.metadata;
  const job: JobRef = { name, uid };
  const mine = trained.get(object.status?.jobId ?? uid);
  const isHeld = finalizers.includes(FINALIZER);
  if (deletionTimestamp !== undefined) return isHeld ? remove(input, job, mine) : [];
  if (mine !== undefined) return [...hold(isHeld, job), ...tell(input, job, mine)];
  if (isOver(object.status)) return isHeld ? [{ kind: "applyFinalizers", job, finalizers: [] }] : [];
  if (object.status?.jobId !== undefined)
    return [{ kind: "applyStatus", job, status: unknownStatus(object, input.nowMs) }];
  if (!isHeld) return hold(isHeld, job);
  return submit(input, job);
}

function hold(isHeld: boolean, job: JobRef): JobAction[] {
  return isHeld ? [] : [{ kind: "applyFinalizers", job, finalizers: [FINALIZER] }];
}

/** Deleted: saves and stops, and lets the object go when that is done. */
function remove(input: JobInput, job: JobRef, mine: TrainedJob | undefined): JobAction[] {
  const told = mine === undefined ? [] : tell(input, job, mine);
  if (mine === undefined || mine.over) return [...told, { kind: "applyFinalizers", job, finalizers: [] }];
  return mine.phase === "STOPPING" ? told : [{ kind: "stop", job, jobId: mine.jobId }, ...told];
}

function submit({ object, refusal, nowMs }: JobInput, job: JobRef): JobAction[] {
  const told: JobAction[] = [];
  if (refusal !== null) {
    const status = refusedStatus(object, refusal, nowMs);
    if (!isSameStatus(object.status, status)) told.push({ kind: "applyStatus", job, status });
    if (refusal.final || nowMs - refusal.atMs < RETRY_MS) return told;
  }
  const resumeUri = object.metadata.annotations?.[RESUME_ANNOTATION] ?? null;
  return [...told, { kind: "submit", job, spec: { ...object.spec, name: job.name }, resumeUri }];
}

function tell({ object, nowMs }: JobInput, job: JobRef, mine: TrainedJob): JobAction[] {
  const events = mine.incidents.flatMap((incident) => eventsOf(job, incident, nowMs));
  const actions: JobAction[] = events.map((event) => ({ kind: "createEvent", job, event }));
  const status = statusOf(object, mine, nowMs);
  if (isDue(object.status, status, nowMs)) actions.push({ kind: "applyStatus", job, status });
  return actions;
}

/** Whether a status is to be written: at once where more than its progress changed. */
function isDue(before: TrainingJobStatus | undefined, after: TrainingJobStatus, nowMs: number): boolean {
  if (before === undefined || !isSameStatus(settled(before), settled(after))) return true;
  const writtenMs = Date.parse(before.trainerStatus?.lastUpdatedTime ?? "");
  return !isSameStatus(before, after) && !(nowMs - writtenMs < PROGRESS_MS);
}

/** Without what moves with every step. */
function settled(status: TrainingJobStatus): Partial<TrainingJobStatus> {
  const { step: _step, eta: _eta, loss: _loss, trainerStatus: _trainer, ...rest } = status;
  return rest;
}

/** The time of the write itself is no difference. */
function isSameStatus(a: Partial<TrainingJobStatus> | undefined, b: Partial<TrainingJobStatus>): boolean {
  return a !== undefined && deepEqual(timeless(a), timeless(b));
}

function timeless(status: Partial<TrainingJobStatus>): unknown {
  const { trainerStatus, ...rest } = status;
  if (trainerStatus === undefined) return rest;
  const { lastUpdatedTime: _time, ...progress } = trainerStatus;
  return { ...rest, trainerStatus: progress };
}

/** What `gokuctl why` says of an incident, under a name that makes a repetition the same event. */
export function eventsOf(job: JobRef, incident: TrainedIncident, nowMs: number): JobEvent[] {
  const { number, code, what, decision, outcome, openedAtMs, closedAtMs, stepsLost } = incident;
  const name = `${job.name}.${job.uid.slice(0, 8)}.${number}`;
  const about = { name: job.name, uid: job.uid };
  const events: JobEvent[] = [];
  if (nowMs - openedAtMs <= TOLD_MS) {
    // A better known cause is another event.
    const kind = code.toLowerCase().replaceAll("_", "-");
    const event = { name: `${name}.${kind}`, reason: reasonOf(code), message: what, atMs: openedAtMs };
    events.push({ ...event, type: "Warning", about });
  }
  if (closedAtMs !== null && nowMs - closedAtMs <= TOLD_MS) {
    const seconds = ((closedAtMs - openedAtMs) / 1000).toFixed(1);
    const lost = stepsLost === null ? "" : `, ${stepsLost} steps lost`;
    const message = `${outcome} after ${seconds} s${lost}: ${what}: ${decision}`.slice(0, MESSAGE_MAX);
    const isGood = outcome === "recovered";
    const event = { name: `${name}.${outcome}`, reason: isGood ? "Recovered" : "RecoveryFailed", message };
    events.push({ ...event, type: isGood ? "Normal" : "Warning", atMs: closedAtMs, about });
  }
  return events.map((event) => ({ ...event, message: event.message.slice(0, MESSAGE_MAX) }));
}
