import type {
  CheckpointSource,
  CoreLimits,
  Effect,
  Event,
  IncidentRecord,
  JobRecord,
} from "../../controller/core/contract.js";
import { DEFAULT_LIMITS, durableKeys } from "../../controller/core/contract.js";
import type { JobState } from "../../controller/core/state.js";
import { type Job, jobSchema } from "../../job/job.js";
import type { LayoutSize } from "../../job/layout.js";
import { Invariants, type Truth } from "./invariants.js";
import { Random } from "./random.js";
import { Scheduler } from "./scheduler.js";
import { type SimAgent, SimNode, type SimWorld } from "./sim_agent.js";
import { type AgentLink, type CommandFrame, SimController } from "./sim_controller.js";
import { type Blockade, type NetworkMood, SimLink } from "./sim_link.js";
import { SimMemory } from "./sim_memory.js";
import type { SimRank } from "./sim_rank.js";
import { SimStore } from "./sim_store.js";
import { type SimJob, TrainGroup } from "./train_group.js";

export interface SimOptions {
  seed: number;
  nodes: number;
  slotsPerNode?: number;
  /** Failure domains that nodes are dealt to in turn; 0: each is its own. */
  racks?: number;
  controllers?: number;
  limits?: Partial<CoreLimits>;
  /** Also the node grace of every job, since the invariants must know it. */
  graceSeconds?: number;
}

export interface SimJobOptions {
  name: string;
  layout: LayoutSize | "auto";
  steps: number;
  saveEverySteps?: number;
  stepMs?: number;
  maxAttempts?: number;
  saveFailRate?: number;
  replicas?: number;
  source?: CheckpointSource | null;
}

const BASE_JOB = jobSchema.parse({
  name: "sim",
  data: { media: "/data" },
  train: { steps: 1, packs_per_step: 64 },
  checkpoint: { uri: "file:///sim" },
});

/** A whole cluster in one process on virtual time: real cores, everything else modelled after the protocol. */
export class SimCluster implements SimWorld, Truth {
  readonly scheduler = new Scheduler();
  readonly random: Random;
  readonly store: SimStore;
  readonly nodes: SimNode[] = [];
  readonly controllers: SimController[] = [];
  readonly groups = new Map<number, TrainGroup>();
  readonly jobs = new Map<string, SimJob>();
  readonly mood: NetworkMood = { delayMsMin: 1, delayMsMax: 10, duplicateRate: 0 };
  readonly invariants: Invariants;
  readonly graceMs: number;
  /** Event-log texts, newest last. */
  readonly logs: string[] = [];
  /** FNV-1a over everything that controllers heard and did. */
  hash = 0x811c9dc5;
  onTrace: ((line: string) => void) | null = null;
  readonly #blockades = new Map<string, { way: Blockade; untilMs: number }>();
  #requestLast = 0;

  constructor(options: SimOptions) {
    this.random = new Random(options.seed);
    this.graceMs = 1000 * (options.graceSeconds ?? 30);
    this.store = new SimStore(this.scheduler, this.random.fork());
    this.invariants = new Invariants(this);
    this.store.onWrite = (key, record) => this.invariants.written(key, record);
    const limits = { ...DEFAULT_LIMITS, restoreMs: 60_000, finalSaveMs: 60_000, ...options.limits };
    for (let i = 0; i < (options.controllers ?? 2); i++) {
      const id = `c${i}`;
      const { scheduler, store } = this;
      const random = this.random.fork();
      this.controllers.push(new SimController({ id, scheduler, random, store, limits, observer: this }));
    }
    for (let i = 0; i < options.nodes; i++) {
      const rack = options.racks ? `rack-${i % options.racks}` : "";
      const node = new SimNode(`n${String(i).padStart(2, "0")}`, options.slotsPerNode ?? 2, rack);
      this.nodes.push(node);
      node.startAgent(this, this.random.fork());
    }
  }

  get nowMs(): number {
    return this.scheduler.nowMs;
  }

  get controllerCount(): number {
    return this.controllers.length;
  }

  // What people do ----------------------------------------------------------------------------------------------------

