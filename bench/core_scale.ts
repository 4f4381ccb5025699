import type {
  AgentMessage,
  DurableEntry,
  DurableRecord,
  Effect,
  Event,
  Session,
  StateName,
} from "../controller/core/contract.js";
import { DEFAULT_LIMITS } from "../controller/core/contract.js";
import { type CoreState, createState } from "../controller/core/state.js";
import { step } from "../controller/core/step.js";
import { Metrics } from "../controller/shell/metrics.js";
import { showState } from "../controller/shell/show_state.js";
import { type RankProgress, StepCompleted } from "../gen/goku/v1/agent.pb.js";
import { chooseLayout } from "../job/choose_layout.js";
import type { Job } from "../job/job.js";
import { Layout } from "../job/layout.js";
import type { MetricSet } from "../job/metric_set.js";
import type { ControllerMetric } from "../job/metrics.js";
import * as messages from "../test/support/agent_messages.js";

/** Milliseconds of CPU that the core takes, without network, store or logs. */
export interface CoreFigures {
  /** All Hellos. */
  join: number;
  /** From submitting the job to the last Run. */
  form: number;
  /** A second of heartbeats of all nodes. */
  heartbeats: number;
  /** One node lost: a report of every other rank, the verdict, the next Prepare. */
  lose: number;
  /** All Hellos at a new leader. */
  rehome: number;
}

const SLOTS = 8;

/** One world on the core alone: agents answer at once, the store takes every write. */
class CoreWorld {
  readonly #job: Job;
  readonly #nodes: string[];
  readonly #sessions = new Map<string, Session>();
  readonly #store = new Map<string, { record: DurableRecord; modRevision: bigint }>();
  readonly #layout: string;
  #state: CoreState = this.#create();
  #revision = 0n;
  #sessionLast = 0;
  #nowMs = 1_000_000;
  #generation = 0;
  #rankNodes: readonly string[] = [];
  #places: ReadonlyMap<string, readonly number[]> = new Map();
  /** Ranks whose replicas a node keeps. */
  #kept: ReadonlyMap<string, readonly number[]> = new Map();
  #steps = 0;

  constructor(job: Job, nodes: number) {
    this.#job = job;
    if (job.layout === "auto") throw new RangeError("CoreWorld: the job needs a layout of its own");
    this.#layout = new Layout(job.layout).toString();
    // One more than the job needs: it takes the place of a lost one.
    this.#nodes = Array.from({ length: nodes + 1 }, (_, i) => `node-${String(i).padStart(5, "0")}`);
  }

