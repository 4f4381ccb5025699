import type { StepCompleted } from "../../gen/goku/v1/agent.pb.js";
import type { AuditEntry } from "../../gen/goku/v1/controller.pb.js";
import { LEFT_OUT_REASONS } from "../../job/left_out.js";
import { type Labels, MetricSet } from "../../job/metric_set.js";
import { CONTROLLER_METRICS, type ControllerMetric } from "../../job/metrics.js";
import type { MetricName } from "../core/contract.js";
import { ENDS } from "./show_state.js";

/** Of each job from 0 on, so that the first is an increase. */
const FROM_ZERO = [
  "goku_checkpoints_committed_total",
  "goku_checkpoints_failed_total",
  "goku_replicas_failed_total",
  "goku_snapshots_skipped_total",
  "goku_saves_put_off_total",
  "goku_twins_differ_total",
  "goku_checkpoint_written_bytes_total",
  "goku_steps_lost_total",
] as const;
const BAD_STEPS = ["data", "hardware", "untold", "unread", "loss_spike", "gradient_spike"];

const SLOW_KINDS = ["rank", "node"];
const REFUSALS = ["stale_generation", "stale_session", "malformed"];

/** Sets what is kept elsewhere, for the scrape that has begun. */
export type Scrape = (metrics: MetricSet<ControllerMetric>) => void;

/**
 * Prometheus metrics of a controller: the core's observations, the figures of every completed step, and what `onScrape`
 * reads from the core's state. There is no series of a rank here: those are at the agents.
 */
export class Metrics {
  readonly #set = new MetricSet<ControllerMetric>(CONTROLLER_METRICS);
  /** Jobs that have their series from 0 on. */
  readonly #begun = new Set<string>();
  #scrape: Scrape = () => {};

  constructor() {
    // From 0 on, so that the first is an increase.
    for (const phase of ENDS) this.#set.tell("goku_jobs_ended_total", 0, { phase });
    for (const reason of REFUSALS) this.#set.tell("goku_agent_messages_refused_total", 0, { reason });
  }

  get contentType(): string {
    return this.#set.contentType;
  }

  onScrape(scrape: Scrape): void {
    this.#scrape = scrape;
  }

  async render(): Promise<string> {
    this.#scrape(this.#set);
    return await this.#set.render();
  }

  observe(metric: MetricName, value: number, labels: Labels): void {
    if (labels.job !== undefined) this.#begin(labels.job);
    this.#set.tell(metric, value, labels);
  }

  certificate(certificate: "server" | "store", expiryMs: number): void {
    this.#set.tell("goku_tls_certificate_expiry_timestamp_seconds", expiryMs / 1000, { certificate });
  }

  audited({ action, outcome }: AuditEntry): void {
    this.#set.tell("goku_audit_entries_total", 1, { action, outcome });
  }

  leads(isSo: boolean): void {
    this.#set.tell("goku_leader", isSo ? 1 : 0);
  }

  storeFailed(): void {
    this.#set.tell("goku_store_failures_total", 1);
  }

  storeAnswered(operation: "transact" | "read", outcome: string, seconds: number): void {
    this.#set.tell("goku_store_seconds", seconds, { operation, outcome });
  }

  /** Series of jobs that the core has forgotten are of no more use. */
  async keepJobs(names: ReadonlySet<string>): Promise<void> {
    for (const job of this.#begun) if (!names.has(job)) this.#begun.delete(job);
    await this.#set.keep(({ job }) => job === undefined || names.has(job));
  }

  #begin(job: string): void {
    if (this.#begun.has(job)) return;
    this.#begun.add(job);
    const set = this.#set;
    for (const name of FROM_ZERO) set.tell(name, 0, { job });
    for (const kind of BAD_STEPS) set.tell("goku_bad_steps_total", 0, { job, kind });
    for (const reason of LEFT_OUT_REASONS) set.tell("goku_steps_left_out_total", 0, { job, reason });
    for (const result of ["whole", "damaged"]) set.tell("goku_checkpoint_verified_total", 0, { job, result });
    for (const kind of SLOW_KINDS) set.tell("goku_stragglers_total", 0, { job, kind });
    set.begin("goku_checkpoint_seconds", { job });
  }

  step(job: string, step: StepCompleted): void {
    this.#begin(job);
    const set = this.#set;
    const own = { job };
    if (step.loss !== undefined) set.tell("goku_train_loss", step.loss, own);
    if (step.gradNorm !== undefined) set.tell("goku_train_grad_norm", step.gradNorm, own);
    set.tell("goku_train_learning_rate", step.learningRate, own);
    set.tell("goku_train_step", Number(step.step), own);
    set.tell("goku_train_replicated_step", Number(step.replicatedStep), own);
    set.tell("goku_train_tokens_total", Number(step.tokens), own);
    set.tell("goku_train_samples_total", step.images, { job, kind: "image" });
    set.tell("goku_train_samples_total", step.videos, { job, kind: "video" });
    set.tell("goku_train_samples_unreadable_total", step.unreadable, own);
    set.tell("goku_train_pack_fill_ratio", step.packFill, own);
    set.tell("goku_train_model_flops_total", step.modelFlops, own);
    set.tell("goku_train_memory_peak_bytes", Number(step.memoryPeakBytes), own);
    this.#stepTimes(job, step);
  }

  #stepTimes(job: string, step: StepCompleted): void {
    const set = this.#set;
    set.tell("goku_train_step_seconds", step.stepSeconds, { job });
    set.tell("goku_snapshot_seconds", step.snapshotSeconds, { job });
    const sections = {
      compute: step.computeSeconds,
      communication: step.commWaitSeconds,
      data: step.dataWaitSeconds,
      optimizer: step.optimizerSeconds,
      snapshot: step.snapshotSeconds,
    };
    for (const [section, seconds] of Object.entries(sections))
      set.tell("goku_train_section_seconds_total", seconds, { job, section });
    if (step.waits === undefined) return;
    const { allGather, reduceScatter, allReduce, allToAll, vote } = step.waits;
    const waits = {
      all_gather: allGather,
      reduce_scatter: reduceScatter,
      all_reduce: allReduce,
      all_to_all: allToAll,
      vote,
    };
    for (const [collective, seconds] of Object.entries(waits))
      set.tell("goku_train_wait_seconds_total", seconds, { job, collective });
  }
}
