import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { stringify } from "yaml";
import { ControllerClient } from "../cli/client.js";
import { LocalCluster } from "../cli/local_cluster.js";
import type { WatchEventsResponse } from "../gen/goku/v1/controller.pb.js";
import { loadJob } from "../job/load_job.js";
import { median } from "../job/median.js";
import { ETCD_SKIP, EtcdServers } from "../test/support/etcd_servers.js";
import { writeShapes } from "../worker/data/shapes/write_shapes.js";
import { judge } from "./figures.js";
import { TorchrunPeer } from "./torchrun_peer.js";

const RANKS = 4;
/** Steps completed between two faults: the run must be back to its pace. */
const STEPS_BETWEEN = 8;

interface Figures {
  /** Seconds from SIGKILL to the next step completed by the generation that follows: of a rank, of an agent that comes back. */
  rank: number[];
  agent: number[];
  /** Of a node that does not come back, while a spare waits; of that the time in which ranks fetched what it held. */
  spare: number[];
  transfer: number[];
  /** Seconds from SIGKILL of the leading controller until a standby answers, with its agents. */
  controller: number[];
  /** Seconds from SIGSTOP of a rank until it is named; and how long that may take at that pace. */
  hang: number[];
  hangLimit: number[];
  /** From SIGKILL of a rank to the next step of a job of as many ranks under torchrun. */
  torchrun: number[];
}

/** goku-nano on nodes of two ranks on this machine, and its events as the controller tells them. */
class Training {
  readonly cluster: LocalCluster;
  readonly #client: ControllerClient;
  readonly #events: AsyncIterator<WatchEventsResponse>;
  readonly #leave = new AbortController();
  /** Of the steps so far. */
  readonly #stepSeconds: number[] = [];
  #generation = 0n;

  private constructor(cluster: LocalCluster) {
    this.cluster = cluster;
    this.#client = new ControllerClient(cluster.controller);
    const request = { job: "recovery", afterId: 0n, follow: true };
    this.#events = this.#client.events(request, this.#leave.signal);
  }

  /** @param restart agents are started again by their launcher after 100 ms, as a kubelet would */
  static async start(
    folder: string,
    { nodes, restart }: { nodes: number; restart: boolean },
  ): Promise<Training> {
    const cluster = await LocalCluster.start({ nodes, slotsPerNode: 2, folder, restart });
    const client = new ControllerClient(cluster.controller);
    try {
      await client.call("submitJob", { job: recoveryJob(folder), resumeUri: undefined });
    } finally {
      client.close();
    }
    const training = new Training(cluster);
    await training.pass(STEPS_BETWEEN);
    return training;
  }

  async until(wanted: (event: WatchEventsResponse) => boolean): Promise<void> {
    for (;;) {
      const { value, done } = await this.#events.next();
      if (done) throw new Error("Cannot measure recovery: the job has ended, see its log");
      if (value.step) {
        this.#stepSeconds.push(value.step.stepSeconds);
        this.#generation = value.step.generation;
      }
      if (wanted(value)) return;
    }
  }

  /** Waits for so many steps from now on. */
  async pass(count: number): Promise<void> {
    for (let i = 0; i < count; i++) await this.until(({ step }) => step !== undefined);
  }

  /** Seconds from the fault until what follows it is told. */
  async measure(fault: () => void, follows: (event: WatchEventsResponse) => boolean): Promise<number> {
    await this.pass(1);
    const begun = performance.now();
    fault();
    await this.until(follows);
    return (performance.now() - begun) / 1_000;
  }

  /** A step of a later generation than the present one. */
  get isBack(): (event: WatchEventsResponse) => boolean {
    const before = this.#generation;
    return ({ step }) => step !== undefined && step.generation > before;
  }

