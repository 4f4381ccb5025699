import { FAULT_SOURCES } from "./fault_sources.js";
import { CLOCK_REASONS } from "./signals/clock_reasons.js";
import { COUNTER_NAMES } from "./signals/counters.js";
import { SIGNAL_CLASSES } from "./signals/signal_kind.js";

/**
 * Every metric of the product: the one place that says its name, type, unit, labels and meaning. Instruments are made from it
 * (metric_set.ts), docs/metrics.md is written from it, and a test holds both against what a running job shows.
 *
 * Names: `goku_`, base units at the end, `_total` for counters. A label takes few values: of jobs those that a controller
 * remembers, of ranks those of one node. What would be one series for each rank of a cluster is told by the rank's own
 * agent, so that no scrape grows with the cluster.
 */
export interface MetricEntry {
  type: "counter" | "gauge" | "histogram";
  /** For people; the name ends with it where it is a unit. */
  unit:
    | "seconds"
    | "bytes"
    | "ratio"
    | "FLOP"
    | "FLOP/s"
    | "tokens"
    | "steps"
    | "count"
    | "0 or 1"
    | "timestamp"
    | "celsius"
    | "hertz"
    | "watts"
    | "";
  /** Values of each label, for people. */
  labels: Readonly<Record<string, string>>;
  help: string;
  /** Upper bounds of a histogram. */
  buckets?: readonly number[];
}

/** Of whatever a step, a save, a replica or a recovery takes. */
const SECONDS_BUCKETS = [0.01, 0.03, 0.1, 0.3, 1, 2, 5, 10, 30, 60, 120, 300, 900] as const;
/** Of one write to the store. */
const STORE_BUCKETS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10] as const;

const JOB = { job: "name of the job" } as const;
const RANK = { job: "name of the job", rank: "world rank, of this node" } as const;
const GPU = { gpu: "index by which ranks of this node see it", uuid: "as nvidia-smi -L shows it" } as const;
const SECTIONS = "compute, communication, data, optimizer, snapshot";
const COLLECTIVES = "all_gather, reduce_scatter, all_reduce, all_to_all, vote";

