import { Layout } from "../../job/layout.js";
import type { DurableEntry, Event, GenerationRecord, IncidentRecord } from "./contract.js";
import { durableKeys } from "./contract.js";
import { persist } from "./durable.js";
import { createEffectiveTime } from "./effective_time.js";
import { reconsider } from "./jobs.js";
import { type CoreState, createGeneration, createJobState, createState, type JobState } from "./state.js";
import { arm, jobTimers, log, type Turn } from "./turn.js";

/**
 * Leadership won: everything durable is taken over, everything soft is told anew by the agents. Nothing is commanded
 * before the new term is durable; from then on agents refuse what an older leader may still say.
 */
export function gainLeadership(turn: Turn, event: Event & { kind: "leadershipGained" }): void {
  const { state } = turn;
  forget(state);
  for (const entry of event.records) {
    state.durable.revisions.set(entry.key, entry.modRevision);
    takeOver(turn, entry);
  }
  finishTakeOver(turn, event.records);
  const term = (state.leader?.term ?? 0) + 1;
  const { controllerId } = event;
  state.leader = { controllerId, term, electedMs: turn.nowMs, ready: false };
  const record = { kind: "term" as const, term, controllerId };
  persist(turn, [{ key: durableKeys.term, record }], { kind: "lead" });
}

export function loseLeadership(turn: Turn, reason: string): void {
  for (const timer of turn.state.timers.keys()) turn.effects.push({ kind: "cancelTimer", timer });
  forget(turn.state);
  log(turn, { level: "warning", type: "node", text: `this controller does not lead any more: ${reason}` });
}

/** The term is durable. Silence of nodes counts from now. */
export function lead(turn: Turn): void {
  const leader = turn.state.leader!;
  leader.ready = true;
  leader.electedMs = turn.nowMs;
  turn.state.nodesChangedMs = turn.nowMs;
  const living = [...turn.state.jobs.values()].filter((job) => job.stage !== "ended");
  log(turn, {
    level: "info",
    type: "node",
    text: `${leader.controllerId} leads term ${leader.term} with ${living.length} living jobs`,
  });
  for (const job of living) {
    if (job.generation === null) continue;
    arm(turn, jobTimers.stage(job), turn.nowMs + turn.state.config.limits.rehomeMs);
  }
  reconsider(turn);
}

/** An agent has obeyed a higher term than ours, so this store has forgotten something: go above it. */
export function raiseTerm(turn: Turn, seen: number): void {
  const { leader } = turn.state;
  const term = seen + 1;
  turn.state.raising = true;
  log(turn, {
    level: "alarm",
    type: "alarm",
    text: `an agent has obeyed term ${seen}, this controller leads term ${leader!.term}: the store has lost writes; goes on with term ${term}`,
  });
  const record = { kind: "term" as const, term, controllerId: leader!.controllerId };
  persist(turn, [{ key: durableKeys.term, record }], { kind: "raise", term });
}

/** Its parts are replaced, not emptied: whoever kept them can go on reading how things stood. */
function forget(state: CoreState): void {
  Object.assign(state, createState(state.config));
}

function takeOver(turn: Turn, entry: DurableEntry): void {
  const { state } = turn;
  const { record } = entry;
  switch (record.kind) {
    case "term":
      state.leader = { controllerId: record.controllerId, term: record.term, electedMs: 0, ready: false };
      return;
    case "counter":
      state.generationLast = record.generationLast;
      state.jobOrderLast = record.jobOrderLast;
      return;
    case "quarantine":
      // Older versions wrote no time at which it ends, and not whether it was a drain.
      state.quarantine.set(record.nodeId, {
        ...record,
        untilMs: record.untilMs ?? null,
        drained: record.drained ?? false,
      });
      return;
    case "job": {
      const job = createJobState(record);
      job.accepted = true;
      state.jobs.set(record.jobId, job);
      return;
    }
    case "generation":
    case "checkpoints":
    case "incident":
      return;
  }
}

/** Records that belong to a job, once all jobs are there. */
function finishTakeOver(turn: Turn, entries: readonly DurableEntry[]): void {
  const { state } = turn;
  state.jobs = new Map([...state.jobs].sort(([, a], [, b]) => a.record.order - b.record.order));
  for (const { record } of entries) {
    if (!("jobId" in record)) continue;
    const job = state.jobs.get(record.jobId);
    if (job === undefined) continue;
    if (record.kind === "incident") takeIncident(job, record);
    if (record.kind === "checkpoints") job.checkpoints = structuredClone(record.entries);
  }
  for (const job of state.jobs.values()) job.incidents.sort((a, b) => a.number - b.number);
  for (const { record } of entries) {
    if (record.kind !== "generation") continue;
    const job = state.jobs.get(record.jobId);
    if (job !== undefined) takeGeneration(turn, job, record);
  }
}

function takeIncident(job: JobState, record: IncidentRecord): void {
  job.incidents.push(structuredClone(record));
  job.incidentLast = Math.max(job.incidentLast, record.number);
}

function takeGeneration(turn: Turn, job: JobState, record: GenerationRecord): void {
  turn.state.generationLast = Math.max(turn.state.generationLast, record.generation);
  const device = record.device ?? "cpu";
  job.prior = { layout: record.layout, rankNodes: [...record.rankNodes], device };
  job.attempts = record.attempts;
  job.restarts = record.restarts;
  job.stepHighest = Math.max(job.stepHighest, record.stepHighest);
  job.incidentLast = Math.max(job.incidentLast, record.incidentLast);
  job.effective = createEffectiveTime(record.effective);
  const generation = createGeneration({
    number: record.generation,
    layout: new Layout(record.layout),
    rankNodes: [...record.rankNodes],
    device,
    stage: "adopt",
    nowMs: turn.nowMs,
  });
  generation.step = record.restored?.step ?? 0;
  job.generation = generation;
  if (job.record.outcome !== null) return;
  job.incident = job.incidents.find((i) => i.number === record.incident && i.outcome === "open") ?? null;
  job.stage = record.stage === "running" ? "running" : "forming";
  job.reason = "a new leader waits for the nodes of this generation to re-home";
}
