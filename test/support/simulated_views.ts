import type { ControllerApi } from "../../controller/api/controller_api.js";
import type { RankHealth } from "../../controller/core/view_ranks.js";
import { EventLog } from "../../controller/shell/event_log.js";
import { TrainingHistory } from "../../controller/shell/training_history.js";
import { RankProgress, StepCompleted } from "../../gen/goku/v1/agent.pb.js";
import {
  CheckpointRecord,
  Incident,
  IncidentOutcome,
  JobPhase,
  JobStatus,
  NodeStatus,
} from "../../gen/goku/v1/controller.pb.js";
import { GokuError } from "../../job/errors.js";
import type { Job } from "../../job/job.js";

export interface SimulatedRun {
  name?: string;
  ranks: number;
  ranksPerNode: number;
  steps: number;
  stepsTotal: number;
}

/**
 * The views of one large job, without a cluster: numbers made from the rank's and the step's, a few ranks that are not well, an
 * incident. What they show is checked by the core's tests; this is for pages that show them.
 */
export class SimulatedViews {
  readonly log = new EventLog(0);
  /** What was asked of it, for example "stop big". */
  readonly asked: string[] = [];
  readonly #run: Required<SimulatedRun>;
  readonly #history = new TrainingHistory();
  step = 0;

  constructor(run: SimulatedRun) {
    this.#run = { name: "big", ...run };
    while (this.step < run.steps) this.complete();
  }

