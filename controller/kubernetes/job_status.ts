import type { Condition, TrainingJob, TrainingJobPhase, TrainingJobStatus } from "./training_job.js";
import type { TrainedIncident, TrainedJob } from "./training_port.js";

/** Why a job was not taken. `final`: it will not be tried again. */
export interface Refusal {
  code: string;
  message: string;
  atMs: number;
  final: boolean;
}

type Condition3 = Pick<Condition, "status" | "reason" | "message">;

/** The status that says where a job stands. Pure; times of conditions that did not change are kept. */
export function statusOf(object: TrainingJob, job: TrainedJob, nowMs: number): TrainingJobStatus {
  const phase = phaseOf(job);
  const percent = percentOf(job);
  const last = job.incidents.at(-1);
  return {
    ...base(object, phase, job.reason),
    jobId: job.jobId,
    step: job.step,
    ...(job.stepsTotal === null ? {} : { stepsTotal: job.stepsTotal }),
    ...(job.etaSeconds === null ? {} : { eta: durationText(job.etaSeconds) }),
    ...(job.loss === null ? {} : { loss: job.loss.toPrecision(4) }),
    ...(job.layout === null ? {} : { layout: job.layout }),
    generation: job.generation,
    ...(job.checkpoint === null ? {} : { checkpoint: job.checkpoint }),
    incidents: job.incidents.length,
    ...(last === undefined ? {} : { lastIncident: incidentOf(last) }),
    trainerStatus: {
      ...(percent === null ? {} : { progressPercentage: percent }),
      ...(job.etaSeconds === null ? {} : { estimatedRemainingSeconds: Math.round(job.etaSeconds) }),
      metrics: metricsOf(job),
      lastUpdatedTime: timeOf(nowMs),
    },
    conditions: conditions(object, nowMs, {
      Accepted: yes("Submitted", `submitted as job ${job.jobId}`),
      Running: phase === "Running" ? yes("Training", job.reason) : no(phase, job.reason),
      Recovering: phase === "Recovering" ? yes(reasonOf(last?.code ?? phase), job.reason) : no(phase, ""),
      Complete: phase === "Completed" ? yes("Completed", job.reason) : no(phase, ""),
      Failed: phase === "Failed" ? yes(reasonOf(job.code ?? "INTERNAL"), job.reason) : no(phase, ""),
    }),
  };
}

/** The status of an object whose job the controller did not take, or not yet. */
export function refusedStatus(object: TrainingJob, refusal: Refusal, nowMs: number): TrainingJobStatus {
  const phase = refusal.final ? "Rejected" : "Queued";
  const reason = reasonOf(refusal.code);
  return {
    ...base(object, phase, refusal.message),
    conditions: conditions(object, nowMs, {
      Accepted: no(reason, refusal.message),
      Failed: refusal.final ? yes(reason, refusal.message) : no(phase, ""),
    }),
  };
}

/** The controller's records do not know the job that the object says it became. */
export function unknownStatus(object: TrainingJob, nowMs: number): TrainingJobStatus {
  const status = object.status!;
  const at = status.checkpoint === undefined ? "" : `; its newest checkpoint was ${status.checkpoint.uri}`;
  const text = `the controller does not know job ${status.jobId} any more: its store was replaced or set back${at}; apply it under another name with the annotation goku.dev/resume-from to go on`;
  return {
    ...status,
    ...base(object, "Failed", text),
    conditions: conditions(object, nowMs, {
      Accepted: yes("Submitted", `submitted as job ${status.jobId}`),
      Running: no("Failed", text),
      Failed: yes("JobUnknown", text),
    }),
  };
}

function base(object: TrainingJob, phase: TrainingJobPhase, reason: string) {
  return { observedGeneration: object.metadata.generation ?? 0, phase, reason };
}

function phaseOf({ phase }: TrainedJob): TrainingJobPhase {
  return `${phase[0]}${phase.slice(1).toLowerCase()}` as TrainingJobPhase;
}

function percentOf({ step, stepsTotal }: TrainedJob): number | null {
  return stepsTotal === null || stepsTotal === 0
    ? null
    : Math.min(100, Math.floor((100 * step) / stepsTotal));
}

function metricsOf(job: TrainedJob): { name: string; value: string }[] {
  const known = { loss: job.loss, tokens_per_second: job.tokensPerSecond };
  return Object.entries(known).flatMap(([name, value]) =>
    value === null ? [] : [{ name, value: value.toPrecision(4) }],
  );
}

function incidentOf(incident: TrainedIncident): NonNullable<TrainingJobStatus["lastIncident"]> {
  const { number, code, what, decision, outcome, openedAtMs } = incident;
  return { number, code, what, decision, outcome, detectedAt: timeOf(openedAtMs) };
}

const yes = (reason: string, message: string): Condition3 => ({ status: "True", reason, message });
const no = (reason: string, message: string): Condition3 => ({ status: "False", reason, message });

/** The time of a condition is when its status changed, not its reason. */
function conditions(
  object: TrainingJob,
  nowMs: number,
  wanted: Partial<Record<Condition["type"], Condition3>>,
): Condition[] {
  return (Object.entries(wanted) as [Condition["type"], Condition3][]).map(([type, condition]) => {
    const before = object.status?.conditions?.find((one) => one.type === type);
    return {
      type,
      ...condition,
      observedGeneration: object.metadata.generation ?? 0,
      lastTransitionTime: before?.status === condition.status ? before.lastTransitionTime : timeOf(nowMs),
    };
  });
}

/** Kubernetes writes reasons in camel case: RANK_DIED is RankDied. */
export function reasonOf(code: string): string {
  return code
    .split("_")
    .map((word) => `${word.slice(0, 1).toUpperCase()}${word.slice(1).toLowerCase()}`)
    .join("");
}

export function timeOf(ms: number): string {
  return new Date(ms).toISOString().replace(/\.\d+Z$/, "Z");
}

/** As kubectl shows ages: the two greatest units. */
export function durationText(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const units = [
    [86_400, "d"],
    [3_600, "h"],
    [60, "m"],
    [1, "s"],
  ] as const;
  const first = units.findIndex(([size]) => whole >= size);
  if (first === -1) return "0s";
  const [size, name] = units[first]!;
  const rest = units[first + 1];
  const more = rest === undefined ? 0 : Math.floor((whole % size) / rest[0]);
  return `${Math.floor(whole / size)}${name}${more > 0 ? `${more}${rest![1]}` : ""}`;
}
