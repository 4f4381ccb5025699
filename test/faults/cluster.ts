import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { stringify } from "yaml";
import { ControllerClient } from "../../cli/client.js";
import { followJob } from "../../cli/follow_job.js";
import { isOver } from "../../cli/format_job.js";
import { LocalCluster, type MemberPlace } from "../../cli/local_cluster.js";
import { JobPhase, type JobStatus, type WatchEventsResponse } from "../../gen/goku/v1/controller.pb.js";
import type { AnyJob } from "../../job/command_job.js";
import type { Job } from "../../job/job.js";
import { loadJob } from "../../job/load_job.js";
import { type ClientAccess, NO_ACCESS } from "../../security/client_access.js";
import { startTicks } from "../../worker/agent/process_records.js";
import { decodePage } from "../../worker/agent/progress_reader.js";
import { writeShapes } from "../../worker/data/shapes/write_shapes.js";
import { until } from "../support/until.js";

export interface TestClusterOptions {
  nodes?: number;
  slots?: number;
  /** GOKU_FAILPOINTS of every process. */
  failpoints?: string;
  /** Environment of every process, such as its credentials. */
  env?: Record<string, string>;
  /** Where each member runs; all on loopback unless given. */
  placeOf?: (member: string) => MemberPlace;
  /** What this test shows the controller. */
  access?: ClientAccess;
  /** False: what dies stays dead until the test starts it again. */
  restart?: boolean;
  /** Instead of the embedded store. */
  store?: string;
  /** More arguments of controllers. */
  controllerArgs?: readonly string[];
  /** More arguments of agents. */
  agentArgs?: readonly string[];
  /** Controllers beside the first. */
  standbys?: number;
  /** How far the loss of a step may be off, relatively, when another layout computes it again; 0: same bits. */
  tolerance?: number;
}

/** What a job did, gathered from the controller's events. */
export interface RunRecord {
  /**
   * Loss of every step, as told last; one that was computed again must have given the same bits, unless said otherwise. NaN: it
   * was rolled back, and not computed again.
   */
  losses: Map<number, number>;
  /** Steps in the order told, repeats included. */
  steps: {
    generation: number;
    step: number;
    applied: boolean;
    leftOut: string;
    memoryPeakBytes: number;
    atMs: number;
  }[];
  /** Kind, text and the controller's time of all other events. */
  events: { kind: string; message: string; timeMs: number }[];
  phase: string;
}

const BASE = path.join(tmpdir(), "goku-faults");

