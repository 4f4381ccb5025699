import { jobJson } from "../controller/api/json.js";
import {
  type AvoidedNode,
  JobPhase,
  type JobStatus,
  type WatchEventsResponse,
} from "../gen/goku/v1/controller.pb.js";
import { heatMap } from "./heat_map.js";
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
      stepText(job),
      number(job.loss),
      layoutText(job),
      job.tokensPerSecond === undefined ? "-" : Math.round(job.tokensPerSecond),
      duration(job.etaSeconds),
      job.incidents,
      job.checkpointUri === "" ? "-" : `step ${job.checkpointStep}`,
    ]),
  );
}

/** Runs of ranks on a node that are told in full. */
const PLACES_COUNT_MAX = 16;
/** Stragglers told in full. */
const STRAGGLERS_COUNT_MAX = 4;

/** @param size of the heat map of its ranks */
export function jobDetail(
  job: JobStatus,
  size = { columns: process.stdout.columns ?? 120, rows: 24 },
): string {
  return [jobFields(job), ...heatMap(job, size), ...stragglerLines(job)].join("\n");
}

function stragglerLines({ stragglers }: JobStatus): string[] {
  const shown = stragglers
    .slice(0, STRAGGLERS_COUNT_MAX)
    .map(
      ({ nodeId, rank, evidence }) =>
        `  ${rank === undefined ? nodeId : `rank ${rank} on ${nodeId}`}: ${evidence}`,
    );
  const more = stragglers.length - shown.length;
  return more > 0 ? [...shown, `  and ${more} slow ranks or nodes more`] : shown;
}

function jobFields(job: JobStatus): string {
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
    ["ranks", placesText(job.rankNodes)],
    ["checkpoint", checkpointText(job)],
    ["replicated", job.replicatedStep === undefined ? "-" : `step ${job.replicatedStep}`],
    ["protection", job.protection],
    ["spare nodes", job.spares],
    ["avoided nodes", job.avoided.map(avoidedText).join("; ") || null],
    ["in doubt", job.doubt || null],
    ["left out", missedText(job)],
    ["steps given up", job.stepsGivenUp > 0n ? String(job.stepsGivenUp) : null],
    ["incidents", job.incidents === 0 ? "none" : `${job.incidents} (gokuctl why)`],
    ["error", job.error ? `${job.error.code}: ${job.error.message}` : null],
  ]);
}

function checkpointText({ checkpointUri: uri, checkpointRead: read }: JobStatus): string {
  if (uri === "") return "";
  if (read === undefined) return `${uri} (not read since)`;
  if (read.whole < read.of) return `${uri} (${read.whole} of ${read.of} parts read back, whole)`;
  return `${uri} (verified ${read.at?.toISOString().slice(11, 19) ?? ""})`;
}

/** Which node holds which ranks, for example "0-7 on node-a, 8-15 on node-b"; of many nodes the first. */
function placesText(rankNodes: readonly string[]): string {
  const runs: { first: number; last: number; node: string }[] = [];
  for (const [rank, node] of rankNodes.entries()) {
    const run = runs.at(-1);
    if (run?.node === node) run.last = rank;
    else runs.push({ first: rank, last: rank, node });
  }
  const shown = runs
    .slice(0, PLACES_COUNT_MAX)
    .map(({ first, last, node }) => `${first === last ? first : `${first}-${last}`} on ${node}`);
  const more = runs.slice(PLACES_COUNT_MAX).reduce((sum, { first, last }) => sum + last - first + 1, 0);
  return more > 0 ? `${shown.join(", ")} and ${more} more` : shown.join(", ");
}

/** For want of a free slot. */
function missedText({ snapshotsSkipped, savesPutOff }: JobStatus): string | null {
  if (snapshotsSkipped === 0n && savesPutOff === 0n) return null;
  return `${snapshotsSkipped} snapshots skipped, ${savesPutOff} saves put off (no slot was free)`;
}

function avoidedText({ nodeId, reason, until }: AvoidedNode): string {
  return `${nodeId} until ${until?.toISOString()} (${reason})`;
}

/** A program of its own may tell steps; how many there will be, only it knows. */
function stepText({ step, stepsTotal }: JobStatus): string {
  if (stepsTotal > 0n) return `${step}/${stepsTotal}`;
  return step > 0n ? String(step) : "-";
}

export function progressLine(job: JobStatus): string {
  const total = Number(job.stepsTotal);
  if (total === 0) return job.step > 0n ? `step ${job.step}` : "its program tells no step";
  const done = Number(job.step) / total;
  return `${bar(done)} ${job.step}/${job.stepsTotal} ${(100 * done).toFixed(0)} %  ETA ${duration(job.etaSeconds)}`;
}

export function eventLine(event: WatchEventsResponse): string {
  const time = event.time ? event.time.toISOString().slice(11, 23) : "";
  return `${time}  ${event.kind.padEnd(10)}  ${event.message}`;
}
