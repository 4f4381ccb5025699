import assert from "node:assert/strict";
import {
  type AgentMessage,
  type CheckpointSource,
  type Command,
  type CoreLimits,
  DEFAULT_LIMITS,
  type DurableEntry,
  type DurableRecord,
  type Effect,
  type Event,
  type FoundCheckpoint,
  type PersistOutcome,
  type Session,
} from "../../../controller/core/contract.js";
import { type CoreState, createState, type JobState } from "../../../controller/core/state.js";
import { step } from "../../../controller/core/step.js";
import type { HeldState, RankProgress } from "../../../gen/goku/v1/agent.pb.js";
import { chooseLayout } from "../../../job/choose_layout.js";
import { type AnyJob, type CommandJob, commandJobSchema } from "../../../job/command_job.js";
import { type Job, jobSchema } from "../../../job/job.js";
import type { LayoutSize } from "../../../job/layout.js";

export function jobOf(
  options: { layout?: LayoutSize | "auto"; name?: string; maxAttempts?: number; steps?: number } = {},
): Job {
  const name = options.name ?? "shapes";
  return jobSchema.parse({
    name,
    data: { media: "/data" },
    layout: options.layout ?? { dp_replicate: 1, dp_shard: 2, sp: 1 },
    train: { steps: options.steps ?? 100, packs_per_step: 16 },
    checkpoint: { uri: `file:///runs/${name}` },
    recovery: { max_attempts: options.maxAttempts ?? 5 },
  });
}

/** Four ranks, two to a node of tests. */
export const FOUR = { dp_replicate: 1, dp_shard: 2, sp: 2 } satisfies LayoutSize;

/** A job that runs a program of its own on two ranks, unless said otherwise. */
export function programJobOf(
  options: {
    layout?: LayoutSize | "auto";
    maxAttempts?: number;
    stallSeconds?: number;
    heartbeat?: "optional" | "required";
  } = {},
): CommandJob {
  return commandJobSchema.parse({
    name: "ddp",
    trainer: { command: ["python3", "train.py"], heartbeat: options.heartbeat ?? "optional" },
    layout: options.layout ?? { dp_replicate: 1, dp_shard: 2, sp: 1 },
    recovery: { max_attempts: options.maxAttempts ?? 5, stall_seconds: options.stallSeconds ?? 20 },
  });
}

/**
 * The core with a store that answers at once, driven by hand: what a shell does, without time of its own.
 * `outcomes` decides how the next writes end (default: applied).
 */
export class CoreHarness {
  readonly state: CoreState;
  nowMs = 1_000;
  /** Everything since the last `take`. */
  effects: Effect[] = [];
  readonly store = new Map<string, { record: DurableRecord; modRevision: bigint }>();
  outcomes: PersistOutcome["kind"][] = [];
  /** What is committed where the job writes, told at once; null: it cannot be listed. `silent`: there is no answer. */
  committed: FoundCheckpoint[] | null | "silent" = [];
  /** What is known of it and not there. */
  gone: CheckpointSource[] = [];
  #revision = 0n;
  /** What each rank's page showed last, and since when. */
  readonly #shown = new Map<string, { text: string; sinceMs: number }>();
  #sessionLast = 0;
  readonly sessions = new Map<string, Session>();

  constructor(limits: Partial<CoreLimits> = {}) {
    // Nodes are used unexamined, so that tests of other things need not play agents that are being examined.
    const all = { ...DEFAULT_LIMITS, selfCheckMs: 0, ...limits };
    this.state = createState({ limits: all, version: "1.0.0", chooseLayout });
  }

  /** A job that trains on the first of these nodes, of four ranks on two of them unless said otherwise; the rest are free. */
  static running(
    nodes: readonly string[] = ["n0", "n1", "n2"],
    job: AnyJob = jobOf({ layout: FOUR }),
  ): CoreHarness {
    const core = new CoreHarness();
    core.lead();
    for (const nodeId of nodes) core.hello(nodeId);
    core.submit(job);
    core.pass(2_000);
    core.form();
    return core;
  }

  lead(controllerId = "c0"): void {
    this.feed({ kind: "leadershipGained", controllerId, records: this.entries() });
  }

