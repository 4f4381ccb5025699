import type { JobStatus } from "../../gen/goku/v1/controller.pb.js";
import { isCommandJob } from "../../job/command_job.js";
import { toGokuError } from "../../job/errors.js";
import { Layout } from "../../job/layout.js";
import type { IncidentRecord, NodeFate } from "../core/contract.js";
import type { CoreState } from "../core/state.js";
import { jobViews } from "../core/views.js";
import type { ControllerShell } from "../shell/controller_shell.js";
import type { ShellApi } from "../shell/shell_api.js";
import { jobStatus } from "../shell/views.js";
import type { Quarantine, TrainedIncident, TrainedJob, TrainingPort } from "./training_port.js";

/** The controller that this process runs, as its Kubernetes side sees it. What it is asked to do is audited like any request. */
export class ShellTraining implements TrainingPort {
  readonly #shell: ControllerShell;
  readonly #api: ShellApi;

  constructor(shell: ControllerShell, api: ShellApi) {
    this.#shell = shell;
    this.#api = api;
  }

  isReady(): boolean {
    return this.#api.isReady();
  }

  jobs(): TrainedJob[] {
    const { state, histories } = this.#shell;
    return jobViews(state, this.#shell.nowMs()).map((view) => {
      const status = jobStatus(view, histories.get(view.record.jobId));
      const { job } = view.record;
      return {
        ...common(status),
        jobId: view.record.jobId,
        name: job.name,
        phase: view.phase,
        over: view.over,
        code: view.outcome?.code ?? null,
        stepsTotal: isCommandJob(job) ? null : job.train.steps,
        layout: view.layout === null ? null : new Layout(view.layout).toString(),
        incidents: view.incidents.map(incidentOf),
      };
    });
  }

  quarantines(): Quarantine[] {
    return quarantinesOf(this.#shell.state);
  }

  submit(jobId: string, job: Record<string, unknown>, resumeUri: string | null): Promise<string> {
    return this.#audited("submit a job", String(job.name), async () => {
      const { id } = await this.#api.submitJob(job, resumeUri, jobId);
      return id;
    });
  }

  async stop(jobId: string): Promise<void> {
    await this.#audited("stop a job", this.#shell.jobName(jobId), () =>
      this.#shell.request((requestId) => ({ kind: "stopRequested", requestId, jobId, graceMs: null })),
    );
  }

  async release(nodeId: string): Promise<void> {
    await this.#audited("release a node", nodeId, () => this.#api.releaseNode(nodeId));
  }

  tellFate(nodeId: string, fate: NodeFate): void {
    this.#shell.tell({ kind: "nodeFate", nodeId, fate });
  }

  tellDomain(nodeId: string, domain: string | null): void {
    this.#shell.tell({ kind: "nodeDomain", nodeId, domain });
  }

  async #audited<T>(action: string, target: string, act: () => Promise<T>): Promise<T> {
    const entry = (outcome: string) => ({
      ...{ who: "kubernetes", via: "kubernetes", address: "", action, target },
      outcome,
    });
    const job = action.endsWith("job") ? target : "";
    try {
      const result = await act();
      this.#shell.audit(entry("DONE"), job);
      return result;
    } catch (error) {
      this.#shell.audit(entry(toGokuError(error).code), job);
      throw error;
    }
  }
}

/** Faults of machines. A node that a person drained is not one: its machine is left alone, and nothing but a person ends it. */
export function quarantinesOf({ quarantine }: Pick<CoreState, "quarantine">): Quarantine[] {
  return [...quarantine.values()].flatMap(({ nodeId, reason, atMs, untilMs, drained }) =>
    drained ? [] : [{ nodeId, reason, atMs, untilMs }],
  );
}

function common(status: JobStatus) {
  return {
    reason: status.reason,
    step: Number(status.step),
    etaSeconds: status.etaSeconds ?? null,
    loss: status.loss ?? null,
    tokensPerSecond: status.tokensPerSecond ?? null,
    generation: Number(status.generation),
    checkpoint:
      status.checkpointUri === "" ? null : { uri: status.checkpointUri, step: Number(status.checkpointStep) },
  };
}

function incidentOf(record: IncidentRecord): TrainedIncident {
  const { number, code, what, outcome, openedAtMs, closedAtMs, stepsLost, decisions } = record;
  const decision = decisions.map(({ text }) => text).join("; ");
  return { number, code, what, decision, outcome, openedAtMs, closedAtMs, stepsLost };
}