/** Folders of this process's clusters and media; a failed test carries its logs in its message. */
const folders: string[] = [];
/** Those that have not been stopped. */
const running = new Set<TestCluster>();
process.once("exit", () => {
  for (const { local, stateDir } of running) {
    local.killNow();
    rmSync(stateDir, { recursive: true, force: true });
  }
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

/** Gone when this process ends. */
function newFolder(prefix: string): string {
  mkdirSync(BASE, { recursive: true });
  const folder = mkdtempSync(path.join(BASE, prefix));
  folders.push(folder);
  return folder;
}

/** A small data set, written once for all tests of a process. */
let media: Promise<string> | null = null;
export function testMedia(): Promise<string> {
  media ??= (async () => {
    const directory = newFolder("shapes-");
    await writeShapes({ directory, singles: 48, pairs: 12, clips: 6 });
    return directory;
  })();
  return media;
}

/** A job of seconds: a tiny model, a snapshot after every step, a checkpoint every 10. */
export async function testJob(folder: string, overrides: readonly string[] = []): Promise<Job> {
  const text = stringify({
    name: "faults",
    seed: 7,
    model: { preset: "goku-nano", depth: 2, width: 64, heads: 2, text_width: 32 },
    data: { media: await testMedia() },
    layout: { dp_replicate: 1, dp_shard: 2, sp: 2 },
    train: { steps: 30, packs_per_step: 3, tokens_per_pack: 256 },
    optimizer: { lr: 1e-3, warmup_steps: 5 },
    checkpoint: { uri: `file://${path.join(folder, "run")}`, every_steps: 10, keep_last: 2 },
    // On a busy machine ranks are held up for longer than a hang takes to be judged by default.
    recovery: { max_attempts: 5, stall_seconds: 5 },
  });
  return loadJob(text, overrides, { file: "test job" });
}

/**
 * A controller and agents as processes on loopback, each started again when it dies; for tests that harm them. All of its
 * files live in one folder, and its shared memory in another, which must be empty in the end.
 */
export class TestCluster {
  readonly folder: string;
  readonly stateDir: string;
  readonly local: LocalCluster;
  client: ControllerClient;
  readonly record: RunRecord = { losses: new Map(), steps: [], events: [], phase: "" };
  private readonly tolerance: number;
  private readonly access: ClientAccess;
  private readonly standbys: number;
  private watching = new AbortController();
  private job = "";
  private eventLast = 0n;
  private over = false;

  private constructor(
    folder: string,
    stateDir: string,
    local: LocalCluster,
    { tolerance = 0, access = NO_ACCESS, standbys = 0 }: TestClusterOptions,
  ) {
    this.standbys = standbys;
    this.tolerance = tolerance;
    this.folder = folder;
    this.stateDir = stateDir;
    this.local = local;
    this.access = access;
    this.client = new ControllerClient(local.controller, access);
  }

  static async start(options: TestClusterOptions = {}): Promise<TestCluster> {
    const folder = newFolder("cluster-");
    const stateDir = mkdtempSync("/dev/shm/goku-faults-");
    const env: Record<string, string> = {
      GOKU_FAILPOINT_DIR: path.join(folder, "fired"),
      GOKU_HOST_ROOT: path.join(folder, "host"), // what ails this very machine is not the test's affair
      ...options.env,
    };
    if (options.failpoints) env.GOKU_FAILPOINTS = options.failpoints;
    const local = await LocalCluster.start({
      nodes: options.nodes ?? 2,
      slotsPerNode: options.slots ?? 2,
      folder,
      stateDir,
      env,
      restart: options.restart ?? true,
      standbys: options.standbys ?? 0,
      controllerArgs: options.controllerArgs ?? [],
      agentArgs: options.agentArgs ?? [],
      ...(options.store === undefined ? {} : { store: options.store }),
      ...(options.placeOf ? { placeOf: options.placeOf } : {}),
    });
    const cluster = new TestCluster(folder, stateDir, local, options);
    running.add(cluster);
    return cluster;
  }

  async submit(job: AnyJob, resumeUri?: string): Promise<void> {
    this.job = job.name;
    await this.client.call("submitJob", {
      job: job as unknown as { [key: string]: unknown },
      resumeUri,
    });
  }

  /** Follows the events until `done` says so, or the job has ended. Survives a controller that goes and comes back. */
  async follow(done: (record: RunRecord) => boolean = () => false): Promise<RunRecord> {
    const onStatus = ({ phase }: JobStatus) => {
      this.record.phase = JobPhase[phase];
      this.over = isOver(phase);
    };
    for (let client: ControllerClient | null = null; client !== this.client; ) {
      client = this.client;
      const options = { afterId: this.eventLast, onStatus, signal: this.watching.signal };
      for await (const event of followJob(client, this.job, options)) {
        this.eventLast = event.id;
        this.take(event);
        if (done(this.record)) return this.record;
      }
    }
    return this.record;
  }

  /** A client that has asked nobody yet and knows all controllers; it asks the last one first. */
  newClient(): ControllerClient {
    const addresses = Array.from({ length: 1 + this.standbys }, (_, i) => this.local.addressOf(i).grpc);
    return new ControllerClient(addresses.reverse().join(","), this.access);
  }

  /** From now on the i-th controller is asked, and followed. */
  turnTo(index: number): void {
    const before = this.client;
    this.client = new ControllerClient(this.local.addressOf(index).grpc, this.access);
    this.watching.signal.addEventListener("abort", () => before.close());
    this.watching.abort();
    this.watching = new AbortController();
  }

  /** Steps that all ranks have completed, read from their progress pages: needs no controller. */
  get stepOnPages(): number {
    const pages = readdirSync(this.stateDir, { recursive: true, encoding: "utf8" })
      .filter((name) => name.endsWith(".progress"))
      .map((name) => decodePage(readFileSync(path.join(this.stateDir, name))))
      .filter((page) => page.generation > 0n);
    return Math.min(...pages.map((page) => Number(page.step)));
  }

  /** The node that holds a rank of the running generation: whichever joined in time got it. */
  async nodeOf(rank: number): Promise<string> {
    for (;;) {
      const { nodes } = await this.client.call("listNodes", {});
      const node = nodes.find(({ ranks }) =>
        ranks.some((page) => page.rank === rank && page.phase !== "idle"),
      );
      if (node !== undefined) return node.nodeId; // between two steps every rank is idle
    }
  }

  /** Processes of the ranks on a node, by rank. */
  async pidsOn(nodeId: string): Promise<number[]> {
    for (;;) {
      const { nodes } = await this.client.call("listNodes", {});
      const { ranks } = nodes.find((node) => node.nodeId === nodeId)!;
      const pids = ranks.sort((a, b) => a.rank - b.rank).map(({ pid }) => pid);
      if (this.over) throw new Error(`the job ended before ranks of ${nodeId} were seen`);
      if (pids.length > 0) return pids; // a new generation's are told by the next heartbeat
    }
  }

  /** Nodes without ranks of the job, each with its processes once one waits for each of so many slots. */
  async waitingProcesses(slots: number): Promise<Map<string, number[]>> {
    const { job } = await this.client.call("getJob", { name: this.job });
    const free = readdirSync(this.stateDir).filter((node) => !job!.rankNodes.includes(node));
    const pidsOf = (node: string) =>
      readdirSync(path.join(this.stateDir, node, "processes")).map((name) => Number.parseInt(name, 10));
    await until(() => free.every((node) => pidsOf(node).length === slots));
    return new Map(free.map((node) => [node, pidsOf(node)]));
  }

  /** Follows until a state of at least that step is in two places for every rank. */
  async replicated(step: number): Promise<void> {
    for (let next = step; ; next++) {
      await this.follow(({ losses }) => losses.has(next));
      const { job } = await this.client.call("getJob", { name: this.job });
      if (Number(job?.replicatedStep ?? 0) >= step) return;
      if (this.over) throw new Error(`the job ended before step ${step} was replicated`);
    }
  }

  /** Ends a member for good (SIGKILL) and waits until it has gone. */
  async kill(member: string): Promise<void> {
    const pid = this.local.pid(member);
    process.kill(pid, "SIGKILL");
    await until(() => startTicks(pid) === null);
  }

  /** A machine that is gone: its agent and its ranks with all of their memory. */
  async lose(node: string): Promise<void> {
    await this.kill(node);
    rmSync(path.join(this.stateDir, node), { recursive: true, force: true });
  }

  /** Names of failpoints that have fired, as in their markers. */
  get fired(): string[] {
    try {
      const names = readdirSync(path.join(this.folder, "fired"));
      return names.filter((name) => !name.endsWith(".released")).sort();
    } catch {
      return [];
    }
  }

  /** Text of the logs of all members, for the message of a failed test. */
  get logs(): string {
    const files = readdirSync(this.folder).filter((name) => name.endsWith(".log"));
    return files
      .map((name) => `--- ${name}\n${readFileSync(path.join(this.folder, name), "utf8").slice(-6_000)}`)
      .join("\n");
  }

  /** Ends all processes; fails when shared memory of a finished job is left. */
  async stop(): Promise<void> {
    this.watching.abort();
    this.client.close();
    await this.local.stop();
    running.delete(this);
    const left = readdirSync(this.stateDir, { recursive: true, encoding: "utf8" }).filter((name) =>
      /slot-\d+$/.test(name),
    );
    rmSync(this.stateDir, { recursive: true, force: true });
    if (this.over) assert.deepEqual(left, [], "snapshots left in shared memory");
  }

  private take(event: WatchEventsResponse): void {
    if (event.step) {
      const { generation, step, loss = Number.NaN, applied, leftOut, memoryPeakBytes } = event.step;
      const number = Number(step);
      const before = leftOut === "roll_back" ? undefined : this.record.losses.get(number);
      const error = before === undefined ? 0 : Math.abs(loss / before - 1);
      assert.ok(error <= this.tolerance, `loss of step ${number}: ${before}, ${loss} when computed again`);
      this.record.losses.set(number, loss);
      this.record.steps.push({
        generation: Number(generation),
        step: number,
        applied,
        leftOut,
        memoryPeakBytes: Number(memoryPeakBytes),
        atMs: performance.now(),
      });
      return;
    }
    const { kind, message, time } = event;
    this.record.events.push({ kind, message, timeMs: time?.getTime() ?? 0 });
  }
}

/** Runs a test on a cluster of its own, stopped in the end; what fails carries the cluster's logs. */
export async function withCluster<T>(
  options: TestClusterOptions,
  body: (cluster: TestCluster) => Promise<T>,
): Promise<T> {
  const cluster = await TestCluster.start(options);
  let passed = false;
  try {
    const result = await body(cluster);
    passed = true;
    return result;
  } catch (error) {
    throw new Error(`${(error as Error).message}\n${cluster.logs}`, { cause: error });
  } finally {
    await cluster.stop().catch((error: unknown) => {
      if (passed) throw error;
    });
  }
}
