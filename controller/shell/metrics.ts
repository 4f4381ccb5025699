import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { StepCompleted } from "../../gen/goku/v1/agent.pb.js";
import { METRICS, type MetricName } from "../core/contract.js";

/** What each of the core's metrics means; complete by its type. */
const HELP: Record<MetricName, { help: string; labels: string[] }> = {
  goku_agent_messages_refused_total: { help: "Agent messages refused, by reason", labels: ["reason"] },
  goku_generations_formed_total: { help: "Generations whose ranks were given places", labels: [] },
  goku_generations_failed_total: {
    help: "Generations that ended by a fault, forming or training",
    labels: [],
  },
  goku_incidents_total: { help: "Faults detected, by error code", labels: ["code"] },
  goku_recovery_seconds: { help: "From detection of a fault to the next completed step", labels: ["code"] },
  goku_steps_lost_total: { help: "Steps computed again after a fault", labels: [] },
  goku_steps_completed_total: { help: "Steps completed", labels: ["job"] },
  goku_checkpoints_committed_total: { help: "Durable checkpoints committed", labels: [] },
  goku_checkpoints_failed_total: { help: "Durable saves that failed", labels: [] },
  goku_checkpoint_seconds: { help: "From snapshot to committed checkpoint", labels: [] },
  goku_nodes_connected: { help: "Nodes with a living session", labels: [] },
  goku_persist_retries_total: { help: "Store writes tried again", labels: [] },
};
const SECONDS = [0.01, 0.03, 0.1, 0.3, 1, 2, 5, 10, 30, 60, 120, 300, 900];

/** Prometheus metrics of a controller: the core's observations, and the figures of every completed step. */
export class Metrics {
  readonly #registry = new Registry();
  readonly #core = new Map<MetricName, Counter | Gauge | Histogram>();
  readonly #loss: Gauge;
  readonly #gradNorm: Gauge;
  readonly #step: Gauge;
  readonly #replicatedStep: Gauge;
  readonly #tokens: Counter;
  readonly #stepSeconds: Histogram;
  readonly #sections: Counter;
  readonly #packFill: Gauge;
  readonly #unreadable: Counter;

  constructor() {
    const registers = [this.#registry];
    collectDefaultMetrics({ register: this.#registry });
    for (const [name, type] of Object.entries(METRICS) as [MetricName, (typeof METRICS)[MetricName]][]) {
      const { help, labels } = HELP[name];
      const shared = { name, help, labelNames: labels, registers };
      if (type === "counter") this.#core.set(name, new Counter(shared));
      else if (type === "gauge") this.#core.set(name, new Gauge(shared));
      else this.#core.set(name, new Histogram({ ...shared, buckets: SECONDS }));
    }
    const job = { labelNames: ["job"], registers };
    this.#loss = new Gauge({ name: "goku_train_loss", help: "Loss of the last completed step", ...job });
    this.#gradNorm = new Gauge({
      name: "goku_train_grad_norm",
      help: "Gradient norm of the last completed step, before clipping",
      ...job,
    });
    this.#step = new Gauge({ name: "goku_train_step", help: "Last completed step", ...job });
    this.#replicatedStep = new Gauge({
      name: "goku_train_replicated_step",
      help: "Newest step of the generation whose state is in two places for every rank; 0: none",
      ...job,
    });
    this.#tokens = new Counter({
      name: "goku_train_tokens_total",
      help: "Tokens of completed steps, steps computed again included",
      ...job,
    });
    this.#stepSeconds = new Histogram({
      name: "goku_train_step_seconds",
      help: "Time of a step on rank 0",
      buckets: SECONDS,
      ...job,
    });
    this.#sections = new Counter({
      name: "goku_train_section_seconds_total",
      help: "Time of steps on rank 0, by section",
      labelNames: ["job", "section"],
      registers,
    });
    this.#packFill = new Gauge({
      name: "goku_train_pack_fill_ratio",
      help: "Tokens over capacity of the last step's packs",
      ...job,
    });
    this.#unreadable = new Counter({
      name: "goku_train_samples_unreadable_total",
      help: "Samples that could not be read and weighed 0",
      ...job,
    });
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  render(): Promise<string> {
    return this.#registry.metrics();
  }

  observe(metric: MetricName, value: number, labels: Record<string, string>): void {
    const instrument = this.#core.get(metric)!;
    if (instrument instanceof Counter) instrument.inc(labels, value);
    else if (instrument instanceof Gauge) instrument.set(labels, value);
    else instrument.observe(labels, value);
  }

  step(job: string, step: StepCompleted): void {
    this.#loss.set({ job }, step.loss);
    this.#gradNorm.set({ job }, step.gradNorm);
    this.#step.set({ job }, Number(step.step));
    this.#replicatedStep.set({ job }, Number(step.replicatedStep));
    this.#tokens.inc({ job }, Number(step.tokens));
    this.#stepSeconds.observe({ job }, step.stepSeconds);
    this.#sections.inc({ job, section: "compute" }, step.computeSeconds);
    this.#sections.inc({ job, section: "communication" }, step.commWaitSeconds);
    this.#sections.inc({ job, section: "data" }, step.dataWaitSeconds);
    this.#sections.inc({ job, section: "snapshot" }, step.snapshotSeconds);
    this.#packFill.set({ job }, step.packFill);
    this.#unreadable.inc({ job }, step.unreadable);
  }
}