  get usualStepSeconds(): number {
    return median(this.#stepSeconds.slice(-STEPS_BETWEEN));
  }

  async pidOf(rank: number): Promise<number> {
    for (;;) {
      const { nodes } = await this.#client.call("listNodes", {});
      const pages = nodes.flatMap((node) => node.ranks);
      const page = pages.find((one) => one.rank === rank && one.phase !== "idle");
      if (page) return page.pid;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async nodeOf(rank: number): Promise<string> {
    const { job } = await this.#client.call("getJob", { name: "recovery" });
    return job!.rankNodes[rank]!;
  }

  /** Until a state that was computed is in the memory of two nodes: what a node takes along is lost before. */
  async replicated(): Promise<void> {
    for (;;) {
      const { job } = await this.#client.call("getJob", { name: "recovery" });
      if ((job!.replicatedStep ?? 0n) > 0n) return;
      await this.pass(1);
    }
  }

  /** What the last incident took, from its detection: to the decision to go on, and from Connect to the restored state. */
  async lastParts(): Promise<{ decided: number; transfer: number }> {
    const { incidents } = await this.#client.call("listIncidents", { job: "recovery" });
    const of = (name: string) =>
      Number(incidents.at(-1)?.milestones.find((one) => one.name === name)?.afterMs ?? 0n) / 1_000;
    return { decided: of("prepared"), transfer: of("restored") - of("connected") };
  }

  async stop(): Promise<void> {
    this.#leave.abort();
    this.#client.close();
    await this.cluster.stop();
  }
}

function recoveryJob(folder: string): { [key: string]: unknown } {
  const text = stringify({
    name: "recovery",
    data: { media: path.join(folder, "shapes") },
    layout: { dp_replicate: 1, dp_shard: 2, sp: 2 },
    train: { steps: 100_000, packs_per_step: 4, tokens_per_pack: 512 },
    checkpoint: { uri: `file://${path.join(folder, "run")}`, every_steps: 100_000 },
  });
  return loadJob(text, [], { file: "recovery" }) as unknown as { [key: string]: unknown };
}

async function inFolder(work: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(path.join(tmpdir(), "goku-recovery-"));
  try {
    await writeShapes({ directory: path.join(folder, "shapes"), singles: 96, pairs: 24, clips: 12 });
    await work(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Said at once: a run that is cut short has measured something. */
function take(figures: Figures, what: keyof Figures, seconds: number): void {
  figures[what].push(seconds);
  console.log(`${what} ${seconds.toFixed(2)} s`);
}

/** Faults from which the same nodes come back. */
function measureReturns(round: number, figures: Figures): Promise<void> {
  return inFolder(async (folder) => {
    const training = await Training.start(folder, { nodes: 2, restart: true });
    try {
      const rank = await training.pidOf(round % RANKS);
      take(figures, "rank", await training.measure(() => process.kill(rank, "SIGKILL"), training.isBack));
      await training.pass(STEPS_BETWEEN);
      const agent = training.cluster.pid(round % 2 === 0 ? "node-a" : "node-b");
      take(figures, "agent", await training.measure(() => process.kill(agent, "SIGKILL"), training.isBack));
      await training.pass(STEPS_BETWEEN);
      const hung = (round + 1) % RANKS;
      const pid = await training.pidOf(hung);
      figures.hangLimit.push(3 * training.usualStepSeconds + 2);
      // Where the pages do not tell, it is named by what is decided.
      const name = new RegExp(`(^rank ${hung} |: kill rank ${hung} on )`);
      const isNamed = ({ kind, message }: WatchEventsResponse) => kind === "incident" && name.test(message);
      take(figures, "hang", await training.measure(() => process.kill(pid, "SIGSTOP"), isNamed));
    } finally {
      await training.stop();
    }
  });
}

/** A node goes for good, agent and ranks at once; another one waits. */
function measureSpare(round: number, figures: Figures): Promise<void> {
  return inFolder(async (folder) => {
    const training = await Training.start(folder, { nodes: 3, restart: false });
    try {
      await training.replicated();
      const agent = training.cluster.pid(await training.nodeOf(round % RANKS));
      take(figures, "spare", await training.measure(() => process.kill(-agent, "SIGKILL"), training.isBack));
      const { decided, transfer } = await training.lastParts();
      figures.transfer.push(transfer);
      console.log(
        `  of that until others take over ${decided.toFixed(2)} s, transfer ${transfer.toFixed(2)} s`,
      );
    } finally {
      await training.stop();
    }
  });
}

/** The leading controller is killed while another one stands by: until that one answers as the leader. */
function measureFailover(figures: Figures): Promise<void> {
  return inFolder(async (folder) => {
    const etcd = await EtcdServers.start();
    const store = `etcd://${etcd.endpoints.join(",")}/recovery`;
    const cluster = await LocalCluster.start({
      nodes: 1,
      slotsPerNode: 1,
      folder,
      store,
      standbys: 1,
      restart: false,
    });
    const standby = new ControllerClient(cluster.addressOf(1).grpc);
    try {
      await answers(standby); // by the leader, to which it is sent
      const begun = performance.now();
      process.kill(cluster.pid("controller"), "SIGKILL");
      await answers(standby);
      take(figures, "controller", (performance.now() - begun) / 1_000);
    } finally {
      standby.close();
      await cluster.stop();
      await etcd.stop();
    }
  });
}

async function answers(client: ControllerClient): Promise<void> {
  const isAnswered = () =>
    client.call("listNodes", {}).then(
      ({ nodes }) => nodes.length > 0,
      () => false,
    );
  while (!(await isAnswered())) await new Promise((resolve) => setTimeout(resolve, 20));
}

async function measureTorchrun(round: number, figures: Figures): Promise<void> {
  const peer = TorchrunPeer.start(RANKS);
  if (peer === null) return;
  try {
    await peer.pass(STEPS_BETWEEN);
    take(figures, "torchrun", await peer.kill(round % RANKS));
  } finally {
    await peer.close();
  }
}

function report(
  what: string,
  seconds: readonly number[],
  limit: { seconds: number; text: string } | null,
): void {
  const each = seconds.map((one) => one.toFixed(2)).join(", ");
  const found = seconds.length === 0 ? "not measured" : `median ${median(seconds).toFixed(2)} s (${each})`;
  const verdict = limit === null ? "" : `, ${limit.text}  ${judge(median(seconds), limit.seconds)}`;
  console.log(`${what.padEnd(52)}${found}${verdict}`);
}

/**
 * Ours and torchrun in turn, each alone on the machine while it is measured. torchrun is given the best case: a checkpoint of
 * each step in memory, no data to find again, and workers that come back on the same node.
 */
export async function main(): Promise<void> {
  const { values } = parseArgs({ options: { rounds: { type: "string", default: "5" } } });
  const figures: Figures = {
    rank: [],
    agent: [],
    spare: [],
    transfer: [],
    controller: [],
    hang: [],
    hangLimit: [],
    torchrun: [],
  };
  for (let round = 0; round < Number(values.rounds); round++) {
    await measureReturns(round, figures);
    await measureTorchrun(round, figures);
    await measureSpare(round, figures);
    if (ETCD_SKIP === false) await measureFailover(figures);
  }
  const { rank, agent, spare, transfer, controller, hang, hangLimit, torchrun } = figures;
  const within = (limitSeconds: number, text = `limit ${limitSeconds} s`) => ({
    seconds: limitSeconds,
    text,
  });
  report("a rank is killed: to the next step", rank, within(0.5));
  report(
    `  the same under torchrun --max-restarts${torchrun.length === 0 ? " (no torch)" : ""}`,
    torchrun,
    null,
  );
  if (torchrun.length > 0)
    console.log(`  ours to torchrun's: ${(median(rank) / median(torchrun)).toFixed(2)}`);
  report("an agent is killed and comes back: to the next step", agent, within(5));
  report(
    "a node goes, a spare takes its place: to the next step",
    spare,
    within(3 + median(transfer), `limit 3 s and the transfer, ${median(transfer).toFixed(2)} s`),
  );
  const takenOver = "the leading controller is killed: a standby has its agents";
  if (ETCD_SKIP === false) report(takenOver, controller, within(3));
  const named = median(hangLimit);
  report(
    "a rank hangs: until it is named",
    hang,
    within(named, `limit 3 steps + 2 s: ${named.toFixed(2)} s`),
  );
}

if (process.argv[1] === import.meta.filename) await main();