  #create(): CoreState {
    return createState({ limits: DEFAULT_LIMITS, version: "1.0.0", chooseLayout });
  }

  lead(): void {
    this.#state = this.#create();
    const records: DurableEntry[] = [...this.#store].map(([key, value]) => ({ key, ...value }));
    this.#feed({ kind: "leadershipGained", controllerId: "c0", records });
  }

  hello(): void {
    for (const [at, nodeId] of this.#nodes.entries()) {
      this.#sessionLast += 1;
      const from = { nodeId, incarnation: `${nodeId}#1`, session: this.#sessionLast };
      this.#sessions.set(nodeId, from);
      const ranks = this.#ranksOf(nodeId);
      const isMember = ranks.length > 0;
      const message: AgentMessage = {
        $case: "hello",
        value: {
          nodeId,
          incarnation: from.incarnation,
          slots: SLOTS,
          host: `10.0.${at >> 8}.${at & 255}`,
          device: "cpu",
          devices: [],
          version: "1.0.0",
          jobId: isMember ? "j0" : "",
          generation: BigInt(isMember ? this.#generation : 0),
          ranks: this.#pages(ranks),
          heldStates: this.#held(nodeId),
          term: 0n,
          leaving: undefined,
          failureDomain: "",
          bootId: "",
          metricsUrl: "",
          peerPort: 7_000,
          selfCheck: undefined,
          unwatched: [],
        },
      };
      this.#feed({ kind: "agentMessage", from, message });
    }
  }

  submit(): void {
    const found = { count: 0, generationHighest: 0, own: false };
    const job = this.#job;
    this.#feed({ kind: "jobSubmitted", requestId: "r0", jobId: "j0", job, source: null, found });
  }

  /** Answers every phase until the generation runs. */
  form(state: StateName): void {
    const job = this.#state.jobs.get("j0")!;
    const { number, rankNodes, nodeRanks, keepers } = job.generation!;
    this.#generation = number;
    this.#rankNodes = rankNodes;
    this.#places = nodeRanks;
    this.#kept = keepers!.kept;
    const held = state.step === 0 ? [] : [state];
    for (const [rank] of rankNodes.entries())
      this.#say(rank, messages.ready({ generation: number, rank, pid: 1_000 + rank }, held));
    for (const [rank] of rankNodes.entries())
      this.#say(rank, messages.connected({ generation: number, rank }));
    for (const [rank] of rankNodes.entries())
      this.#say(rank, messages.restored({ generation: number, rank }, state));
    if (job.stage !== "running")
      throw new Error(`bench: the job is ${job.stage} (${job.reason}), want running`);
  }

  /** One heartbeat of every node, each with changed pages and an inventory that changed. */
  beat(): void {
    this.#nowMs += 1_000;
    this.#steps += 1;
    for (const nodeId of this.#nodes) {
      const ranks = this.#ranksOf(nodeId);
      const message: AgentMessage = {
        $case: "heartbeat",
        value: {
          generation: BigInt(this.#generation),
          ranks: this.#pages(ranks),
          heldStates: this.#held(nodeId),
          heldStatesChanged: true,
          term: 0n,
          commandId: 0n,
          counterRates: [],
        },
      };
      this.#feed({ kind: "agentMessage", from: this.#sessions.get(nodeId)!, message });
    }
    this.#say(
      0,
      messages.step(this.#generation, this.#steps, { stepSeconds: 1, replicatedStep: this.#steps - 1 }),
    );
  }

  /** A member goes; everybody else misses its first rank. Ends with the Prepare of the next generation. */
  lose(): StateName {
    const nodeId = this.#rankNodes[SLOTS]!;
    const peer = this.#ranksOf(nodeId)[0]!;
    const generation = this.#generation;
    this.#nowMs += 10;
    const failure = { code: "COMM_PEER_DIED", peer, operation: "all_gather of shard.0" };
    for (const [rank, owner] of this.#rankNodes.entries()) {
      if (owner !== nodeId) this.#say(rank, messages.failed({ generation, rank }, failure));
    }
    const from = this.#sessions.get(nodeId)!;
    this.#feed({ kind: "agentDisconnected", from, reason: "the connection was lost" });
    const { timers, jobs } = this.#state;
    const job = jobs.get("j0")!;
    for (let tries = 0; job.generation!.number === generation; tries++) {
      if (tries > 100) throw new Error(`bench: no generation follows the loss: ${job.reason}`);
      const [timer, atMs] = [...timers].sort(([, a], [, b]) => a - b)[0]!;
      this.#nowMs = Math.max(this.#nowMs, atMs);
      this.#feed({ kind: "timerFired", timer });
    }
    return { generation, step: this.#steps - 1 };
  }

  /** Sets what a scrape shows of the core's state. */
  show(metrics: MetricSet<ControllerMetric>): void {
    showState(metrics, this.#state, this.#nowMs);
  }

  get ranks(): number {
    return this.#rankNodes.length;
  }

  #say(rank: number, message: AgentMessage): void {
    this.#feed({ kind: "agentMessage", from: this.#sessions.get(this.#rankNodes[rank]!)!, message });
  }

  #ranksOf(nodeId: string): readonly number[] {
    return this.#places.get(nodeId) ?? [];
  }

  #pages(ranks: readonly number[]): RankProgress[] {
    return ranks.map((rank) => ({
      rank,
      pid: 1_000 + rank,
      step: BigInt(this.#steps),
      microStep: 1,
      phase: "forward",
      layer: 3,
      collectiveEntered: BigInt(100 * this.#steps + 7),
      collectiveCompleted: BigInt(100 * this.#steps + 6),
      collective: "all_gather",
      group: "shard.0",
      unchangedMs: 12n,
      blockedMs: 0n,
      generation: BigInt(this.#generation),
      times: {
        steps: BigInt(this.#steps),
        work: BigInt(1e9 * this.#steps),
        forwardUs: BigInt(150_000 * this.#steps),
        backwardUs: BigInt(300_000 * this.#steps),
        optimizerUs: BigInt(20_000 * this.#steps),
        dataUs: BigInt(1_000 * this.#steps),
        waitUs: BigInt(29_000 * this.#steps),
      },
    }));
  }

  /** The last two states of its own ranks, and the one before the last of those that it keeps copies of. */
  #held(nodeId: string): ReturnType<typeof messages.heldStates> {
    const layout = this.#layout;
    const at = (rank: number, number: number) =>
      number < 1 ? [] : [{ state: { generation: this.#generation, step: number }, rank, layout }];
    const own = this.#ranksOf(nodeId).flatMap((rank) => [
      ...at(rank, this.#steps),
      ...at(rank, this.#steps - 1),
    ]);
    const kept = (this.#kept.get(nodeId) ?? []).flatMap((rank) => at(rank, this.#steps - 1));
    return messages.heldStates([...own, ...kept]);
  }

  #feed(event: Event): void {
    const effects: Effect[] = step(this.#state, event, this.#nowMs);
    for (const effect of effects) {
      if (effect.kind === "send" && effect.message.$case === "selfCheck") {
        const from = this.#sessions.get(effect.nodeId)!;
        const { checkId, checks } = effect.message.value;
        const common = { ok: true, value: 100, unit: "GB/s", detail: "as it should be", seconds: 0.1 };
        const results = checks.map((name) => ({ name, ...common, device: undefined }));
        const message: AgentMessage = { $case: "selfCheckReport", value: { checkId, results, busy: "" } };
        this.#feed({ kind: "agentMessage", from, message });
      }
      if (effect.kind !== "persist") continue;
      this.#revision += 1n;
      for (const { key, record } of effect.writes) {
        if (record === null) this.#store.delete(key);
        else this.#store.set(key, { record, modRevision: this.#revision });
      }
      const outcome = { kind: "applied", revision: this.#revision } as const;
      this.#feed({ kind: "persisted", id: effect.id, outcome });
    }
  }
}

/**
 * Milliseconds of CPU of a scrape of the controller's metrics, all of which block its event loop, and its size: of an
 * instance that has been scraped before.
 */
export async function measureScrape(
  job: Job,
  nodes: number,
): Promise<{ ms: number[]; bytes: number; ranks: number }> {
  const world = new CoreWorld(job, nodes);
  world.lead();
  world.hello();
  world.submit();
  world.form({ generation: 0, step: 0 });
  for (let i = 0; i < 12; i++) world.beat(); // two rounds of steps: from then on it is known how slow ranks are
  const metrics = new Metrics();
  metrics.onScrape((set) => world.show(set));
  metrics.step(job.name, StepCompleted.fromPartial({ step: 12n, loss: 1, gradNorm: 1, waits: {} }));
  const ms: number[] = [];
  let text = "";
  for (let i = 0; i < 120; i++) {
    const before = process.cpuUsage();
    text = await metrics.render();
    const { user, system } = process.cpuUsage(before);
    if (i >= 20) ms.push((user + system) / 1_000);
  }
  return { ms, bytes: text.length, ranks: world.ranks };
}

/** @param job with a layout of its own, of 8 ranks for each of `nodes` nodes */
export function measureCore(job: Job, nodes: number): CoreFigures {
  const world = new CoreWorld(job, nodes);
  world.lead();
  const join = cpuMs(() => world.hello());
  const form = cpuMs(() => {
    world.submit();
    world.form({ generation: 0, step: 0 });
  });
  world.beat();
  const heartbeats = cpuMs(() => world.beat());
  let state: StateName = { generation: 0, step: 0 };
  const lose = cpuMs(() => {
    state = world.lose();
  });
  world.form(state);
  world.beat();
  world.lead();
  const rehome = cpuMs(() => world.hello());
  return { join, form, heartbeats, lose, rehome };
}

/** Of the whole process, its garbage collection included. */
function cpuMs(work: () => void): number {
  const before = process.cpuUsage();
  work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1_000;
}
