import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  statSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";
import { setTimeout } from "node:timers/promises";
import type { MemberPlace } from "../../../cli/local_cluster.js";
import type { JobStatus } from "../../../gen/goku/v1/controller.pb.js";
import { startTicks } from "../../../worker/agent/process_records.js";
import type { EtcdServers } from "../../support/etcd_servers.js";
import type { TestCluster } from "../cluster.js";
import { AnswerWatch } from "./answer_watch.js";
import type { CopyLeft, Culprit } from "./cell.js";
import { copyLeft } from "./copy_left.js";
import { flipSnapshot, newestHeld } from "./flip_snapshot.js";
import type { Network } from "./network.js";
import { PageWatch } from "./page_watch.js";

/** Far longer than a copy of a tiny state takes, and shorter than ranks may stand still. */
const COPY_MS = 5_000;

/** What a strike knows of its cluster, and can do to it. */
export class CellRun {
  readonly cluster: TestCluster;
  /** Folder of the files that shift members' clocks. */
  readonly clocks: string;
  /** Null: all members are on loopback. */
  readonly network: Network | null;
  /** Null: the store is the embedded one. */
  readonly etcd: EtcdServers | null;
  readonly generationStruck: number;
  /** Nodes that the strike harmed. */
  readonly harmed = new Set<string>();
  /** Wall clock when it struck; null: not yet. */
  struckAtMs: number | null = null;
  /** When what stood still for it went on. */
  releasedAtMs: number | null = null;
  /** When what it took was given back. */
  returnedAtMs: number | null = null;
  /** When a member of etcd led that had not before. */
  electedAtMs: number | null = null;
  readonly pages: PageWatch;
  /** Whether anybody tells of the job, asked from just before the fault on. */
  readonly answers = new AnswerWatch(() => this.askAnew());
  copy: CopyLeft = { step: 0, where: "initial values" };
  nodesBefore: string[] = [];
  private readonly jobName: string;
  private readonly checkpointUri: string;
  private jobId = "";
  private over = false;
  private etcdLost: number[] = [];

  constructor(options: {
    cluster: TestCluster;
    clocks: string;
    network: Network | null;
    etcd: EtcdServers | null;
    generationStruck: number;
    jobName: string;
    worldSize: number;
    checkpointUri: string;
  }) {
    this.cluster = options.cluster;
    this.clocks = options.clocks;
    this.network = options.network;
    this.etcd = options.etcd;
    this.generationStruck = options.generationStruck;
    this.jobName = options.jobName;
    this.checkpointUri = options.checkpointUri;
    this.pages = new PageWatch({ stateDir: options.cluster.stateDir, worldSize: options.worldSize });
  }

  /** Nothing is waited for any longer, and nothing looked at. */
  end(): void {
    this.over = true;
    this.pages.close();
    this.answers.close();
  }

  /** Waits until a failpoint has fired, and takes down who holds which rank. */
  async reached(failpoint: string): Promise<void> {
    const marker = this.marker(failpoint);
    await this.until(() => existsSync(marker), `failpoint ${failpoint} to fire`);
    this.struckAtMs = statSync(marker).mtimeMs;
    const { id, rankNodes } = await this.job();
    this.jobId = id;
    this.nodesBefore = rankNodes;
  }

  /** Lets a process go on that holds at a failpoint. */
  release(failpoint: string): void {
    this.releasedAtMs = Date.now();
    writeFileSync(`${this.marker(failpoint)}.released`, "");
  }

  /** Notes that the fault begins here, and what it leaves once `harm` is done. */
  async strike(harm: () => void | Promise<void>): Promise<void> {
    this.struckAtMs = Date.now();
    await harm();
    await this.takeCopies();
  }

  /** Notes that the fault is over here, and ends it. */
  async giveBack(heal: () => unknown): Promise<void> {
    this.returnedAtMs = Date.now();
    await heal();
  }

  async takeCopies(): Promise<void> {
    this.copy = await this.copies();
  }

  /**
   * Waits until others hold a state in memory without these nodes. Ranks that stand still make no newer one meanwhile: what
   * is not under way by then does not come, and the fault has less to leave.
   */
  async replicated(without: readonly string[]): Promise<void> {
    const untilMs = performance.now() + COPY_MS;
    while (performance.now() < untilMs && (await this.copies(without)).where !== "memory")
      await this.pause(20);
  }

