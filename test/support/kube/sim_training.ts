import type { NodeFate } from "../../../controller/core/contract.js";
import type {
  Quarantine,
  TrainedIncident,
  TrainedJob,
  TrainingPort,
} from "../../../controller/kubernetes/training_port.js";
import { type ErrorCode, GokuError } from "../../../job/errors.js";
import { resolveAnyJob } from "../../../job/load_job.js";

/** What a run of the simulated controller has been through. */
interface Run extends TrainedJob {
  incidents: TrainedIncident[];
  /** Ticks left of the final save; null: not stopping. */
  saving: number | null;
}

/** The controller as its Kubernetes side sees it: jobs train a step a tick, whatever becomes of the API server. */
export class SimTraining implements TrainingPort {
  readonly nowMs: () => number;
  readonly runs = new Map<string, Run>();
  readonly quarantined = new Map<string, Quarantine>();
  readonly fates: { nodeId: string; fate: NodeFate; atMs: number }[] = [];
  readonly domains = new Map<string, string | null>();
  readonly released: string[] = [];
  /** Nobody leads for the time being. */
  ready = true;
  /** The next submission is carried out and its answer is lost. */
  loseAnswer = false;
  /** Names of jobs whose storage hangs: their submissions get no answer until it is over. */
  readonly hanging = new Map<string, Promise<void>>();
  /** How often all jobs were looked at. */
  looks = 0;

  constructor(nowMs: () => number) {
    this.nowMs = nowMs;
  }

  isReady(): boolean {
    return this.ready;
  }

  jobs(): TrainedJob[] {
    this.looks += 1;
    return [...this.runs.values()].map((run) => structuredClone(run));
  }

  quarantines(): Quarantine[] {
    return [...this.quarantined.values()];
  }

  async submit(jobId: string, spec: Record<string, unknown>): Promise<string> {
    this.#lead();
    const job = resolveAnyJob(spec);
    await this.hanging.get(job.name);
    const living = [...this.runs.values()].find((run) => run.name === job.name && !run.over);
    if (living !== undefined && living.jobId !== jobId)
      throw new GokuError("CONFLICT", `Cannot submit job ${job.name}: another job of that name trains`);
    if (living === undefined) {
      if (this.runs.has(jobId)) throw new GokuError("CONFLICT", `its id ${jobId} is taken`);
      this.runs.set(jobId, newRun(jobId, job.name, "train" in job ? job.train.steps : null));
    }
    if (this.loseAnswer) {
      this.loseAnswer = false;
      throw new GokuError("NOT_LEADER", "leadership was lost before the answer");
    }
    return jobId;
  }

  async stop(jobId: string): Promise<void> {
    this.#lead();
    const run = this.runs.get(jobId)!;
    if (run.over) throw new GokuError("STATE_INVALID", "it is over");
    run.phase = "STOPPING";
    run.saving ??= 3;
  }

  async release(nodeId: string): Promise<void> {
    this.#lead();
    if (!this.quarantined.delete(nodeId)) throw new GokuError("NOT_FOUND", "it is not quarantined");
    this.released.push(nodeId);
  }

  tellFate(nodeId: string, fate: NodeFate): void {
    this.fates.push({ nodeId, fate, atMs: this.nowMs() });
  }

  tellDomain(nodeId: string, domain: string | null): void {
    this.domains.set(nodeId, domain);
  }

  /** A step of every job, or of its last save. */
  tick(): void {
    for (const run of this.runs.values()) {
      if (run.over) continue;
      if (run.saving === null) {
        run.phase = "RUNNING";
        run.layout = "1x2x1";
        run.step += 1;
        run.loss = 1 / run.step;
        if (run.step === run.stepsTotal) this.#end(run, "COMPLETED");
      } else {
        run.saving -= 1;
        if (run.saving === 0) {
          run.checkpoint = { uri: `file:///runs/${run.name}/checkpoint-${run.step}`, step: run.step };
          this.#end(run, "STOPPED");
        }
      }
    }
  }

  fail(name: string, code: ErrorCode): void {
    const run = [...this.runs.values()].findLast((one) => one.name === name && !one.over);
    if (run === undefined) return;
    const number = run.incidents.length + 1;
    const atMs = this.nowMs();
    run.incidents.push({
      ...{ number, code, what: `rank 1 on n1 had ${code}`, decision: "form again", outcome: "recovered" },
      ...{ openedAtMs: atMs, closedAtMs: atMs + 900, stepsLost: 0 },
    });
  }

  #end(run: Run, phase: "COMPLETED" | "STOPPED"): void {
    run.phase = phase;
    run.over = true;
    run.reason = phase.toLowerCase();
  }

  #lead(): void {
    if (!this.ready) throw new GokuError("NOT_LEADER", "Cannot answer: nobody leads");
  }
}

function newRun(jobId: string, name: string, stepsTotal: number | null): Run {
  return {
    ...{ jobId, name, phase: "QUEUED", reason: "", over: false, code: null, step: 0, stepsTotal },
    ...{ etaSeconds: null, loss: null, tokensPerSecond: null, layout: null, generation: 1 },
    ...{ checkpoint: null, incidents: [], saving: null },
  };
}
