import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { stringify } from "yaml";
import { ControllerClient } from "../cli/client.js";
import { LocalCluster } from "../cli/local_cluster.js";
import { loadJob } from "../job/load_job.js";
import { writeShapes } from "../worker/data/shapes/write_shapes.js";
import { median } from "./figures.js";

/** Seconds from SIGKILL to the next step completed by the generation that follows. */
export interface RecoveryTimes {
  rank: number[];
  agent: number[];
}

const KILLS = { rank: 5, agent: 3 };
/** Steps completed between two kills: the run must be back to its pace. */
const STEPS_BETWEEN = 8;

interface Step {
  generation: bigint;
  step: bigint;
}

/**
 * Trains goku-nano on two nodes of two ranks on this machine, kills ranks and agents in mid-run and measures how long no
 * step is completed. Agents are started again by their launcher after 100 ms, as a kubelet would.
 */
export async function measureRecovery(): Promise<RecoveryTimes> {
  const folder = mkdtempSync(path.join(tmpdir(), "goku-recovery-"));
  const stateDir = mkdtempSync("/dev/shm/goku-recovery-");
  await writeShapes({ directory: path.join(folder, "shapes"), singles: 96, pairs: 24, clips: 12 });
  const cluster = await LocalCluster.start({ nodes: 2, slotsPerNode: 2, folder, stateDir });
  const client = new ControllerClient(cluster.controller);
  const leave = new AbortController();
  try {
    await client.call("submitJob", { job: recoveryJob(folder), resumeUri: undefined });
    const steps = new StepStream(client, leave.signal);
    const times: RecoveryTimes = { rank: [], agent: [] };
    await steps.pass(STEPS_BETWEEN);
    for (let i = 0; i < KILLS.rank; i++) {
      const rank = i % 4;
      times.rank.push(await measure(steps, await rankPid(client, rank)));
    }
    for (let i = 0; i < KILLS.agent; i++) {
      times.agent.push(await measure(steps, cluster.pid(i % 2 === 0 ? "node-a" : "node-b")));
    }
    return times;
  } finally {
    leave.abort();
    client.close();
    await cluster.stop();
    rmSync(folder, { recursive: true, force: true });
    rmSync(stateDir, { recursive: true, force: true });
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

async function measure(steps: StepStream, pid: number): Promise<number> {
  const { generation } = await steps.pass(1);
  const begun = performance.now();
  process.kill(pid, "SIGKILL");
  await steps.until((step) => step.generation > generation);
  const seconds = (performance.now() - begun) / 1000;
  await steps.pass(STEPS_BETWEEN);
  return seconds;
}

async function rankPid(client: ControllerClient, rank: number): Promise<number> {
  for (;;) {
    const { nodes } = await client.call("listNodes", {});
    const page = nodes.flatMap((node) => node.ranks).find((one) => one.rank === rank && one.phase !== "idle");
    if (page) return page.pid;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Completed steps as the controller tells them. */
class StepStream {
  private readonly events: AsyncIterator<{ step?: Step | undefined }>;

  constructor(client: ControllerClient, signal: AbortSignal) {
    this.events = client
      .events({ job: "recovery", afterId: 0n, follow: true }, signal)
      [Symbol.asyncIterator]();
  }

  async until(wanted: (step: Step) => boolean): Promise<Step> {
    for (;;) {
      const { value, done } = await this.events.next();
      if (done) throw new Error("Cannot measure recovery: the job has ended, see its log");
      if (value.step && wanted(value.step)) return value.step;
    }
  }

  /** Waits for so many steps from now on. */
  async pass(count: number): Promise<Step> {
    let last: Step | null = null;
    for (let i = 0; i < count; i++) last = await this.until(() => true);
    return last!;
  }
}

/** Prints kill-to-next-completed-step: median, and each one. */
export async function main(): Promise<void> {
  const times = await measureRecovery();
  for (const [what, seconds, aim] of [
    ["rank", times.rank, 2],
    ["agent", times.agent, 5],
  ] as const) {
    const each = seconds.map((one) => one.toFixed(2)).join(", ");
    console.log(
      `recovery ${what.padEnd(6)} kill to next step: median ${median(seconds).toFixed(2)} s (${each}), aim ${aim} s`,
    );
  }
}

if (process.argv[1] === import.meta.filename) await main();