  entries(): DurableEntry[] {
    return [...this.store].map(([key, { record, modRevision }]) => ({
      key,
      modRevision,
      record: structuredClone(record),
    }));
  }

  feed(event: Event): Effect[] {
    const effects = step(this.state, event, this.nowMs);
    this.effects.push(...effects);
    for (const effect of effects) {
      if (effect.kind === "persist") this.#persist(effect);
      else if (effect.kind === "read") this.#read(effect);
      else if (effect.kind === "findCheckpoints") this.#find(effect);
    }
    return effects;
  }

  #persist(effect: Extract<Effect, { kind: "persist" }>): void {
    const kind = this.outcomes.shift() ?? "applied";
    const fits = effect.compares.every((c) => (this.store.get(c.key)?.modRevision ?? 0n) === c.modRevision);
    if (kind === "refused" || !fits)
      this.feed({ kind: "persisted", id: effect.id, outcome: { kind: "refused" } });
    else if (kind === "unknown")
      this.feed({ kind: "persisted", id: effect.id, outcome: { kind: "unknown", reason: "lost" } });
    else {
      this.write(effect.writes);
      this.feed({ kind: "persisted", id: effect.id, outcome: { kind: "applied", revision: this.#revision } });
    }
  }

  write(writes: Extract<Effect, { kind: "persist" }>["writes"]): void {
    this.#revision += 1n;
    for (const { key, record } of writes) {
      if (record === null) this.store.delete(key);
      else this.store.set(key, { record: structuredClone(record), modRevision: this.#revision });
    }
  }

  #read(effect: Extract<Effect, { kind: "read" }>): void {
    const entries = this.entries().filter((entry) => effect.keys.includes(entry.key));
    this.feed({ kind: "read", id: effect.id, entries });
  }

  #find({ jobId, generation }: Extract<Effect, { kind: "findCheckpoints" }>): void {
    const { committed: found, gone } = this;
    if (found !== "silent")
      this.feed({ kind: "checkpointsFound", jobId, generation, found, gone, reason: "no answer" });
  }

  /** Lets time pass and fires the timers that are due, in order. */
  pass(ms: number): void {
    const endMs = this.nowMs + ms;
    for (;;) {
      const due = [...this.state.timers].filter(([, atMs]) => atMs <= endMs).sort((a, b) => a[1] - b[1])[0];
      if (due === undefined) break;
      this.nowMs = Math.max(this.nowMs, due[1]);
      this.feed({ kind: "timerFired", timer: due[0] });
    }
    this.nowMs = endMs;
  }

  /** Lets time pass while all connected nodes send heartbeats. */
  beat(ms: number, pages: (nodeId: string) => RankProgress[] = () => []): void {
    for (let passed = 0; passed < ms; passed += 1_000) {
      this.pass(Math.min(1_000, ms - passed));
      for (const [nodeId, node] of this.state.nodes) {
        if (node.session === null) continue;
        const [job] = this.state.jobs.values();
        const generation = job?.generation?.number ?? 0;
        this.heartbeat(nodeId, generation, pages(nodeId));
      }
    }
  }

  /** @param held the present inventory; null: unchanged. */
  heartbeat(
    nodeId: string,
    generation: number,
    ranks: RankProgress[],
    held: HeldState[] | null = null,
    heard: { term: bigint; commandId: bigint } = { term: 0n, commandId: 0n },
  ): void {
    this.say(nodeId, {
      $case: "heartbeat",
      value: {
        generation: BigInt(generation),
        ranks: ranks.map((page) => this.#aged(nodeId, page)),
        heldStates: held ?? [],
        heldStatesChanged: held !== null,
        counterRates: [],
        ...heard,
      },
    });
  }

  /** As an agent tells it: for how long the page has not changed, unless the test says so. */
  #aged(nodeId: string, page: RankProgress): RankProgress {
    if (page.unchangedMs > 0n) return page;
    const key = `${nodeId}/${page.rank}`;
    const text = JSON.stringify(page, (_, value) => (typeof value === "bigint" ? String(value) : value));
    const shown = this.#shown.get(key);
    const sinceMs = shown?.text === text ? shown.sinceMs : this.nowMs;
    this.#shown.set(key, { text, sinceMs });
    return { ...page, unchangedMs: BigInt(this.nowMs - sinceMs) };
  }

  hello(nodeId: string, more: Partial<Extract<AgentMessage, { $case: "hello" }>["value"]> = {}): void {
    this.#sessionLast += 1;
    const incarnation = more.incarnation ?? `${nodeId}#1`;
    const from = { nodeId, incarnation, session: this.#sessionLast };
    this.sessions.set(nodeId, from);
    const value = {
      nodeId,
      incarnation,
      slots: 2,
      host: "127.0.0.1",
      device: "cpu",
      version: "1.0.0",
      jobId: "",
      generation: 0n,
      ranks: [],
      heldStates: [],
      term: 0n,
      leaving: undefined,
      failureDomain: "",
      bootId: "",
      metricsUrl: "",
      devices: [],
      peerPort: 0,
      selfCheck: undefined,
      unwatched: [],
      ...more,
    };
    this.feed({ kind: "agentMessage", from, message: { $case: "hello", value } });
  }

  say(nodeId: string, message: AgentMessage, from: Session = this.sessions.get(nodeId)!): Effect[] {
    return this.feed({ kind: "agentMessage", from, message });
  }

  disconnect(nodeId: string): void {
    this.feed({ kind: "agentDisconnected", from: this.sessions.get(nodeId)!, reason: "test" });
  }

  /** The node falls silent while the others beat, and its stream ends later: its machine may be gone. */
  lose(nodeId: string): void {
    for (let second = 0; second < 4; second++) {
      this.pass(1_000);
      for (const [other, { session, generation }] of this.state.nodes)
        if (other !== nodeId && session !== null) this.heartbeat(other, generation, []);
    }
    this.disconnect(nodeId);
  }

  submit(job: AnyJob = jobOf(), jobId = "job-1"): void {
    const found = { count: 0, generationHighest: 0, own: false };
    this.feed({ kind: "jobSubmitted", requestId: `submit-${jobId}`, jobId, job, source: null, found });
  }

  get job(): JobState {
    return this.state.jobs.values().next().value!;
  }

  take(): Effect[] {
    const { effects } = this;
    this.effects = [];
    return effects;
  }

  /** Commands sent since the last `take`, as "node case". */
  commands(): string[] {
    return this.effects.flatMap((e) => (e.kind === "send" ? [`${e.nodeId} ${e.message.$case}`] : []));
  }

  lastCommand<K extends Command["$case"]>(kind: K): Extract<Command, { $case: K }> {
    const found = this.effects.findLast((e) => e.kind === "send" && e.message.$case === kind);
    assert.ok(found?.kind === "send", `no ${kind} was sent`);
    return found.message as Extract<Command, { $case: K }>;
  }

  /** Brings the first job from PREPARE to RUN, every rank holding `held`. */
  form(held: { generation: number; step: number }[] = [], pidOf = (rank: number) => 10 + rank): void {
    const generation = this.job.generation!;
    const number = BigInt(generation.number);
    const each = (make: (rank: number) => AgentMessage) => {
      for (const [rank, nodeId] of generation.rankNodes.entries()) this.say(nodeId, make(rank));
    };
    const heldStates = held.map((s) => ({ generation: BigInt(s.generation), step: BigInt(s.step) }));
    each((rank) => ({
      $case: "rankReady",
      value: { generation: number, rank, pid: pidOf(rank), port: 9_000 + rank, heldStates },
    }));
    each((rank) => ({ $case: "rankConnected", value: { generation: number, rank } }));
    const { source } = this.lastCommand("restore").value;
    const state =
      source?.$case === "snapshot"
        ? source.value.state!
        : source?.$case === "checkpoint"
          ? source.value.state!
          : { generation: 0n, step: 0n };
    each((rank) => ({ $case: "rankRestored", value: { generation: number, rank, state, parts: [] } }));
  }

  stepDone(
    nodeId: string,
    number: number,
    stepSeconds = 0.5,
    replicated = 0,
    generation = BigInt(this.job.generation!.number),
    longestPauseSeconds = 0,
  ): void {
    this.say(nodeId, {
      $case: "stepCompleted",
      value: {
        generation,
        step: BigInt(number),
        loss: 1,
        gradNorm: 1,
        learningRate: 1,
        applied: true,
        tokens: 1n,
        images: 1,
        videos: 0,
        stepSeconds,
        longestPauseSeconds,
        computeSeconds: 0,
        commWaitSeconds: 0,
        dataWaitSeconds: 0,
        snapshotSeconds: 0,
        snapshotSkipped: false,
        savePutOff: false,
        memoryPeakBytes: 0n,
        packFill: 1,
        unreadable: 0,
        replicatedStep: BigInt(replicated),
        replay: undefined,
        lossSpike: undefined,
        gradientSpike: undefined,
        leftOut: "",
        rollBack: undefined,
        optimizerSeconds: 0,
        waits: undefined,
        modelFlops: 0,
        completedMs: 0n,
      },
    });
  }

  exited(nodeId: string, rank: number, signal = "SIGKILL", generation = this.job.generation!.number): void {
    this.say(nodeId, {
      $case: "rankExited",
      value: {
        generation: BigInt(generation),
        rank,
        pid: 10 + rank,
        exitCode: -1,
        signal,
        lastLines: ["last words"],
        progress: undefined,
      },
    });
  }

  leaves(nodeId: string, graceMs = 30_000): void {
    this.say(nodeId, { $case: "nodeLeaving", value: { graceMs: BigInt(graceMs), reason: "SIGTERM" } });
  }

  /** What nodes hold in memory of all their ranks, each as whole snapshots of the layout of `FOUR`, as a heartbeat tells. */
  hold(states: Record<string, { generation: number; step: number }[]>): void {
    const { number, nodeRanks } = this.job.generation!;
    for (const [nodeId, names] of Object.entries(states)) {
      const ranks = nodeRanks.get(nodeId)!;
      const held = names.flatMap(({ generation, step }) =>
        ranks.map((rank) => ({
          state: { generation: BigInt(generation), step: BigInt(step) },
          rank,
          layout: { dpReplicate: 1, dpShard: 2, sp: 2 },
        })),
      );
      const pages = ranks.map((rank) => page(rank));
      this.heartbeat(nodeId, number, pages, held);
    }
  }

  stop(graceSeconds: number | null = null): void {
    const graceMs = graceSeconds === null ? null : 1000 * graceSeconds;
    this.feed({ kind: "stopRequested", requestId: "stop", jobId: this.job.record.jobId, graceMs });
  }

  saved(nodeId: string, state: { generation: number; step: number }): void {
    const wire = { generation: BigInt(state.generation), step: BigInt(state.step) };
    const uri = `file:///runs/shapes/checkpoint-${state.step}`;
    const generation = BigInt(this.job.generation!.number);
    const value = { generation, state: wire, uri, bytes: 1n, seconds: 1 };
    this.say(nodeId, { $case: "checkpointCommitted", value });
  }

  finished(nodeId: string, rank: number, step: number, reason = "stop"): void {
    const generation = BigInt(this.job.generation!.number);
    const state = { generation, step: BigInt(step) };
    this.say(nodeId, { $case: "rankFinished", value: { generation, rank, state, reason } });
  }

  /** All ranks say that they ended at this step, which is durable. */
  ended(step: number, reason = "stop"): void {
    const { number, rankNodes } = this.job.generation!;
    this.saved(rankNodes[0]!, { generation: number, step });
    for (const [rank, nodeId] of rankNodes.entries()) this.finished(nodeId, rank, step, reason);
  }

  failed(
    nodeId: string,
    rank: number,
    code: string,
    peer?: number,
    operation = "all_reduce",
    others: number[] = [],
  ): void {
    this.say(nodeId, {
      $case: "rankFailed",
      value: {
        generation: BigInt(this.job.generation!.number),
        rank,
        error: { code, message: "Cannot go on", peer, operation },
        lastLines: [],
        others,
      },
    });
  }
}

/** A progress page; `entered` above `completed`: the rank waits in a collective. */
export function page(rank: number, more: Partial<RankProgress> = {}): RankProgress {
  return {
    rank,
    pid: 10 + rank,
    step: 3n,
    microStep: 0,
    phase: "forward",
    layer: 1,
    collectiveEntered: 7n,
    collectiveCompleted: 7n,
    collective: "all_gather",
    group: "shard.0",
    unchangedMs: 0n,
    blockedMs: 0n,
    generation: 0n,
    times: undefined,
    ...more,
  };
}
