import { jobJson } from "../controller/api/json.js";
import { JobPhase, type JobStatus, type WatchEventsResponse } from "../gen/goku/v1/controller.pb.js";
import { bar, duration, fields, number, type Output, show, table } from "./output.js";

export function phaseName(phase: JobPhase): string {
  return JobPhase[phase];
}

/** Phases that a job does not leave. */
export function isOver(phase: JobPhase): boolean {
  return phase === JobPhase.COMPLETED || phase === JobPhase.STOPPED || phase === JobPhase.FAILED;
}

function layoutText({ layout }: JobStatus): string {
  return layout ? `${layout.dpReplicate}x${layout.dpShard}x${layout.sp}` : "-";
}

export function showJob(output: Output, job: JobStatus | undefined): void {
  show(output, job ? jobJson(job) : null, () => (job ? jobDetail(job) : "No job"));
}

export function jobsTable(jobs: JobStatus[]): string {
  if (jobs.length === 0) return "No jobs; submit one with: gokuctl train FILE";
  return table(
    ["NAME", "PHASE", "STEP", "LOSS", "LAYOUT", "TOKENS/S", "ETA", "INCIDENTS", "CHECKPOINT"],
    jobs.map((job) => [
      job.name,
      phaseName(job.phase),
      `${job.step}/${job.stepsTotal}`,
      number(job.loss),
      layoutText(job),
      job.tokensPerSecond === undefined ? "-" : Math.round(job.tokensPerSecond),
      duration(job.etaSeconds),
      job.incidents,
      job.checkpointUri === "" ? "-" : `step ${job.checkpointStep}`,
    ]),
  );
}

export function jobDetail(job: JobStatus): string {
  const nodes = job.rankNodes.map((node, rank) => `${rank} on ${node}`).join(", ");
  return fields([
    ["job", job.name],
    ["phase", phaseName(job.phase)],
    ["reason", job.reason],
    ["progress", progressLine(job)],
    ["loss", number(job.loss)],
    ["gradient norm", number(job.gradNorm)],
    ["step time", duration(job.stepSeconds)],
    ["tokens/s", job.tokensPerSecond === undefined ? "-" : Math.round(job.tokensPerSecond)],
    ["layout", layoutText(job)],
    ["generation", String(job.generation)],
    ["ranks", nodes],
    ["checkpoint", job.checkpointUri],
    ["replicated", job.replicatedStep === undefined ? "-" : `step ${job.replicatedStep}`],
    ["protection", job.protection],
    ["incidents", job.incidents === 0 ? "none" : `${job.incidents} (gokuctl why)`],
    ["error", job.error ? `${job.error.code}: ${job.error.message}` : null],
  ]);
}

export function progressLine(job: JobStatus): string {
  const total = Number(job.stepsTotal);
  const done = total === 0 ? 0 : Number(job.step) / total;
  return `${bar(done)} ${job.step}/${job.stepsTotal} ${(100 * done).toFixed(0)} %  ETA ${duration(job.etaSeconds)}`;
}

export function eventLine(event: WatchEventsResponse): string {
  const time = event.time ? event.time.toISOString().slice(11, 23) : "";
  return `${time}  ${event.kind.padEnd(10)}  ${event.message}`;
}
