import type {
  CheckpointSource,
  CoreLimits,
  Effect,
  Event,
  FoundCheckpoint,
  IncidentRecord,
  JobRecord,
  StateName,
} from "../../controller/core/contract.js";
import { DEFAULT_LIMITS, durableKeys } from "../../controller/core/contract.js";
import type { JobState } from "../../controller/core/state.js";
import { type CommandJob, commandJobSchema } from "../../job/command_job.js";
import { ERRORS } from "../../job/errors.js";
import { type Job, jobSchema } from "../../job/job.js";
import type { LayoutSize } from "../../job/layout.js";
import { Invariants } from "./invariants.js";
import { Random } from "./random.js";
import { Scheduler } from "./scheduler.js";
import type { SimAgent } from "./sim_agent.js";
import { type AgentLink, type CommandFrame, SimController } from "./sim_controller.js";
import type { SimGroup, SimJob } from "./sim_group.js";
import { type Blockade, type NetworkMood, SimLink } from "./sim_link.js";
import { SimMemory } from "./sim_memory.js";
import { SimNode } from "./sim_node.js";
import { ProgramGroup, type SimProgram } from "./sim_program.js";
import type { SimRank } from "./sim_rank.js";
import { SimStorage } from "./sim_storage.js";
import { SimStore } from "./sim_store.js";
import type { Truth } from "./sim_truth.js";
import type { SimWorld } from "./sim_world.js";
import { TrainGroup } from "./train_group.js";

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
  stallSeconds?: number;
  saveFailRate?: number;
  keepLast?: number;
  snapshotEverySteps?: number;
  replicas?: number;
  spares?: number;
  maxBadSteps?: number;
  badStep?: Job["recovery"]["bad_step"];
  spike?: Job["recovery"]["spike"];
  rollBackSteps?: number;
  maxRollBacks?: number;
  replaceStragglers?: boolean;
  previewEverySteps?: number;
  source?: CheckpointSource | null;
  /** It brings a program of its own. */
  program?: SimProgram;
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
  readonly groups = new Map<number, SimGroup>();
  readonly jobs = new Map<string, SimJob>();
  readonly mood: NetworkMood = { delayMsMin: 1, delayMsMax: 10, duplicateRate: 0 };
  readonly invariants: Invariants;
  readonly graceMs: number;
  /** Event-log texts, newest last. */
  readonly logs: string[] = [];
  /** What happens when the ranks of some job next vote to go back. */
  readonly onRollBack: (() => void)[] = [];
  /** FNV-1a over everything that controllers heard and did. */
  hash = 0x811c9dc5;
  onTrace: ((line: string) => void) | null = null;
  readonly #blockades = new Map<string, { way: Blockade; untilMs: number }>();
  /** Until when pairs of nodes hear nothing of each other. */
  readonly #cuts = new Map<string, number>();
  #requestLast = 0;
  /** What broke where nobody could be told. */
  #error: Error | null = null;

  constructor(options: SimOptions) {
    this.random = new Random(options.seed);
    this.graceMs = 1000 * (options.graceSeconds ?? 30);
    this.store = new SimStore(this.scheduler, this.random.fork());
    this.invariants = new Invariants(this, () => {
      for (const strikes of this.onRollBack.splice(0)) strikes();
    });
    this.store.onWrite = (key, record, before) => this.invariants.written(key, record, before);
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
    const ours = options.program === undefined ? this.#ourJob(options, uri) : null;
    const job = ours ?? this.#commandJob(options, options.program!);
    this.jobs.set(jobId, {
      jobId,
      steps: options.steps,
      saveEverySteps: options.saveEverySteps ?? 20,
      stepMs: options.stepMs ?? 400,
      storage: new SimStorage(uri, options.keepLast ?? 3),
      saveFailRate: options.saveFailRate ?? 0,
      // Shared by all runs of a plan otherwise, and it counts down.
      program: options.program === undefined ? null : { ...options.program },
      spec: ours,
      stepHighest: 0,
      badSteps: new Map(),
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

  #ourJob(options: SimJobOptions, uri: string): Job {
    return {
      ...BASE_JOB,
      name: options.name,
      layout: options.layout,
      train: { ...BASE_JOB.train, steps: options.steps },
      checkpoint: {
        ...BASE_JOB.checkpoint,
        uri,
        every_steps: options.saveEverySteps ?? 20,
        keep_last: options.keepLast ?? 3,
        snapshot_every_steps: options.snapshotEverySteps ?? 1,
        replicas: options.replicas ?? 1,
      },
      sample: { ...BASE_JOB.sample, every_steps: options.previewEverySteps ?? 0, prompts: ["a red circle"] },
      recovery: {
        ...BASE_JOB.recovery,
        ...this.#recovery(options),
        replace_stragglers: options.replaceStragglers ?? false,
        max_bad_steps: options.maxBadSteps ?? 10,
        bad_step: options.badStep ?? "skip",
        spike: options.spike ?? "apply",
        roll_back_steps: options.rollBackSteps ?? 1,
        max_roll_backs: options.maxRollBacks ?? 3,
      },
    };
  }

  #commandJob(options: SimJobOptions, { heartbeat }: SimProgram): CommandJob {
    return commandJobSchema.parse({
      name: options.name,
      layout: options.layout,
      trainer: { command: ["train"], heartbeat },
      recovery: this.#recovery(options),
    });
  }

  #recovery({ maxAttempts, spares, stallSeconds, program, stepMs }: SimJobOptions) {
    // A program says itself how long its steps may take, on a slow machine as well; of our ranks that is learnt.
    const floor = program == null ? 1.5 : (4 * (stepMs ?? 400)) / 1000;
    return {
      spares: spares ?? 0,
      max_attempts: maxAttempts ?? 1_000,
      stall_seconds: stallSeconds ?? floor,
      node_grace_seconds: this.graceMs / 1000,
    };
  }

  /** @param graceMs null: not said; a program of its own takes none */
  requestStop(jobId: string, graceMs: number | null = null): void {
    const grace = this.jobs.get(jobId)?.program == null ? graceMs : null;
    this.#ask((requestId) => ({ kind: "stopRequested", requestId, jobId, graceMs: grace }));
  }

  requestSave(jobId: string): void {
    this.#ask(
      (requestId) => ({ kind: "saveRequested", requestId, jobId }),
      () => this.invariants.savePromised(this.groupOf(jobId), this.stepOf(jobId)),
    );
  }

  drain(nodeId: string): void {
    this.node(nodeId).guilt.add("drained");
    const asked = this.invariants.signs.drainAsked(nodeId);
    this.#ask(
      (requestId) => ({ kind: "drainRequested", requestId, nodeId }),
      () => asked.done(),
    );
  }

  liftQuarantine(nodeId: string): void {
    this.invariants.signs.liftAsked(nodeId);
    this.#ask((requestId) => ({ kind: "quarantineLifted", requestId, nodeId }));
  }

  /** Asks whoever leads, as a client would: again where no answer comes, or one that says that another try may do. */
  #ask(
    event: (requestId: string) => Extract<Event, { requestId: string }>,
    accepted: () => void = () => {},
  ): void {
    let answered = false;
    const attempt = () => {
      if (answered) return;
      this.#requestLast += 1;
      this.leader()?.request(event(`request-${this.#requestLast}`), (reply) => {
        if (reply.ok && !answered) accepted();
        answered ||= reply.ok || !ERRORS[reply.code].retriable;
      });
      this.scheduler.after(3_000, attempt);
    };
    attempt();
  }

  // What can be seen --------------------------------------------------------------------------------------------------

  /** Of those that believe to lead the newest. */
  leader(): SimController | null {
    let newest: SimController | null = null;
    for (const each of this.controllers)
      if (each.leads && (newest === null || each.core!.leader!.term > newest.core!.leader!.term))
        newest = each;
    return newest;
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

  /** Newest generation of a job of ours that ranks have heard of. */
  groupOf(jobId: string): TrainGroup | null {
    const newest = this.#newestGroup(jobId);
    return newest instanceof TrainGroup ? newest : null;
  }

  /** The same of a job that brings its own program. */
  programsOf(jobId: string): ProgramGroup | null {
    const newest = this.#newestGroup(jobId);
    return newest instanceof ProgramGroup ? newest : null;
  }

  #newestGroup(jobId: string): SimGroup | null {
    let newest: SimGroup | null = null;
    for (const group of this.groups.values()) {
      if (group.job.jobId === jobId && (newest === null || group.generation > newest.generation))
        newest = group;
    }
    return newest;
  }

  /** Steps that rank 0 of the newest generation has applied. */
  stepOf(jobId: string): number {
    return this.#newestGroup(jobId)?.members[0]?.rank.content?.state.step ?? 0;
  }

  agentOf(jobId: string, rank: number): SimAgent {
    return this.#newestGroup(jobId)!.members[rank]!.agent;
  }

  rankOf(jobId: string, rank: number): SimRank {
    return this.#newestGroup(jobId)!.members[rank]!.rank;
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
  async until(condition: () => boolean, limitMs = 600_000): Promise<void> {
    const endMs = this.nowMs + limitMs;
    while (!condition()) {
      if (this.nowMs > endMs || !this.scheduler.step()) {
        throw new Error(`not within ${limitMs / 1000} s of virtual time: ${condition}\n${this.status()}`);
      }
      if (this.scheduler.unsettled) await this.#settle();
      if (this.#error !== null) throw this.#error;
    }
  }

  async run(ms: number): Promise<void> {
    const endMs = this.nowMs + ms;
    this.scheduler.at(endMs, () => {});
    await this.until(() => this.nowMs >= endMs, ms);
  }

  /** All promises that can go on have done so once the event loop turns. */
  async #settle(): Promise<void> {
    this.scheduler.unsettled = false;
    await new Promise((resolve) => setImmediate(resolve));
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
    this.#cuts.clear();
  }

  /** No message passes between the two nodes until then; both reach the controllers. */
  cutNodes(a: SimNode, b: SimNode, forMs: number): void {
    this.#cuts.set([a.nodeId, b.nodeId].sort().join(" "), this.nowMs + forMs);
    for (const group of this.groups.values()) group.networkCut();
  }

  isCut(a: SimNode, b: SimNode): boolean {
    if (this.#cuts.size === 0) return false;
    const untilMs = this.#cuts.get([a.nodeId, b.nodeId].sort().join(" "));
    return untilMs !== undefined && this.nowMs < untilMs;
  }

  /** Bits have turned in its memory. */
  damaged({ memory }: SimNode): void {
    if (memory.jobId !== null) this.invariants.damaged(memory.jobId);
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
    node.boots();
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

  group(generation: number, jobId: string, worldSize: number): SimGroup {
    let group = this.groups.get(generation);
    if (group === undefined) {
      const job = this.job(jobId);
      const { scheduler, invariants: observer } = this;
      const options = { generation, job, worldSize, scheduler, random: this.random.fork() };
      const isCut = (a: SimNode, b: SimNode) => this.isCut(a, b);
      group =
        job.program === null ? new TrainGroup({ ...options, observer, isCut }) : new ProgramGroup(options);
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

  committed(job: SimJob, state: StateName): void {
    this.invariants.committed(job, state);
  }

  previewBegun(agent: SimAgent, state: StateName): void {
    this.invariants.previewBegun(agent, state);
  }

  previewMissed(agent: SimAgent, state: StateName): void {
    this.invariants.previewMissed(agent, state);
  }

  foundBad(key: string): void {
    this.invariants.foundBad(key);
  }

  // The controllers' observer -----------------------------------------------------------------------------------------

  event(controller: SimController, event: Event): void {
    this.#trace(() => `${controller.id} < ${eventText(event)}`);
  }

  stepped(controller: SimController, event: Event): void {
    this.invariants.stepped(controller, event);
  }

  gained(controller: SimController): void {
    this.#trace(() => `${controller.id} has won the election`);
    this.invariants.gained(controller);
  }

  listed(generation: number, jobId: string): FoundCheckpoint[] {
    const found = this.job(jobId).storage.committed();
    this.invariants.listed(generation, found);
    return found;
  }

  broken(error: Error): void {
    this.#error ??= error;
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