/** At the controller's /metrics. Those of jobs, nodes and training are shown by the controller that leads. */
export const CONTROLLER_METRICS = {
  goku_leader: {
    type: "gauge",
    unit: "0 or 1",
    labels: {},
    help: "1: this controller leads; 0: it does not",
  },
  goku_leader_term: {
    type: "gauge",
    unit: "count",
    labels: {},
    help: "Term of this leader; 0: it does not lead",
  },
  goku_leader_ready: {
    type: "gauge",
    unit: "0 or 1",
    labels: {},
    help: "1: it leads and its term is durable, so that it commands agents",
  },
  goku_store_seconds: {
    type: "histogram",
    unit: "seconds",
    labels: { operation: "transact, read", outcome: "applied, refused, unknown, read" },
    help: "Time that the store took to answer",
    buckets: STORE_BUCKETS,
  },
  goku_store_failures_total: {
    type: "counter",
    unit: "count",
    labels: {},
    help: "Tries to win or renew leadership that the store did not answer",
  },
  goku_persist_retries_total: {
    type: "counter",
    unit: "count",
    labels: {},
    help: "Store writes tried again",
  },
  goku_nodes: {
    type: "gauge",
    unit: "count",
    labels: { state: "connected, absent, quarantined, drained, leaving" },
    help: "Nodes; one that is quarantined, drained by a person or leaves counts there alone, absent: it was here and has no session",
  },
  goku_nodes_connected: {
    type: "gauge",
    unit: "count",
    labels: {},
    help: "Nodes with a living session",
  },
  goku_selfchecks_total: {
    type: "counter",
    unit: "count",
    labels: { verdict: "passed, failed" },
    help: "Self-checks of nodes that ended, by verdict",
  },
  goku_signals_total: {
    type: "counter",
    unit: "count",
    labels: { class: SIGNAL_CLASSES.join(", "), cause: "machine, program, unclear" },
    help: "Signs of trouble that agents told from logs, kernels and counters of their machines; of each kind the first few of a rank or node alone",
  },
  goku_agent_messages_refused_total: {
    type: "counter",
    unit: "count",
    labels: { reason: "stale_generation, stale_session, malformed" },
    help: "Agent messages refused, by reason",
  },
  goku_audit_entries_total: {
    type: "counter",
    unit: "count",
    labels: { action: "what was asked", outcome: "how it ended" },
    help: "Requests that change something, and requests refused, by what was asked and how it ended",
  },
  goku_tls_certificate_expiry_timestamp_seconds: {
    type: "gauge",
    unit: "timestamp",
    labels: { certificate: "server: shown to callers; store: shown to etcd" },
    help: "When a certificate of this controller expires; no series: it has none",
  },
  goku_jobs: {
    type: "gauge",
    unit: "count",
    labels: { phase: "QUEUED, FORMING, RUNNING, RECOVERING, STOPPING, COMPLETED, STOPPED, FAILED" },
    help: "Jobs that this controller remembers, by phase",
  },
  goku_jobs_ended_total: {
    type: "counter",
    unit: "count",
    labels: { phase: "COMPLETED, STOPPED, FAILED" },
    help: "Jobs that ended while this controller led, by how",
  },
  goku_job_phase: {
    type: "gauge",
    unit: "0 or 1",
    labels: { ...JOB, phase: "QUEUED, FORMING, RUNNING, RECOVERING, STOPPING" },
    help: "1 for the phase in which a job that is not over stands",
  },
  goku_job_generation: {
    type: "gauge",
    unit: "count",
    labels: JOB,
    help: "Newest generation of a job that is not over",
  },
  goku_job_ranks: { type: "gauge", unit: "count", labels: JOB, help: "Ranks of its newest generation" },
  goku_job_started_timestamp_seconds: {
    type: "gauge",
    unit: "timestamp",
    labels: JOB,
    help: "When the job's first generation began to form",
  },
  goku_job_ettr_ratio: {
    type: "gauge",
    unit: "ratio",
    labels: { ...JOB, window: "total, hour" },
    help: "Effective training time ratio: time of steps completed for the first time, without their snapshots, over time since the job's first generation formed (total), or of the last hour of it; of a program of its own once it has told two steps",
  },
  goku_job_effective_seconds_total: {
    type: "counter",
    unit: "seconds",
    labels: JOB,
    help: "Time of steps completed for the first time, without their snapshots: what the ratio counts as effective",
  },
  goku_job_slowness_ratio: {
    type: "gauge",
    unit: "ratio",
    labels: JOB,
    help: "Own compute time of the slowest rank for its work, over the median of the other ranks; of each rank: goku_rank_slowness_ratio of its agent",
  },
  goku_job_stragglers: {
    type: "gauge",
    unit: "count",
    labels: { ...JOB, kind: "rank, node" },
    help: "Ranks and nodes that are called slow at present",
  },
  goku_job_stuck_seconds: {
    type: "gauge",
    unit: "seconds",
    labels: JOB,
    help: "Since the rank whose page has changed last did so, while the job runs; of a program of its own once it has sent a heartbeat",
  },
  goku_stragglers_total: {
    type: "counter",
    unit: "count",
    labels: { ...JOB, kind: "rank, node" },
    help: "Ranks and nodes found to be slow",
  },
  goku_generations_formed_total: {
    type: "counter",
    unit: "count",
    labels: {},
    help: "Generations whose ranks were given places",
  },
  goku_generations_failed_total: {
    type: "counter",
    unit: "count",
    labels: {},
    help: "Generations that ended by a fault, forming or training",
  },
  goku_detections_total: {
    type: "counter",
    unit: "count",
    labels: { ...JOB, source: FAULT_SOURCES.join(", ") },
    help: "What first told of a fault, by who saw it",
  },
  goku_incidents_total: {
    type: "counter",
    unit: "count",
    labels: { ...JOB, code: "error code" },
    help: "Faults that are over, by error code of what caused them",
  },
  goku_incidents_open: {
    type: "gauge",
    unit: "count",
    labels: JOB,
    help: "Faults that a job has not recovered from yet",
  },
  goku_recovery_seconds: {
    type: "histogram",
    unit: "seconds",
    labels: { ...JOB, rung: "communicator, process, node, layout, checkpoint, initial, unknown" },
    help: "From detection of a fault to the next completed step, by how far the recovery had to go; unknown: another controller led when it began",
    buckets: SECONDS_BUCKETS,
  },
  goku_steps_lost_total: {
    type: "counter",
    unit: "steps",
    labels: JOB,
    help: "Steps computed again after a fault",
  },
  goku_steps_completed_total: { type: "counter", unit: "steps", labels: JOB, help: "Steps completed" },
  goku_bad_steps_total: {
    type: "counter",
    unit: "count",
    labels: { ...JOB, kind: "data, hardware, untold, unread, loss_spike, gradient_spike" },
    help: "Steps whose numbers were not finite, by cause, and steps with a loss or gradient spike (of several in a row that are applied: the first)",
  },
  goku_steps_left_out_total: {
    type: "counter",
    unit: "steps",
    labels: { ...JOB, reason: "not_finite, spike, unread, roll_back" },
    help: "Steps that changed no weight and whose packs are left out: voted down, or undone by a roll-back",
  },
  goku_train_loss: { type: "gauge", unit: "", labels: JOB, help: "Loss of the last completed step" },
  goku_train_grad_norm: {
    type: "gauge",
    unit: "",
    labels: JOB,
    help: "Gradient norm of the last completed step, before clipping",
  },
  goku_train_learning_rate: {
    type: "gauge",
    unit: "",
    labels: JOB,
    help: "Learning rate of the last completed step",
  },
  goku_train_step: { type: "gauge", unit: "steps", labels: JOB, help: "Last completed step" },
  goku_train_steps_planned: {
    type: "gauge",
    unit: "steps",
    labels: JOB,
    help: "Steps that the job is to do; 0: its program says",
  },
  goku_train_last_step_timestamp_seconds: {
    type: "gauge",
    unit: "timestamp",
    labels: JOB,
    help: "When this controller was told of the last completed step; before the first of a generation: when it began to run. Of a program of its own once it has told two steps",
  },
  goku_train_tokens_total: {
    type: "counter",
    unit: "tokens",
    labels: JOB,
    help: "Tokens of completed steps, steps computed again included",
  },
  goku_train_samples_total: {
    type: "counter",
    unit: "count",
    labels: { ...JOB, kind: "image, video" },
    help: "Samples of completed steps, steps computed again included",
  },
  goku_train_samples_unreadable_total: {
    type: "counter",
    unit: "count",
    labels: JOB,
    help: "Samples that could not be read and weighed 0",
  },
  goku_train_pack_fill_ratio: {
    type: "gauge",
    unit: "ratio",
    labels: JOB,
    help: "Tokens over capacity of the last step's packs",
  },
  goku_train_step_seconds: {
    type: "histogram",
    unit: "seconds",
    labels: JOB,
    help: "Time of a step on rank 0",
    buckets: SECONDS_BUCKETS,
  },
  goku_train_section_seconds_total: {
    type: "counter",
    unit: "seconds",
    labels: { ...JOB, section: SECTIONS },
    help: "Time of steps on rank 0, by section",
  },
  goku_train_wait_seconds_total: {
    type: "counter",
    unit: "seconds",
    labels: { ...JOB, collective: COLLECTIVES },
    help: "Time that rank 0 waited for other ranks in its steps, by collective: the parts of the section communication",
  },
  goku_train_model_flops_total: {
    type: "counter",
    unit: "FLOP",
    labels: JOB,
    help: "Work of completed steps on all ranks, forward and backward, what is recomputed not counted: 6 for each multiply-add of a forward pass",
  },
  goku_train_memory_peak_bytes: {
    type: "gauge",
    unit: "bytes",
    labels: JOB,
    help: "High-water mark of rank 0's tensors in the last step, beside its training state",
  },
  goku_snapshot_seconds: {
    type: "histogram",
    unit: "seconds",
    labels: JOB,
    help: "Time that a step waited for its snapshot on rank 0",
    buckets: SECONDS_BUCKETS,
  },
  goku_snapshots_skipped_total: {
    type: "counter",
    unit: "count",
    labels: JOB,
    help: "Snapshots that were due and left out on all ranks, since some rank had no slot free: saves, previews or copies still read them",
  },
  goku_twins_differ_total: {
    type: "counter",
    unit: "count",
    labels: JOB,
    help: "Times that ranks which hold the same shard in different replicas were found not to hold the same bits",
  },
  goku_saves_put_off_total: {
    type: "counter",
    unit: "count",
    labels: JOB,
    help: "Durable saves that were made at a later step than the one that they were due at",
  },
  goku_train_replicated_step: {
    type: "gauge",
    unit: "steps",
    labels: JOB,
    help: "Newest step of the generation whose state is in two places for every rank; 0: none",
  },
  goku_replicas_failed_total: {
    type: "counter",
    unit: "count",
    labels: JOB,
    help: "States that could not be copied to another node for seconds",
  },
  goku_checkpoints_committed_total: {
    type: "counter",
    unit: "count",
    labels: JOB,
    help: "Durable checkpoints committed",
  },
  goku_checkpoints_failed_total: {
    type: "counter",
    unit: "count",
    labels: JOB,
    help: "Durable saves that failed",
  },
  goku_checkpoint_verified_total: {
    type: "counter",
    unit: "count",
    labels: { ...JOB, result: "whole, damaged" },
    help: "Checkpoints that their writers have read back from the storage, by what they found",
  },
  goku_previews_total: {
    type: "counter",
    unit: "count",
    labels: { ...JOB, outcome: "drawn, skipped, failed" },
    help: "Previews that were due, by what became of them",
  },
  goku_checkpoint_seconds: {
    type: "histogram",
    unit: "seconds",
    labels: JOB,
    help: "From snapshot to committed checkpoint",
    buckets: SECONDS_BUCKETS,
  },
  goku_checkpoint_written_bytes_total: {
    type: "counter",
    unit: "bytes",
    labels: JOB,
    help: "Bytes of committed checkpoints",
  },
  goku_checkpoint_last_timestamp_seconds: {
    type: "gauge",
    unit: "timestamp",
    labels: JOB,
    help: "When the newest checkpoint that can be restored was committed; when none was: the beginning of the job",
  },
  goku_checkpoint_last_step: {
    type: "gauge",
    unit: "steps",
    labels: JOB,
    help: "Step of the newest checkpoint that can be restored; 0: there is none",
  },
  goku_checkpoint_failing: {
    type: "gauge",
    unit: "0 or 1",
    labels: JOB,
    help: "1: the newest durable save failed and none has succeeded since",
  },
  goku_checkpoint_retention_failing: {
    type: "gauge",
    unit: "0 or 1",
    labels: JOB,
    help: "1: after the newest commit old checkpoints could not be removed; the new one is whole",
  },
} as const satisfies Record<string, MetricEntry>;