  /** Submits a job, again and again until a leader has taken it durably. */
  submit(options: SimJobOptions): void {
    const jobId = `job-${options.name}`;
    const uri = `file:///sim/${options.name}`;
    const job: Job = {
      ...BASE_JOB,
      name: options.name,
      layout: options.layout,
      train: { ...BASE_JOB.train, steps: options.steps },
      checkpoint: {
        ...BASE_JOB.checkpoint,
        uri,
        every_steps: options.saveEverySteps ?? 20,
        replicas: options.replicas ?? 1,
      },
      recovery: {
        ...BASE_JOB.recovery,
        max_attempts: options.maxAttempts ?? 1_000,
        stall_seconds: 5,
        node_grace_seconds: this.graceMs / 1000,
      },
    };
    this.jobs.set(jobId, {
      jobId,
      steps: options.steps,
      saveEverySteps: options.saveEverySteps ?? 20,
      stepMs: options.stepMs ?? 400,
      uri,
      durable: [],
      saveFailRate: options.saveFailRate ?? 0,
    });
    const source = options.source ?? null;
    this.#ask((requestId) => ({
      kind: "jobSubmitted",
      requestId,
      jobId,
      job,
      source,
      found: { count: 0, generationHighest: 0, own: false },
    }));
  }

  requestStop(jobId: string): void {
    this.#ask((requestId) => ({ kind: "stopRequested", requestId, jobId }));
  }

  requestSave(jobId: string): void {
    this.#ask((requestId) => ({ kind: "saveRequested", requestId, jobId }));
  }

  liftQuarantine(nodeId: string): void {
    this.#ask((requestId) => ({ kind: "quarantineLifted", requestId, nodeId }));
  }

  /** Asks whoever leads; an answer that does not come is asked for again, as a client would. */
  #ask(event: (requestId: string) => Extract<Event, { requestId: string }>): void {
    let answered = false;
    const attempt = () => {
      if (answered) return;
      this.#requestLast += 1;
      this.leader()?.request(event(`request-${this.#requestLast}`), () => {
        answered = true;
      });
      this.scheduler.after(3_000, attempt);
    };
    attempt();
  }

  // What can be seen --------------------------------------------------------------------------------------------------

  leader(): SimController | null {
    return this.controllers.findLast((c) => c.leads) ?? null;
  }

  /** The job as the leader sees it. */
  view(jobId: string): JobState | null {
    return this.leader()?.core?.jobs.get(jobId) ?? null;
  }

  record(jobId: string): JobRecord | null {
    const record = this.store.peek(durableKeys.job(jobId));
    return record?.kind === "job" ? record : null;
  }

  incidents(jobId: string): IncidentRecord[] {
    return this.view(jobId)?.incidents ?? [];
  }

  /** Newest generation of a job that ranks have heard of. */
  groupOf(jobId: string): TrainGroup | null {
    let newest: TrainGroup | null = null;
    for (const group of this.groups.values()) {
      if (group.job.jobId === jobId && (newest === null || group.generation > newest.generation))
        newest = group;
    }
    return newest;
  }

  /** Steps that rank 0 of the newest generation has applied. */
  stepOf(jobId: string): number {
    return this.groupOf(jobId)?.members[0]?.rank.content?.state.step ?? 0;
  }

  agentOf(jobId: string, rank: number): SimAgent {
    return this.groupOf(jobId)!.members[rank]!.agent;
  }

  rankOf(jobId: string, rank: number): SimRank {
    return this.groupOf(jobId)!.members[rank]!.rank;
  }

  livingRanks(): { agent: SimAgent; rank: SimRank }[] {
    return this.nodes.flatMap(({ agent }) =>
      agent === null ? [] : [...agent.ranks.values()].map((rank) => ({ agent, rank })),
    );
  }

  get allOver(): boolean {
    return [...this.jobs.keys()].every((jobId) => this.record(jobId)?.outcome != null);
  }

  // Time --------------------------------------------------------------------------------------------------------------

  /** Lets things happen until it holds; throws when it does not in time. */
  until(condition: () => boolean, limitMs = 600_000): void {
    const endMs = this.nowMs + limitMs;
    while (!condition()) {
      if (this.nowMs > endMs || !this.scheduler.step()) {
        throw new Error(`not within ${limitMs / 1000} s of virtual time: ${condition}\n${this.status()}`);
      }
    }
  }

  run(ms: number): void {
    const endMs = this.nowMs + ms;
    this.scheduler.at(endMs, () => {});
    while (this.nowMs < endMs && this.scheduler.step());
  }

  /** Where everything stands, for people. */
  status(): string {
    const jobs = [...this.jobs.keys()].map((jobId) => {
      const view = this.view(jobId);
      return `${jobId}: ${view === null ? "no leader" : `${view.stage}/${view.generation?.stage}, ${view.reason}`}, step ${this.stepOf(jobId)}`;
    });
    const nodes = this.nodes.map(
      (n) =>
        `${n.nodeId} ${n.up ? (n.agent?.alive ? "up" : "agent down") : "down"} ${n.agent?.ranks.size ?? 0} ranks`,
    );
    return [
      `at ${this.nowMs / 1000} s, leader ${this.leader()?.id}`,
      ...jobs,
      ...nodes,
      ...this.logs.slice(-15),
    ].join("\n");
  }

  // Faults ------------------------------------------------------------------------------------------------------------

  /** No message passes that way between the node and any controller until then. */
  blockade(nodeId: string, way: Blockade, forMs: number): void {
    this.#blockades.set(nodeId, { way, untilMs: this.nowMs + forMs });
  }

  liftBlockades(): void {
    this.#blockades.clear();
  }

  /** The agent process dies; whoever launched it starts it again later. */
  crashAgent(node: SimNode, forMs: number): void {
    node.agent?.crash();
    this.scheduler.after(forMs, () => node.startAgent(this, this.random.fork()));
  }

  /** The machine goes down, and what it held in memory with it. */
  crashNode(node: SimNode, forMs: number): void {
    node.up = false;
    node.agent?.crash();
    node.memory = new SimMemory();
    this.scheduler.after(forMs, () => this.bootNode(node));
  }

  /** Everything that fails together with the node goes down. */
  crashDomain(node: SimNode, forMs: number): void {
    const { failureDomain } = node;
    const others = this.nodes.filter((each) => failureDomain !== "" && each.failureDomain === failureDomain);
    for (const each of new Set([node, ...others])) this.crashNode(each, forMs);
  }

  /** The agent is asked to end, as before an eviction; then the machine goes, and comes back empty. */
  leaveNode(node: SimNode, graceMs: number, awayMs: number): void {
    node.agent?.leave(graceMs, () => this.crashNode(node, awayMs));
  }

  bootNode(node: SimNode): void {
    node.up = true;
    node.startAgent(this, this.random.fork());
  }

  // The world of the agents -------------------------------------------------------------------------------------------

  connect(agent: SimAgent, controllerIndex: number): AgentLink | null {
    const controller = this.controllers[controllerIndex]!;
    const { nodeId } = agent.node;
    if (!controller.alive || this.#wayOf(nodeId) !== "none") return null;
    const link: AgentLink = new SimLink(this.scheduler, this.random, this.mood);
    link.blockade = () => this.#wayOf(nodeId);
    controller.accept(link, nodeId, agent.incarnation);
    return link;
  }

  #wayOf(nodeId: string): Blockade {
    const blockade = this.#blockades.get(nodeId);
    return blockade !== undefined && this.nowMs < blockade.untilMs ? blockade.way : "none";
  }

  group(generation: number, jobId: string, worldSize: number): TrainGroup {
    let group = this.groups.get(generation);
    if (group === undefined) {
      group = new TrainGroup({
        generation,
        job: this.job(jobId),
        worldSize,
        scheduler: this.scheduler,
        random: this.random.fork(),
        observer: this.invariants,
      });
      this.groups.set(generation, group);
    }
    return group;
  }

  job(jobId: string): SimJob {
    return this.jobs.get(jobId)!;
  }

  node(nodeId: string): SimNode {
    return this.nodes.find((node) => node.nodeId === nodeId)!;
  }

  obeyed(agent: SimAgent, frame: CommandFrame): void {
    this.#trace(() => `${agent.incarnation} obeys ${frame.message.$case} ${frame.term}.${frame.commandId}`);
    this.invariants.obeyed(agent, frame);
  }

  rankExited(agent: SimAgent, rank: SimRank): void {
    this.#trace(() => `rank ${rank.rank} on ${agent.node.nodeId} ends`);
  }

  foundBad(key: string): void {
    this.invariants.foundBad(key);
  }

  // The controllers' observer -----------------------------------------------------------------------------------------

  event(controller: SimController, event: Event): void {
    this.#trace(() => `${controller.id} < ${eventText(event)}`);
  }

  stepped(controller: SimController): void {
    this.invariants.stepped(controller);
  }

  effect(controller: SimController, effect: Effect): void {
    if (effect.kind === "log") {
      this.logs.push(
        `${(this.nowMs / 1000).toFixed(3)} ${controller.id} ${effect.entry.jobId ?? ""} ${effect.entry.text}`,
      );
      if (this.logs.length > 400) this.logs.splice(0, 200);
    }
    this.#trace(() => `${controller.id} > ${effectText(effect)}`);
    this.invariants.effect(controller, effect);
  }

  #trace(line: () => string): void {
    const text = `${this.nowMs} ${line()}`;
    let { hash } = this;
    for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
    this.hash = hash >>> 0;
    this.onTrace?.(text);
  }
}

function eventText(event: Event): string {
  switch (event.kind) {
    case "agentMessage":
      return `${event.from.nodeId} ${event.message.$case}`;
    case "agentDisconnected":
      return `${event.from.nodeId} disconnected`;
    case "persisted":
      return `persisted ${event.id} ${event.outcome.kind}`;
    case "timerFired":
      return `timer ${event.timer}`;
    default:
      return event.kind;
  }
}

function effectText(effect: Effect): string {
  switch (effect.kind) {
    case "send":
      return `${effect.nodeId} ${effect.message.$case} ${effect.term}.${effect.commandId}`;
    case "persist":
      return `persist ${effect.id} ${effect.writes.map((w) => w.key).join(" ")}`;
    case "armTimer":
      return `arm ${effect.timer} ${effect.atMs}`;
    case "log":
      return `log ${effect.entry.text}`;
    default:
      return effect.kind;
  }
}