  /** Waits until a checkpoint is durable, which agents go on with while a rank stands still. */
  async durable(): Promise<void> {
    while ((await this.copies(this.nodesBefore)).where !== "checkpoint") await this.pause(20);
  }

  /** A node that was cut off hears only then that the job is over, and frees its memory; false: not in that time. */
  async memoryFreed(limitMs: number): Promise<boolean> {
    const untilMs = performance.now() + limitMs;
    const { stateDir } = this.cluster;
    const slots = () =>
      readdirSync(stateDir, { recursive: true, encoding: "utf8" }).filter((name) => /slot-\d+$/.test(name));
    while (slots().length > 0) {
      if (performance.now() > untilMs) return false;
      await setTimeout(50);
    }
    return true;
  }

  private copies(without: readonly string[] = []): Promise<CopyLeft> {
    return copyLeft({
      stateDir: this.cluster.stateDir,
      jobId: this.jobId,
      worldSize: this.nodesBefore.length,
      checkpointUri: this.checkpointUri,
      generationMost: this.generationStruck,
      without,
    });
  }

  nodeOf(rank: number): string {
    return this.nodesBefore[rank]!;
  }

  /** A rank's process, as its agent tells it. */
  async pidOf(rank: number): Promise<number> {
    for (;;) {
      const { nodes } = await this.cluster.client.call("listNodes", {});
      const node = nodes.find(({ nodeId }) => nodeId === this.nodeOf(rank));
      const page = node?.ranks.find((each) => each.rank === rank);
      if (page !== undefined && startTicks(page.pid) !== null) return page.pid;
    }
  }

  async job(): Promise<JobStatus> {
    const { job } = await this.cluster.client.call("getJob", { name: this.jobName });
    return job!;
  }

  /** As somebody asks who has asked nobody before. */
  private async askAnew(): Promise<void> {
    const client = this.cluster.newClient();
    await client.call("getJob", { name: this.jobName }).finally(() => client.close());
  }

  /** A machine is gone, with its memory. */
  async lose(node: string): Promise<void> {
    this.harmed.add(node);
    await this.cluster.lose(node);
  }

  /** As lose(), and the network says nothing of it: no connection is closed, no packet is refused. */
  async goesDark(node: string): Promise<void> {
    this.network!.cutOff(node);
    await this.lose(node);
  }

  /** Ends a rank after a byte of the newest state in its slots was flipped. */
  async flipSlotAndKill(rank: number): Promise<void> {
    this.harmed.add(this.nodeOf(rank));
    const pid = await this.pidOf(rank);
    process.kill(pid, "SIGSTOP"); // it must not compute with what is damaged: the fault is in what lies still
    flipSnapshot({ folder: this.nodeFolder(this.nodeOf(rank)), jobId: this.jobId, rank, replica: false });
    process.kill(pid, "SIGKILL");
  }

  /** Flips a byte of the copy of a rank's newest state that another node keeps, then loses the rank's node. */
  async flipReplicaAndLose(rank: number): Promise<void> {
    const keeper = this.nodesBefore.find((node) => node !== this.nodeOf(rank))!;
    const at = { folder: this.nodeFolder(keeper), jobId: this.jobId, rank, replica: true };
    await this.until(() => newestHeld(at) !== null, `a replica of rank ${rank} on ${keeper}`);
    flipSnapshot(at);
    await this.lose(this.nodeOf(rank));
  }

  /** Takes memory from a rank until the kernel ends it. */
  async exhaust(rank: number): Promise<void> {
    const pid = await this.pidOf(rank);
    const group = path.join(MEMORY_GROUPS.root, `goku-${process.pid}`);
    mkdirSync(group, { recursive: true });
    writeFileSync(path.join(group, MEMORY_GROUPS.limit), String(2 ** 20));
    writeFileSync(path.join(group, "cgroup.procs"), String(pid));
  }

  signal(member: string, signal: NodeJS.Signals): void {
    process.kill(this.cluster.local.pid(member), signal);
  }

