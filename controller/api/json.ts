import type { z } from "zod";
import type { HeldState, RankProgress, RankTimes, StepCompleted } from "../../gen/goku/v1/agent.pb.js";
import type { Layout, StateName } from "../../gen/goku/v1/common.pb.js";
import {
  type AuditEntry,
  type AvoidedNode,
  type CheckpointParts,
  type CheckpointRecord,
  type Diagnosis,
  type Incident,
  incidentOutcomeToJSON,
  type JobStatus,
  type JudgedCheck,
  jobPhaseToJSON,
  type LogLine,
  type NodeSignalStatus,
  type NodeStatus,
  type Preview,
  type WatchEventsResponse,
} from "../../gen/goku/v1/controller.pb.js";
import { finite } from "../../job/finite.js";
import type {
  auditSchema,
  avoidedSchema,
  checkpointPartsSchema,
  checkpointSchema,
  diagnosisSchema,
  eventSchema,
  incidentSchema,
  jobStatusSchema,
  judgedCheckSchema,
  logLineSchema,
  nodeSchema,
  previewSchema,
  rankProgressSchema,
  signalSchema,
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
    loss: finite(job.loss),
    grad_norm: finite(job.gradNorm),
    step_seconds: job.stepSeconds ?? null,
    tokens_per_second: job.tokensPerSecond ?? null,
    tokens_total: Number(job.tokensTotal),
    eta_seconds: job.etaSeconds ?? null,
    generation: Number(job.generation),
    layout: layoutJson(job.layout),
    rank_nodes: job.rankNodes,
    checkpoint:
      job.checkpointUri === ""
        ? null
        : {
            uri: job.checkpointUri,
            step: Number(job.checkpointStep),
            read: partsJson(job.checkpointRead),
          },
    spares: job.spares === "" ? null : job.spares,
    protection: job.protection === "" ? null : job.protection,
    replicated_step: job.replicatedStep === undefined ? null : Number(job.replicatedStep),
    rank_slowness: job.rankSlowness.map((slowness) => (slowness === 0 ? null : slowness)),
    stragglers: job.stragglers.map(({ nodeId, rank, slowness, evidence }) => ({
      node_id: nodeId,
      rank: rank ?? null,
      slowness,
      evidence,
    })),
    avoided: job.avoided.map(avoidedJson),
    doubt: job.doubt === "" ? null : job.doubt,
    snapshots_skipped: Number(job.snapshotsSkipped),
    saves_put_off: Number(job.savesPutOff),
    steps_given_up: Number(job.stepsGivenUp),
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
    devices: node.devices.map(({ name, memoryBytes }) => ({ name, memory_bytes: Number(memoryBytes) })),
    unusable: node.unusable === "" ? null : node.unusable,
    quarantined: node.quarantined,
    drained: node.drained,
    quarantined_until: node.quarantinedUntil?.toISOString() ?? null,
    self_check: node.selfCheck === "" ? null : (node.selfCheck as "due"),
    checks: node.checks.map(judgedCheckJson),
    checked_at: node.checkedAt?.toISOString() ?? null,
    failure_domain: node.failureDomain === "" ? null : node.failureDomain,
    version: node.version,
    job: node.job === "" ? null : node.job,
    silent_seconds: node.silentSeconds,
    ranks: node.ranks.map(rankJson),
    held_states: node.heldStates.map(heldJson),
    avoided: node.avoided.map(avoidedJson),
    signals: node.signals.map(signalJson),
    unwatched: node.unwatched,
  };
}

function signalJson(signal: NodeSignalStatus): z.infer<typeof signalSchema> {
  const { kind, class: cls, action, meaning, rank, device, text, count, at } = signal;
  return {
    kind,
    class: cls,
    action: action as "note",
    meaning,
    rank: rank ?? null,
    device: device === "" ? null : device,
    text,
    count,
    at: at?.toISOString() ?? null,
  };
}

function avoidedJson({ job, nodeId, reason, until }: AvoidedNode): z.infer<typeof avoidedSchema> {
  return { job, node_id: nodeId, reason, until: until?.toISOString() ?? null };
}

export function diagnosisJson(diagnosis: Diagnosis): z.infer<typeof diagnosisSchema> {
  return {
    id: Number(diagnosis.id),
    started_at: diagnosis.startedAt?.toISOString() ?? null,
    done: diagnosis.done,
    nodes: diagnosis.nodes.map(({ nodeId, verdict, reason, checks }) => ({
      node_id: nodeId,
      verdict: verdict as "passed",
      reason: reason === "" ? null : reason,
      checks: checks.map(judgedCheckJson),
    })),
    bad_links: diagnosis.badLinks,
  };
}