/** At every agent's own /metrics. */
export const NODE_METRICS = {
  goku_node_slots: { type: "gauge", unit: "count", labels: {}, help: "Ranks that this node can hold" },
  goku_node_ranks: {
    type: "gauge",
    unit: "count",
    labels: {},
    help: "Rank processes that live here and have a place",
  },
  goku_node_controller_connected: {
    type: "gauge",
    unit: "0 or 1",
    labels: {},
    help: "1: this agent has a controller; 0: it looks for one, and training goes on",
  },
  goku_node_certificate_expiry_timestamp_seconds: {
    type: "gauge",
    unit: "timestamp",
    labels: {},
    help: "When the certificate expires that this agent shows to other nodes, and to controllers; 0: it has none",
  },
  goku_node_snapshot_bytes: {
    type: "gauge",
    unit: "bytes",
    labels: { kind: "own, replica" },
    help: "Whole states in the shared memory of this node: of its ranks, and kept here for other nodes",
  },
  goku_node_hardware_errors_total: {
    type: "counter",
    unit: "count",
    labels: { counter: COUNTER_NAMES.join(", ") },
    help: "By how much the machine's error counters grew while this agent looked, over all devices; counters that stood still have no series",
  },
  goku_gpu_up: {
    type: "gauge",
    unit: "0 or 1",
    labels: GPU,
    help: "1: the driver reached the GPU when it was asked last; 0: it did not, or has not answered. What follows is then not shown, nor what a GPU or its driver does not tell",
  },
  goku_gpu_temperature_celsius: {
    type: "gauge",
    unit: "celsius",
    labels: { ...GPU, part: "core, memory" },
    help: "Temperature of the GPU",
  },
  goku_gpu_clock_hertz: {
    type: "gauge",
    unit: "hertz",
    labels: { ...GPU, clock: "sm, memory" },
    help: "Clocks of the GPU",
  },
  goku_gpu_clock_limited: {
    type: "gauge",
    unit: "0 or 1",
    labels: { ...GPU, reason: Object.keys(CLOCK_REASONS).join(", ") },
    help: "1: its clocks are not higher for this reason",
  },
  goku_gpu_power_watts: { type: "gauge", unit: "watts", labels: GPU, help: "Power that the GPU draws" },
  goku_gpu_power_limit_watts: {
    type: "gauge",
    unit: "watts",
    labels: GPU,
    help: "Power that the GPU may draw",
  },
  goku_gpu_memory_used_bytes: {
    type: "gauge",
    unit: "bytes",
    labels: GPU,
    help: "Memory of the GPU that is taken, by whomever",
  },
  goku_gpu_memory_size_bytes: { type: "gauge", unit: "bytes", labels: GPU, help: "Memory of the GPU" },
  goku_gpu_utilization_ratio: {
    type: "gauge",
    unit: "ratio",
    labels: GPU,
    help: "Share of its last sample period in which a kernel ran on the GPU, however small",
  },
  goku_gpu_ecc_errors_total: {
    type: "counter",
    unit: "count",
    labels: { ...GPU, kind: "corrected, uncorrected" },
    help: "Errors of the GPU's memory since its driver was loaded",
  },
  goku_gpu_retired_pages: {
    type: "gauge",
    unit: "count",
    labels: GPU,
    help: "Pages of its memory that the GPU uses no more",
  },
  goku_gpu_remapped_rows: {
    type: "gauge",
    unit: "count",
    labels: { ...GPU, kind: "corrected, uncorrected" },
    help: "Rows of its memory that were replaced, by the errors that they had",
  },
  goku_gpu_remap_pending: {
    type: "gauge",
    unit: "0 or 1",
    labels: GPU,
    help: "1: a page or row of its memory is bad and is replaced when the GPU is reset",
  },
  goku_gpu_remap_failed: {
    type: "gauge",
    unit: "0 or 1",
    labels: GPU,
    help: "1: a bad row of its memory could not be replaced",
  },
  goku_gpu_nvlinks: {
    type: "gauge",
    unit: "count",
    labels: { ...GPU, state: "up, down" },
    help: "Links of the GPU to others or to switches",
  },
  goku_gpu_nvlink_errors_total: {
    type: "counter",
    unit: "count",
    labels: { ...GPU, kind: "replay, recovery, crc" },
    help: "Errors of the GPU's links since its driver was loaded",
  },
  goku_rank_step: { type: "gauge", unit: "steps", labels: RANK, help: "Last step that the rank has applied" },
  goku_rank_unchanged_seconds: {
    type: "gauge",
    unit: "seconds",
    labels: RANK,
    help: "Since the rank last changed step, micro-step, phase or collective",
  },
  goku_rank_steps_total: {
    type: "counter",
    unit: "steps",
    labels: RANK,
    help: "Steps of the rank in its generation, which begins again at 0, as do the sums that follow",
  },
  goku_rank_section_seconds_total: {
    type: "counter",
    unit: "seconds",
    labels: { ...RANK, section: "forward, backward, optimizer, data" },
    help: "Own time of the rank's steps by section, waiting for other ranks left out; data: waiting for packs",
  },
  goku_rank_wait_seconds_total: {
    type: "counter",
    unit: "seconds",
    labels: { ...RANK, collective: COLLECTIVES },
    help: "Time that the rank waited for other ranks, by collective",
  },
  goku_rank_model_flops_total: {
    type: "counter",
    unit: "FLOP",
    labels: RANK,
    help: "Work of the rank, forward and backward, what is recomputed not counted: 6 for each multiply-add of a forward pass",
  },
  goku_rank_peak_flops: {
    type: "gauge",
    unit: "FLOP/s",
    labels: RANK,
    help: "What the rank's device can do, as the agent was told (--peak-tflops); there is none when it was told nothing",
  },
  goku_rank_resident_bytes: {
    type: "gauge",
    unit: "bytes",
    labels: RANK,
    help: "Resident memory of the rank's process, shared memory of its snapshots included",
  },
  goku_rank_slowness_ratio: {
    type: "gauge",
    unit: "ratio",
    labels: RANK,
    help: "Own compute time of the rank for its work, over the median of the other ranks; told by the controller every 15 s",
  },
  goku_rank_snapshot_step: {
    type: "gauge",
    unit: "steps",
    labels: RANK,
    help: "Step of the newest state that the rank's process has made a whole snapshot of; no series: of none yet",
  },
  goku_rank_snapshot_timestamp_seconds: {
    type: "gauge",
    unit: "timestamp",
    labels: RANK,
    help: "When it made that snapshot",
  },
  goku_rank_snapshots_failed_total: {
    type: "counter",
    unit: "count",
    labels: RANK,
    help: "Snapshots that the rank's process could not make; training goes on from older ones",
  },
  goku_replica_seconds: {
    type: "histogram",
    unit: "seconds",
    labels: {},
    help: "Time to copy a state of one rank to another node",
    buckets: SECONDS_BUCKETS,
  },
  goku_replica_sent_bytes_total: {
    type: "counter",
    unit: "bytes",
    labels: {},
    help: "Bytes of states copied to other nodes",
  },
  goku_replica_last_timestamp_seconds: {
    type: "gauge",
    unit: "timestamp",
    labels: {},
    help: "When a state was last copied whole to another node; 0: not yet",
  },
  goku_replica_retries_total: {
    type: "counter",
    unit: "count",
    labels: {},
    help: "Copies to other nodes that failed and were tried again",
  },
  goku_save_retries_total: {
    type: "counter",
    unit: "count",
    labels: {},
    help: "Writes to durable storage that failed and were tried again",
  },
  goku_run_record_failures_total: {
    type: "counter",
    unit: "count",
    labels: {},
    help: "Writes of metrics.jsonl and TensorBoard events that failed; their steps are written with the next",
  },
} as const satisfies Record<string, MetricEntry>;

export type ControllerMetric = keyof typeof CONTROLLER_METRICS;
export type ControllerMetricLabels<Name extends ControllerMetric> = {
  [label in keyof (typeof CONTROLLER_METRICS)[Name]["labels"]]: string;
};
export type NodeMetric = keyof typeof NODE_METRICS;