  /** Waits until the second controller leads, which is asked from then on. */
  async standbyLeads(): Promise<void> {
    this.cluster.turnTo(1);
    while (!this.over) {
      const leads = await this.job().then(
        () => true,
        () => false,
      );
      if (leads) return;
      await setTimeout(50);
    }
  }

  /** Sets a member's clock, and waits until it shows that time. */
  async setClock(member: string, shiftMs: number): Promise<void> {
    const file = clockFile(this.clocks, member);
    writeFileSync(file, String(shiftMs));
    const seenMs = () => (existsSync(`${file}.seen`) ? Number(readFileSync(`${file}.seen`, "utf8")) : 0);
    await this.until(() => Math.abs(seenMs() - shiftMs) < 1_000, `the clock of ${member} to be set`);
  }

  async loseEtcd(count: number): Promise<void> {
    const leader = await this.etcd!.leader();
    const others = this.etcd!.endpoints.map((_, i) => i).filter((i) => i !== leader);
    this.etcdLost = [leader, ...others].slice(0, count);
    for (const member of this.etcdLost) await this.etcd!.kill(member);
  }

  /** The members that were lost; with how many left the others agree. */
  get etcdCulprit(): Culprit {
    const { endpoints } = this.etcd!;
    const members = this.etcdLost.map((member) => endpoints[member]!);
    return { kind: "etcd", members, quorum: 2 * members.length < endpoints.length };
  }

  /** Waits until a member of etcd leads. */
  async elected(): Promise<void> {
    await this.etcd!.leader();
    this.electedAtMs = Date.now();
  }

  etcdReturns(): void {
    for (const member of this.etcdLost) this.etcd!.run(member);
  }

  async pause(ms: number): Promise<void> {
    if (this.over) throw new Error("the job was over before the fault had struck");
    await setTimeout(ms);
  }

  /** Training goes on for so long and so many steps, as its own pages show. */
  async trains(options: { seconds: number; steps: number }): Promise<void> {
    const untilMs = performance.now() + 1000 * options.seconds;
    const step = this.cluster.stepOnPages + options.steps;
    const isSo = () => performance.now() >= untilMs && this.cluster.stepOnPages >= step;
    await this.until(isSo, `training to go on to step ${step}`);
  }

  private async until(isSo: () => boolean, what: string): Promise<void> {
    while (!isSo()) {
      if (this.over) throw new Error(`the job was over before ${what}`);
      await setTimeout(10);
    }
  }

  private nodeFolder(node: string): string {
    return path.join(this.cluster.stateDir, node);
  }

  private marker(failpoint: string): string {
    const name = failpoint.replaceAll("/", "-rank-").replaceAll(":", "-");
    return path.join(this.cluster.folder, "fired", name);
  }
}

/** Where groups of processes with a limit of memory are made, by the kernel's older interface or the present one. */
const MEMORY_GROUPS = existsSync("/sys/fs/cgroup/memory")
  ? { root: "/sys/fs/cgroup/memory", limit: "memory.limit_in_bytes" }
  : { root: "/sys/fs/cgroup", limit: "memory.max" };

/** Whether processes can be given less memory than they need, and the kernel's log be read that tells what comes of it. */
export function canExhaust(): boolean {
  const group = path.join(MEMORY_GROUPS.root, `goku-${process.pid}-try`);
  try {
    accessSync("/dev/kmsg", constants.R_OK);
    mkdirSync(group);
    const can = readFileSync(path.join(group, MEMORY_GROUPS.limit), "utf8") !== "";
    rmdirSync(group);
    return can;
  } catch {
    return false;
  }
}

/** File that shifts the wall clock of a member. */
export function clockFile(folder: string, member: string): string {
  return path.join(folder, `clock-${member}`);
}

/** Where members run: in the network if there is one, each with a clock of its own. */
export function placeOf(network: Network | null, clocks: string): (member: string) => MemberPlace {
  const preload = path.join(import.meta.dirname, "shifted_clock.js");
  return (member) => ({
    host: network?.host(member) ?? "127.0.0.1",
    enter: network?.enter(member) ?? [],
    env: { NODE_OPTIONS: `--import=${preload}`, GOKU_TEST_CLOCK: clockFile(clocks, member) },
  });
}