function judgedCheckJson({ result, median, verdict }: JudgedCheck): z.infer<typeof judgedCheckSchema> {
  return {
    name: result?.name ?? "",
    device: result?.device ?? null,
    verdict: verdict as "ok",
    value: result?.value ?? 0,
    unit: result?.unit ?? "",
    median: median ?? null,
    detail: result?.detail ?? "",
    seconds: result?.seconds ?? 0,
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
    step_before: Number(incident.stepBefore),
    steps_lost: incident.stepsLost === undefined ? null : Number(incident.stepsLost),
    outcome: nameOf(incidentOutcomeToJSON(incident.outcome), "INCIDENT_OUTCOME_"),
    last_lines: incident.lastLines,
    stacks: incident.stacks.map(({ rank, nodeId, lines }) => ({ rank, node_id: nodeId, lines })),
  };
}

export function checkpointJson(record: CheckpointRecord): z.infer<typeof checkpointSchema> {
  return {
    ...stateJson(record.state),
    uri: record.uri,
    bytes: Number(record.bytes),
    seconds: record.seconds,
    committed_at: record.committedAt?.toISOString() ?? null,
    unusable: record.unusable === "" ? null : record.unusable,
    read: partsJson(record.read),
  };
}

function partsJson(parts: CheckpointParts | undefined): z.infer<typeof checkpointPartsSchema> | null {
  return parts === undefined
    ? null
    : { whole: parts.whole, of: parts.of, at: parts.at?.toISOString() ?? null };
}

export function logLineJson(line: LogLine): z.infer<typeof logLineSchema> {
  return { time: line.time?.toISOString() ?? null, rank: line.rank, text: line.text };
}

export function previewJson(preview: Preview): z.infer<typeof previewSchema> {
  const { state, uri, prompts, seed, samplingSteps, guidance, shift, width, height, frames } = preview;
  return {
    ...stateJson(state),
    uri,
    prompts,
    seed: Number(seed),
    sampling_steps: samplingSteps,
    guidance,
    shift,
    width,
    height,
    frames,
    files: preview.files.map((file) => ({ name: file.name, bytes: Number(file.bytes) })),
    drawn_at: preview.drawnAt?.toISOString() ?? null,
  };
}

export function eventJson(event: WatchEventsResponse): z.infer<typeof eventSchema> {
  return {
    id: Number(event.id),
    time: event.time?.toISOString() ?? null,
    job: event.job === "" ? null : event.job,
    kind: event.kind,
    message: event.message,
    step: event.step ? stepJson(event.step) : null,
    audit: event.audit ? auditJson(event.audit) : null,
  };
}

function auditJson({ who, via, address, action, target, outcome }: AuditEntry): z.infer<typeof auditSchema> {
  return { who: who || null, via: via || null, address, action, target: target || null, outcome };
}

/** An enum's value without the prefix of the wire; the schema checks what comes out. */
function nameOf<Name extends string>(value: string, prefix: string): Name {
  return value.replace(prefix, "") as Name;
}

function stepJson(step: StepCompleted): z.infer<typeof stepSchema> {
  return {
    step: Number(step.step),
    loss: finite(step.loss),
    grad_norm: finite(step.gradNorm),
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
    snapshot_skipped: step.snapshotSkipped,
    save_put_off: step.savePutOff,
    memory_peak_bytes: Number(step.memoryPeakBytes),
    pack_fill: step.packFill,
    unreadable: step.unreadable,
    replicated_step: step.replicatedStep === 0n ? null : Number(step.replicatedStep),
    replay: step.replay
      ? {
          packs: step.replay.packs,
          loss_ranks: step.replay.lossRanks,
          norm_ranks: step.replay.normRanks,
          home_ranks: step.replay.homeRanks,
        }
      : null,
  };
}

export function rankJson(rank: RankProgress): z.infer<typeof rankProgressSchema> {
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
    times: rank.times ? timesJson(rank.times) : null,
  };
}

function timesJson(times: RankTimes): NonNullable<z.infer<typeof rankProgressSchema>["times"]> {
  const seconds = (microseconds: bigint) => Number(microseconds) / 1e6;
  return {
    steps: Number(times.steps),
    multiply_adds: Number(times.work) * 1e6,
    forward_seconds: seconds(times.forwardUs),
    backward_seconds: seconds(times.backwardUs),
    optimizer_seconds: seconds(times.optimizerUs),
    data_seconds: seconds(times.dataUs),
    wait_seconds: seconds(times.waitUs),
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
