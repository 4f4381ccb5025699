import type { z } from "zod";
import type { HeldState, RankProgress, StepCompleted } from "../../gen/goku/v1/agent.pb.js";
import type { Layout, StateName } from "../../gen/goku/v1/common.pb.js";
import {
  type CheckpointRecord,
  type Incident,
  incidentOutcomeToJSON,
  type JobStatus,
  jobPhaseToJSON,
  type LogLine,
  type NodeStatus,
  type WatchEventsResponse,
} from "../../gen/goku/v1/controller.pb.js";
import type {
  checkpointSchema,
  eventSchema,
  incidentSchema,
  jobStatusSchema,
  logLineSchema,
  nodeSchema,
  stepSchema,
} from "./schemas.js";

/**
 * Messages of the wire as the JSON that people and programs read: snake_case like the job file, 64-bit numbers as
 * numbers (steps and bytes stay far below 2^53), null for what is unset. REST and `gokuctl --json` both use these.
 */
export function jobJson(job: JobStatus): z.infer<typeof jobStatusSchema> {
  return {
    id: job.id,
    name: job.name,
    phase: nameOf(jobPhaseToJSON(job.phase), "JOB_PHASE_"),
    reason: job.reason,
    step: Number(job.step),
    steps_total: Number(job.stepsTotal),
    loss: job.loss ?? null,
    grad_norm: job.gradNorm ?? null,
    step_seconds: job.stepSeconds ?? null,
    tokens_per_second: job.tokensPerSecond ?? null,
    tokens_total: Number(job.tokensTotal),
    eta_seconds: job.etaSeconds ?? null,
    generation: Number(job.generation),
    layout: layoutJson(job.layout),
    rank_nodes: job.rankNodes,
    checkpoint:
      job.checkpointUri === "" ? null : { uri: job.checkpointUri, step: Number(job.checkpointStep) },
    protection: job.protection === "" ? null : job.protection,
    replicated_step: job.replicatedStep === undefined ? null : Number(job.replicatedStep),
    incidents: job.incidents,
    error: job.error ? { code: job.error.code, message: job.error.message } : null,
    submitted_at: job.submittedAt?.toISOString() ?? null,
  };
}

export function nodeJson(node: NodeStatus): z.infer<typeof nodeSchema> {
  return {
    node_id: node.nodeId,
    connected: node.connected,
    slots: node.slots,
    host: node.host,
    device: node.device,
    unusable: node.unusable === "" ? null : node.unusable,
    quarantined: node.quarantined,
    failure_domain: node.failureDomain === "" ? null : node.failureDomain,
    version: node.version,
    job: node.job === "" ? null : node.job,
    silent_seconds: node.silentSeconds,
    ranks: node.ranks.map(rankJson),
    held_states: node.heldStates.map(heldJson),
  };
}

export function incidentJson(incident: Incident): z.infer<typeof incidentSchema> {
  return {
    id: Number(incident.id),
    job: incident.job,
    detected_at: incident.detectedAt?.toISOString() ?? null,
    what: incident.what,
    code: incident.code,
    rank: incident.rank ?? null,
    node_id: incident.nodeId === "" ? null : incident.nodeId,
    evidence: incident.evidence,
    decision: incident.decision,
    generation_before: Number(incident.generationBefore),
    generation_after: incident.generationAfter === 0n ? null : Number(incident.generationAfter),
    milestones: incident.milestones.map((m) => ({ name: m.name, after_ms: Number(m.afterMs) })),
    steps_lost: incident.stepsLost === undefined ? null : Number(incident.stepsLost),
    outcome: nameOf(incidentOutcomeToJSON(incident.outcome), "INCIDENT_OUTCOME_"),
    last_lines: incident.lastLines,
  };
}

export function checkpointJson(record: CheckpointRecord): z.infer<typeof checkpointSchema> {
  return {
    ...stateJson(record.state),
    uri: record.uri,
    bytes: Number(record.bytes),
    seconds: record.seconds,
  };
}

export function logLineJson(line: LogLine): z.infer<typeof logLineSchema> {
  return { time: line.time?.toISOString() ?? null, rank: line.rank, text: line.text };
}

export function eventJson(event: WatchEventsResponse): z.infer<typeof eventSchema> {
  return {
    id: Number(event.id),
    time: event.time?.toISOString() ?? null,
    job: event.job === "" ? null : event.job,
    kind: event.kind,
    message: event.message,
    step: event.step ? stepJson(event.step) : null,
  };
}

/** An enum's value without the prefix of the wire; the schema checks what comes out. */
function nameOf<Name extends string>(value: string, prefix: string): Name {
  return value.replace(prefix, "") as Name;
}

function stepJson(step: StepCompleted): z.infer<typeof stepSchema> {
  return {
    step: Number(step.step),
    loss: step.loss,
    grad_norm: step.gradNorm,
    learning_rate: step.learningRate,
    applied: step.applied,
    tokens: Number(step.tokens),
    images: step.images,
    videos: step.videos,
    step_seconds: step.stepSeconds,
    compute_seconds: step.computeSeconds,
    comm_wait_seconds: step.commWaitSeconds,
    data_wait_seconds: step.dataWaitSeconds,
    snapshot_seconds: step.snapshotSeconds,
    memory_peak_bytes: Number(step.memoryPeakBytes),
    pack_fill: step.packFill,
    unreadable: step.unreadable,
    replicated_step: step.replicatedStep === 0n ? null : Number(step.replicatedStep),
  };
}

function rankJson(rank: RankProgress): z.infer<typeof nodeSchema>["ranks"][number] {
  return {
    rank: rank.rank,
    pid: rank.pid,
    step: Number(rank.step),
    micro_step: rank.microStep,
    phase: rank.phase,
    layer: rank.layer,
    collective: rank.collective === "" ? null : rank.collective,
    group: rank.group === "" ? null : rank.group,
    in_flight: rank.collectiveEntered > rank.collectiveCompleted,
    unchanged_ms: Number(rank.unchangedMs),
  };
}

function heldJson(held: HeldState): z.infer<typeof nodeSchema>["held_states"][number] {
  return { ...stateJson(held.state), rank: held.rank, layout: layoutJson(held.layout) };
}

function stateJson(state: StateName | undefined): { generation: number; step: number } {
  return { generation: Number(state?.generation ?? 0n), step: Number(state?.step ?? 0n) };
}

function layoutJson(layout: Layout | undefined): z.infer<typeof jobStatusSchema>["layout"] {
  return layout ? { dp_replicate: layout.dpReplicate, dp_shard: layout.dpShard, sp: layout.sp } : null;
}
