/**
 * What snapshots, replicas and durable saves cost a job of four ranks, two on each of two nodes, as they cost it in production:
 * seconds of a step without snapshots, with one at every step, and with replicas at the default rate, in runs that take
 * turns; then the memory of a node at most, against what `gokuctl plan` shows.
 * Run alone: node dist/bench/snapshot_cost.js [--rounds N] [--steps N] [--mib N] [--folder DIR]
 */
import { mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { ControllerClient } from "../cli/client.js";
import { LocalCluster } from "../cli/local_cluster.js";
import { planJob } from "../cli/plan/plan_job.js";
import type { StepCompleted } from "../gen/goku/v1/agent.pb.js";
import { type Job, jobSchema, modelConfig } from "../job/job.js";
import { median } from "../job/median.js";
import { reportData } from "../worker/data/pack_source.js";
import { writeShapes } from "../worker/data/shapes/write_shapes.js";
import { nodeMemoryBytes } from "../worker/node_memory.js";
import { SLOT_COUNT_REPLICATED } from "../worker/rank/slots.js";
import { judge } from "./figures.js";
import { modelOfBytes, stateBytesOf } from "./model_of_bytes.js";
import { type NodeMemoryUse, nodeCpuSeconds, nodeMemoryUse } from "./node_use.js";

const CLUSTER = { nodes: 2, slotsPerNode: 2 };
const NODES = ["node-a", "node-b"];
const LAYOUT = { dp_replicate: 1, dp_shard: 4, sp: 1 };
/** Before a run counts: each slot is written for the first time, which costs more than any later one. */
const WARM_STEPS = SLOT_COUNT_REPLICATED + 1;
const SAMPLE_MS = 200;
const NEVER = 1_000_000;
const LIMITS = { snapshotStep: 1.03, sharedMemory: 1, extraMemory: 1.05, nodeMemory: 1 };

type Checkpoint = Partial<Job["checkpoint"]>;
const RUNS = {
  none: { snapshot_every_steps: NEVER, replicas: 0 },
  snapshots: { replicas: 0 },
  /** As a job has them that says nothing. */
  replicas: {},
  /** Everything at once: a transfer and a save take a few steps each. */
  all: { replica_mib_per_second: 256, every_steps: 4 },
} satisfies Record<string, Checkpoint>;
const TIMED = ["none", "snapshots", "replicas"] as const;

interface Options {
  rounds: number;
  steps: number;
  stateBytes: number;
  folder: string;
}

function jobOf(options: Options, checkpoint: Checkpoint, run: string): Job {
  return jobSchema.parse({
    name: "snapshots",
    model: modelOfBytes(options.stateBytes),
    data: { media: path.join(options.folder, "shapes") },
    layout: LAYOUT,
    recompute: "selective",
    train: { steps: NEVER },
    checkpoint: { uri: `file://${path.join(run, "run")}`, every_steps: NEVER, ...checkpoint },
  });
}

/** One job on a cluster of its own, until `enough`. Throws where it was not left in peace. */
async function train(
  job: Job,
  run: string,
  follow: (training: { cluster: LocalCluster; client: ControllerClient; stateDir: string }) => Follower,
): Promise<void> {
  const stateDir = mkdtempSync("/dev/shm/goku-bench-");
  const cluster = await LocalCluster.start({ ...CLUSTER, folder: run, stateDir, restart: false });
  const client = new ControllerClient(cluster.controller);
  const leave = new AbortController();
  const follower = follow({ cluster, client, stateDir });
  try {
    await client.call("submitJob", { job: job as never, resumeUri: undefined });
    for await (const { kind, message, step } of client.events(
      { job: job.name, afterId: 0n, follow: true },
      leave.signal,
    )) {
      if (kind === "incident" || kind === "alarm") throw new Error(`Cannot measure: ${message}`);
      if (step ? await follower.step(step) : await follower.event?.(kind)) return;
    }
    throw new Error("Cannot measure: the job has ended, see its log");
  } finally {
    follower.end?.();
    leave.abort();
    client.close();
    await cluster.stop("SIGKILL");
    rmSync(stateDir, { recursive: true, force: true, maxRetries: 10 });
  }
}

/** True: that is enough. */
interface Follower {
  step(step: StepCompleted): boolean | Promise<boolean>;
  event?(kind: string): boolean;
  end?(): void;
}

interface StepTimes {
  /** From one completed step to the next. */
  seconds: number[];
  /** CPU of both nodes for a step: told apart from what others take of the machine. */
  cpuSeconds: number;
  skipped: number;
}

async function timeSteps(options: Options, name: keyof typeof RUNS): Promise<StepTimes> {
  const found: StepTimes = { seconds: [], cpuSeconds: 0, skipped: 0 };
  await inFolder(options, async (run) => {
    let [done, beforeMs] = [0, 0];
    await train(jobOf(options, RUNS[name], run), run, ({ cluster }) => {
      const used = () => NODES.reduce((sum, node) => sum + nodeCpuSeconds(cluster.pid(node)), 0);
      let usedBefore = 0;
      return {
        step: ({ completedMs, snapshotSkipped }) => {
          if (++done > WARM_STEPS) found.seconds.push((Number(completedMs) - beforeMs) / 1000);
          else if (done === WARM_STEPS) usedBefore = used();
          found.skipped += Number(snapshotSkipped);
          beforeMs = Number(completedMs);
          if (found.seconds.length < options.steps) return false;
          found.cpuSeconds = (used() - usedBefore) / options.steps;
          return true;
        },
      };
    });
  });
  return found;
}

async function inFolder(options: Options, work: (run: string) => Promise<void>): Promise<void> {
  const run = mkdtempSync(path.join(options.folder, "run-"));
  try {
    await work(run);
  } finally {
    rmSync(run, { recursive: true, force: true });
  }
}

/** The most of any node, of each by itself and of both together. */
interface MemoryPeak extends NodeMemoryUse {
  allBytes: number;
}

/** @param isDone asked after each step */
async function peakMemory(
  options: Options,
  name: keyof typeof RUNS,
  isDone: (seen: { steps: number; saves: number; replicated: number }) => boolean,
): Promise<MemoryPeak> {
  const peak: MemoryPeak = { sharedBytes: 0, processBytes: 0, allBytes: 0 };
  await inFolder(options, (run) =>
    train(jobOf(options, RUNS[name], run), run, ({ cluster, stateDir }) => {
      const sample = () => {
        for (const node of NODES) {
          const use = nodeMemoryUse({ agent: cluster.pid(node), folder: path.join(stateDir, node) });
          peak.sharedBytes = Math.max(peak.sharedBytes, use.sharedBytes);
          peak.processBytes = Math.max(peak.processBytes, use.processBytes);
          peak.allBytes = Math.max(peak.allBytes, use.sharedBytes + use.processBytes);
        }
      };
      const replicated = new Set<bigint>();
      const seen = { steps: 0, saves: 0, replicated: 0 };
      const timer = setInterval(sample, SAMPLE_MS);
      return {
        step: ({ replicatedStep }) => {
          seen.steps++;
          if (replicatedStep > 0n) replicated.add(replicatedStep);
          seen.replicated = replicated.size;
          return isDone(seen);
        },
        event: (kind) => {
          if (kind === "checkpoint") seen.saves++;
          return false;
        },
        end: () => clearInterval(timer),
      };
    }),
  );
  return peak;
}

async function plannedMemory(options: Options) {
  const job = jobOf(options, RUNS.all, options.folder);
  const planned = planJob(
    job,
    {
      ...{ device: "cpu", nodes: CLUSTER.nodes, slots: CLUSTER.slotsPerNode, gpu: null },
      ...{ memoryBytes: nodeMemoryBytes(CLUSTER.nodes), sharedMemoryBytes: null, memorySource: "" },
    },
    await reportData({ job, model: modelConfig(job) }),
  );
  const { memory, snapshots } = planned.candidates.find(({ layout }) => layout.dpShard === LAYOUT.dp_shard)!;
  if (memory.device !== "cpu") throw new Error("the plan is of another device");
  return { extraBytes: snapshots.ownBytes + snapshots.keptBytes, nodeBytes: memory.nodeBytes };
}

function line(name: string, value: string, verdict = ""): void {
  console.log(`${name.padEnd(64)}${value.padStart(20)}  ${verdict}`);
}

function verdict(value: number, limit: number): string {
  return `limit ${limit}  ${judge(value, limit)}`;
}

async function reportSteps(options: Options): Promise<void> {
  const rounds: Record<(typeof TIMED)[number], StepTimes>[] = [];
  for (let round = 0; round < options.rounds; round++) {
    const found = {} as Record<(typeof TIMED)[number], StepTimes>;
    // Whoever was first is last in the next round: a pace that changes meets all alike.
    for (let i = 0; i < TIMED.length; i++) {
      const name = TIMED[(i + round) % TIMED.length]!;
      found[name] = await timeSteps(options, name);
    }
    rounds.push(found);
  }
  type Name = (typeof TIMED)[number];
  const ratios = (name: Name) => rounds.map((of) => median(of[name].seconds) / median(of.none.seconds));
  const cpuRatios = (name: Name) => rounds.map((of) => of[name].cpuSeconds / of.none.cpuSeconds);
  const cpuSeconds = (name: Name) => median(rounds.map((of) => of[name].cpuSeconds));
  const each = (values: readonly number[]) => values.map((value) => value.toFixed(3)).join(", ");
  for (const [name, what] of [
    ["none", "step without snapshots"],
    ["snapshots", "step with a snapshot every step"],
    ["replicas", "the same, with replicas at the default rate"],
  ] as const) {
    const seconds = rounds.flatMap((of) => of[name].seconds);
    const skipped = rounds.reduce((sum, of) => sum + of[name].skipped, 0);
    const lost = skipped === 0 ? "" : `, ${skipped} snapshots were skipped`;
    line(what, `${median(seconds).toFixed(3)} s`, `${cpuSeconds(name).toFixed(3)} s of CPU${lost}`);
    if (name === "none") continue;
    const value = median(ratios(name));
    const limit = name === "snapshots" ? `${verdict(value, LIMITS.snapshotStep)}  ` : "";
    line("  over one without, median of the rounds", value.toFixed(3), `${limit}(${each(ratios(name))})`);
    line(
      "  its CPU over that of one without",
      median(cpuRatios(name)).toFixed(3),
      `(${each(cpuRatios(name))})`,
    );
  }
}

async function reportMemory(options: Options): Promise<void> {
  const plan = await plannedMemory(options);
  const steps = WARM_STEPS + options.steps;
  const without = await peakMemory(options, "none", (seen) => seen.steps >= steps);
  // Two states were sent: both copies of each are there; two saves: one was read while training went on.
  const most = await peakMemory(
    options,
    "all",
    (seen) => seen.steps >= steps && seen.saves >= 2 && seen.replicated >= 2,
  );
  const mebibytes = (bytes: number) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
  const grown = Math.max(0, most.processBytes - without.processBytes);
  const extra = most.sharedBytes + grown;
  const shared = most.sharedBytes / plan.extraBytes;
  line("slots and replicas of a node, planned", mebibytes(plan.extraBytes));
  line("shared memory of a node at most", mebibytes(most.sharedBytes));
  line("  over the plan's", shared.toFixed(3), verdict(shared, LIMITS.sharedMemory));
  line("memory of its processes over that without snapshots", mebibytes(grown));
  const ratio = extra / plan.extraBytes;
  line("  both over the plan's", ratio.toFixed(3), verdict(ratio, LIMITS.extraMemory));
  line("processes of a node without snapshots at most", mebibytes(without.processBytes));
  line("processes of a node, planned", mebibytes(plan.nodeBytes - plan.extraBytes));
  line("a whole node, planned", mebibytes(plan.nodeBytes));
  const whole = most.allBytes / plan.nodeBytes;
  line("a whole node at most", mebibytes(most.allBytes));
  line("  over the plan's", whole.toFixed(3), verdict(whole, LIMITS.nodeMemory));
}

/** @param options.folder of the media and the durable checkpoints; emptied by the caller */
export async function reportSnapshotCost(options: Options): Promise<void> {
  await writeShapes({
    directory: path.join(options.folder, "shapes"),
    ...{ singles: 96, pairs: 24, clips: 12 },
  });
  const state = stateBytesOf(modelOfBytes(options.stateBytes));
  line("state, over four ranks on two nodes", `${(state / 2 ** 20).toFixed(0)} MiB`);
  await reportSteps(options);
  await reportMemory(options);
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      rounds: { type: "string", default: "5" },
      steps: { type: "string", default: "8" },
      mib: { type: "string", default: "1024" },
      folder: { type: "string", default: os.tmpdir() },
    },
  });
  const folder = mkdtempSync(path.join(values.folder, "goku-bench-"));
  const [rounds, steps] = [Number(values.rounds), Number(values.steps)];
  try {
    await reportSnapshotCost({ rounds, steps, stateBytes: Number(values.mib) * 2 ** 20, folder });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

if (process.argv[1] === import.meta.filename) await main();
