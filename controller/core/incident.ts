import type { DurableWrite, IncidentRecord, Milestone, RankStack } from "./contract.js";
import { durableKeys, EVIDENCE_COUNT_MAX, STACKS_COUNT_MAX } from "./contract.js";
import { persist } from "./durable.js";
import type { Culprit, Fault } from "./judge_fault.js";
import { placesOf, rungOf } from "./rung.js";
import type { JobState } from "./state.js";
import { log, observe, type Turn } from "./turn.js";

/** Incidents remembered per job, newest kept. */
const INCIDENTS_COUNT_MAX = 100;

/** The open incident of a job, opened now if there is none: everything until the next completed step is one incident. */
export function openIncident(turn: Turn, job: JobState, first: Fault): IncidentRecord {
  if (job.incident !== null) return job.incident;
  job.incidentLast += 1;
  const incident: IncidentRecord = {
    kind: "incident",
    jobId: job.record.jobId,
    number: job.incidentLast,
    openedAtMs: turn.nowMs,
    closedAtMs: null,
    outcome: "open",
    code: first.code,
    what: first.text,
    rank: first.rank,
    nodeId: first.nodeId,
    operation: first.operation,
    evidence: [],
    evidenceDropped: 0,
    decisions: [],
    generationBefore: job.generation?.number ?? 0,
    generationAfter: 0,
    milestones: { detected: 0 },
    stepBefore: job.generation?.step ?? 0,
    stepsLost: null,
    lastLines: [...first.lastLines],
    stacks: [],
  };
  job.incident = incident;
  job.before = job.generation && placesOf(job.generation);
  job.incidents.push(incident);
  const old = job.incidents.splice(0, job.incidents.length - INCIDENTS_COUNT_MAX);
  if (old.length > 0) persist(turn, old.map(incidentErasure));
  return incident;
}

export function addEvidence(incident: IncidentRecord, atMs: number, text: string): void {
  if (incident.evidence.length < EVIDENCE_COUNT_MAX) incident.evidence.push({ atMs, text });
  else incident.evidenceDropped += 1;
}

/** From now on more of it is only counted. */
export function isFullOfEvidence({ evidence }: IncidentRecord): boolean {
  return evidence.length >= EVIDENCE_COUNT_MAX;
}

/** What a rank that hung was doing. Of many, the first tell enough. */
export function addStack(
  incident: IncidentRecord,
  nodeId: string,
  { rank, lines }: Omit<RankStack, "nodeId">,
): void {
  if (incident.stacks.length < STACKS_COUNT_MAX) incident.stacks.push({ rank, nodeId, lines });
}

/** The headline follows the best evidence, until the first recovery has been decided. */
export function nameCulprit(incident: IncidentRecord, culprit: Culprit): void {
  if (incident.decisions.length > 0) return;
  incident.code = culprit.code;
  incident.what = culprit.what;
  incident.rank = culprit.rank;
  incident.nodeId = culprit.nodeId;
  incident.operation = culprit.operation;
  if (culprit.lastLines.length > 0) incident.lastLines = culprit.lastLines;
}

/** Notes a decision with its reason, once per change. */
export function decide(turn: Turn, job: JobState, text: string): void {
  const { incident } = job;
  if (incident === null || incident.decisions.at(-1)?.text === text) return;
  if (incident.decisions.length < EVIDENCE_COUNT_MAX) incident.decisions.push({ atMs: turn.nowMs, text });
  log(turn, {
    level: "warning",
    type: "incident",
    jobId: incident.jobId,
    nodeId: incident.nodeId,
    text: `${incident.what}: ${text}`,
  });
}

export function mark(turn: Turn, job: JobState, milestone: Milestone): void {
  if (job.incident !== null) job.incident.milestones[milestone] = turn.nowMs - job.incident.openedAtMs;
}

/** Ends the open incident; the write belongs into the caller's next transaction. */
export function closeIncident(turn: Turn, job: JobState, outcome: "recovered" | "failed"): DurableWrite[] {
  const { incident } = job;
  if (incident === null) return [];
  incident.outcome = outcome;
  incident.closedAtMs = turn.nowMs;
  job.incident = null;
  const { name } = job.record.job;
  observe(turn, "goku_incidents_total", 1, { job: name, code: incident.code });
  if (outcome === "recovered") {
    const seconds = (turn.nowMs - incident.openedAtMs) / 1000;
    observe(turn, "goku_recovery_seconds", seconds, { job: name, rung: rungOf(job) });
    observe(turn, "goku_steps_lost_total", incident.stepsLost ?? 0, { job: name });
    const lost = incident.stepsLost === null ? "" : `, ${incident.stepsLost} steps lost`;
    log(turn, {
      level: "info",
      type: "incident",
      jobId: incident.jobId,
      nodeId: incident.nodeId,
      text: `recovered in ${seconds.toFixed(1)} s${lost}: ${incident.what}`,
    });
  }
  return [incidentWrite(incident)];
}

export function incidentErasure({ jobId, number }: IncidentRecord): DurableWrite {
  return { key: durableKeys.incident(jobId, number), record: null };
}

/** A copy as of now: transactions queue, and the incident goes on changing. */
export function incidentWrite(incident: IncidentRecord): DurableWrite {
  return {
    key: durableKeys.incident(incident.jobId, incident.number),
    record: structuredClone(incident),
  };
}