  /** Another step, told as an event. */
  complete(): void {
    this.step += 1;
    const wave = 1 + 0.05 * Math.sin(this.step * 1.7);
    const seconds = 1.2 * wave;
    const step = StepCompleted.fromPartial({
      step: BigInt(this.step),
      loss: 0.35 + 2.2 * Math.exp(-this.step / 300) + 0.02 * Math.sin(this.step * 12.9898),
      gradNorm: 0.4 * wave,
      learningRate: 1e-4,
      applied: true,
      tokens: BigInt(this.#run.ranks * 4096),
      stepSeconds: seconds,
      computeSeconds: 0.8 * seconds,
      commWaitSeconds: 0.13 * seconds,
      dataWaitSeconds: 0.02 * seconds,
      snapshotSeconds: 0.03 * seconds,
    });
    const timeMs = Date.now() - 1_200 * Math.max(0, this.#run.steps - this.step);
    this.#history.add(step, timeMs);
    this.log.add({ timeMs, job: this.#run.name, kind: "step", message: `step ${this.step}`, step });
  }

  tell(kind: string, message: string): void {
    this.log.add({ timeMs: Date.now(), job: this.#run.name, kind, message });
  }

  #nodeOf(rank: number): string {
    return `node-${String(Math.floor(rank / this.#run.ranksPerNode)).padStart(4, "0")}`;
  }

  #healthOf(rank: number): RankHealth {
    if (rank === Math.floor(this.#run.ranks * 0.61)) return "failed";
    if (
      Math.floor(rank / this.#run.ranksPerNode) ===
      Math.floor((this.#run.ranks / this.#run.ranksPerNode) * 0.33)
    )
      return "lost";
    return rank % 997 === 5 ? "slow" : "training";
  }

  #slownessOf(rank: number): number {
    const drift = 0.03 * Math.sin(rank * 0.7) + 0.02 * Math.sin(rank / 90);
    return rank % 997 === 5 ? 1.42 : 1 + drift + (rank % 331 === 7 ? 0.16 : 0);
  }

  #status(): JobStatus {
    const { name, ranks, stepsTotal } = this.#run;
    const all = Array.from({ length: ranks }, (_, rank) => rank);
    return JobStatus.fromPartial({
      id: "00000000-0000-4000-8000-000000000001",
      name,
      phase: JobPhase.RUNNING,
      reason: "generation 3 trains",
      step: BigInt(this.step),
      stepsTotal: BigInt(stepsTotal),
      etaSeconds: 1.2 * (stepsTotal - this.step),
      generation: 3n,
      layout: { dpReplicate: ranks / 64, dpShard: 8, sp: 8 },
      rankNodes: all.map((rank) => this.#nodeOf(rank)),
      rankSlowness: all.map((rank) => this.#slownessOf(rank)),
      stragglers: [
        {
          nodeId: this.#nodeOf(5),
          rank: 5,
          slowness: 1.42,
          evidence: "1.42 times the time of the others for the same work",
        },
      ],
      incidents: 1,
      submittedAt: new Date(Date.now() - 3_600_000),
    });
  }

  #incident(): Incident {
    const rank = Math.floor(this.#run.ranks * 0.61);
    const step = Math.floor(this.#run.steps * 0.7);
    return Incident.fromPartial({
      id: 1n,
      job: this.#run.name,
      detectedAt: new Date(Date.now() - 90_000),
      what: `rank ${rank} on ${this.#nodeOf(rank)} ended by SIGKILL in step ${step}, backward, layer 11`,
      code: "RANK_DIED",
      rank,
      nodeId: this.#nodeOf(rank),
      evidence: [
        `+0.000 s  rank ${rank - 1}: COMM_PEER_DIED in allGather`,
        `+0.021 s  rank ${rank} ended by SIGKILL`,
      ],
      decision: "form generation 3: restore from memory, the newest state that all ranks hold",
      generationBefore: 2n,
      generationAfter: 3n,
      milestones: [
        { name: "detected", afterMs: 0n },
        { name: "aborted", afterMs: 120n },
        { name: "ready", afterMs: 2_300n },
        { name: "stepped", afterMs: 4_100n },
      ],
      stepsLost: 0n,
      stepBefore: BigInt(step - 1),
      outcome: IncidentOutcome.RECOVERED,
    });
  }

  #known(name: string): void {
    const { name: own } = this.#run;
    if (name !== own && !name.startsWith("00000000-"))
      throw new GokuError("NOT_FOUND", `Cannot find job "${name}"`);
  }

  get api(): ControllerApi {
    const { ranks, ranksPerNode } = this.#run;
    const all = () => Array.from({ length: ranks }, (_, rank) => rank);
    const unused = async (): Promise<never> => {
      throw new GokuError("STATE_INVALID", "Cannot do that: these are simulated views");
    };
    return {
      submitJob: unused,
      listJobs: () => [this.#status()],
      getJob: () => ({ status: this.#status(), spec: {} as Job, history: [] }),
      curves: () => this.#history.curves(),
      ranks: (name) => {
        this.#known(name);
        return {
          generation: 3,
          layout: { dp_replicate: ranks / 64, dp_shard: 8, sp: 8 },
          nodes: Array.from({ length: Math.ceil(ranks / ranksPerNode) }, (_, i) =>
            this.#nodeOf(i * ranksPerNode),
          ),
          nodeOf: all().map((rank) => Math.floor(rank / ranksPerNode)),
          health: all().map((rank) => this.#healthOf(rank)),
          step: all().map(() => this.step),
          slowness: all().map((rank) => this.#slownessOf(rank)),
        };
      },
      rank: (_name, rank) => ({
        rank,
        nodeId: this.#nodeOf(rank),
        host: "10.0.0.1",
        device: "cuda",
        failureDomain: "rack-1",
        connected: true,
        silentMs: 400,
        health: this.#healthOf(rank),
        slowness: this.#slownessOf(rank),
        progress: RankProgress.fromPartial({
          rank,
          pid: 4_000 + rank,
          step: BigInt(this.step),
          phase: "backward",
          layer: 7,
        }),
      }),
      stopJob: async (name) => {
        this.asked.push(`stop ${name}`);
        return { ...this.#status(), phase: JobPhase.STOPPING };
      },
      saveJob: async (name) => void this.asked.push(`save ${name}`),
      metricsTargets: () => [],
      listNodes: () => [
        NodeStatus.fromPartial({ nodeId: this.#nodeOf(0), connected: true, slots: ranksPerNode }),
      ],
      releaseNode: unused,
      drainNode: async (nodeId) => void this.asked.push(`drain ${nodeId}`),
      diagnose: unused,
      diagnosis: () => {
        throw new GokuError("NOT_FOUND", "Cannot show a diagnosis");
      },
      listCheckpoints: () =>
        [1, 2, 3].map((i) =>
          CheckpointRecord.fromPartial({
            state: { generation: 3n, step: BigInt(i * 100) },
            uri: `s3://runs/big/checkpoint-${i * 100}`,
            bytes: 128_000_000_000n,
            seconds: 41,
            committedAt: new Date(Date.now() - 100_000 * (4 - i)),
            unusable: i === 1 ? "damaged: Cannot read checkpoint-100/g3-w7.safetensors: MiB 3 differs" : "",
            ...(i === 1 ? {} : { read: { whole: i === 2 ? 8 : 5, of: 8, at: new Date(1_800_000_000_000) } }),
          }),
        ),
      listPreviews: async () => [],
      previewFile: unused,
      requireKnowledge: () => {},
      asOf: () => null,
      onOtherLeads: () => () => {},
      listIncidents: () => [this.#incident()],
      logs: (_name, rank) => [
        { time: new Date(), rank: rank ?? 0, text: `rank ${rank} at step ${this.step}` },
      ],
      pastEvents: (job, after) => this.log.past(job, after),
      onEvent: (callback) => this.log.listen(callback),
      isOver: () => false,
      isReady: () => true,
      standing: () => "it leads",
    };
  }
}
