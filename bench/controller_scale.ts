/**
 * One controller with the agents of a large cluster: a real process, a real gRPC stream from every agent, simulated ranks
 * (test/support/simulated_agent.ts). CPU seconds of the controller's process count, all its threads and its garbage
 * collection included; what its heartbeats take meanwhile is taken off events, so that a busy machine does not matter much.
 * Run alone: node dist/bench/controller_scale.js [--agents N] [--ranks N] [--seconds N] [--rounds N] [--profile DIR]
 */
import { mkdtempSync, realpathSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { type Job, jobSchema } from "../job/job.js";
import { median } from "../job/median.js";
import { measureCore, measureScrape } from "./core_scale.js";
import { judge } from "./figures.js";
import { type Cost, type Figures, Measurement, type World } from "./scale_measurement.js";

const LIMITS = { cpuShare: 0.5, residentMb: 500, formSeconds: 2, loseSeconds: 0.1, scrapeMs: 10 };

function scaleJob(ranks: number, folder: string, layout: { dp_shard: number; sp: number }): Job {
  const { dp_shard, sp } = layout;
  return jobSchema.parse({
    name: "scale",
    data: { media: "/data" },
    layout: { dp_replicate: ranks / (dp_shard * sp), dp_shard, sp },
    train: { steps: 1_000_000, packs_per_step: ranks },
    checkpoint: { uri: `file://${path.join(folder, "run")}` },
    recovery: { stall_seconds: 60 },
  });
}

function report(found: Figures, { agents, ranks }: World): void {
  const line = (name: string, value: string, verdict = "") =>
    console.log(`${name.padEnd(58)}${value.padStart(16)}  ${verdict}`);
  const cost = (name: string, costs: readonly Cost[], limit: number | null = null) => {
    const cpu = median(costs.map((one) => one.cpu));
    const walls = costs.map(({ wall }) => wall.toFixed(1)).join(", ");
    const verdict = limit === null ? "" : `limit ${limit} s  ${judge(cpu, limit)}`;
    line(name, `${cpu.toFixed(3)} s of CPU`, `in ${walls} s  ${verdict}`);
  };
  const full = ranks >= 12_288;
  console.log(`${ranks} ranks on ${agents} agents; seconds of the controller's CPU, median where repeated`);
  cost("all agents join", [found.join]);
  cost("the first generation forms, from submit to run", [found.form], full ? LIMITS.formSeconds : null);
  const share = median(found.steady.map(({ cpu, wall }) => cpu / wall));
  const limit = `limit ${LIMITS.cpuShare}  ${judge(share, LIMITS.cpuShare)}`;
  line("heartbeats each second, share of a core", share.toFixed(3), limit);
  const memory = `limit ${LIMITS.residentMb} MB  ${judge(found.residentMb, LIMITS.residentMb)}`;
  line("memory while training (RSS)", `${found.residentMb.toFixed(0)} MB`, memory);
  line("memory at most", `${found.residentMbMax.toFixed(0)} MB`);
  const { p99, max } = found.loopLagMs;
  line("event loop delay while training, p99 and most", `${p99.toFixed(0)}, ${max.toFixed(0)} ms`);
  cost("a node is lost, until all are told what follows", found.lose, full ? LIMITS.loseSeconds : null);
  cost("the next generation forms after that", found.reformed, full ? LIMITS.formSeconds : null);
  cost("a rank is killed, until all train again", found.kill);
  cost("the controller is killed, until it has all agents again", [found.restart]);
  line("  until it leads", `${found.restartLeads.toFixed(2)} s`);
  for (const { name, ms, cpu, bytes } of found.answers) {
    line(name, `${cpu.toFixed(0)} ms of CPU`, `in ${ms.toFixed(0)} ms, ${(bytes / 1e6).toFixed(2)} MB`);
  }
}

function reportCore({ agents, ranks }: World): void {
  for (const [dp_shard, sp] of [
    [64, 1],
    [ranks / 8, 8],
  ] as const) {
    const job = scaleJob(ranks, "/", { dp_shard, sp });
    const figures = Array.from({ length: 3 }, () => measureCore(job, agents));
    const of = (name: keyof (typeof figures)[0]) =>
      `${name} ${median(figures.map((f) => f[name])).toFixed(0)}`;
    const names = Object.keys(figures[0]!) as (keyof (typeof figures)[0])[];
    console.log(
      `the core alone, layout ${ranks / dp_shard / sp}x${dp_shard}x${sp}, ms: ${names.map(of).join(", ")}`,
    );
  }
}

/** A scrape blocks the event loop for all of its CPU time. */
async function reportScrape({ agents, ranks }: World): Promise<void> {
  const job = scaleJob(ranks, "/", { dp_shard: 64, sp: 1 });
  const { ms, bytes } = await measureScrape(job, agents);
  const [middle, most] = [median(ms), Math.max(...ms)].map((each) => each.toFixed(1));
  const verdict = `limit ${LIMITS.scrapeMs} ms  ${judge(Math.max(...ms), LIMITS.scrapeMs)}`;
  console.log(
    `a scrape blocks the event loop: ${middle} ms, at most ${most} of ${ms.length}, ${(bytes / 1e3).toFixed(0)} kB  ${verdict}`,
  );
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      agents: { type: "string", default: "1536" },
      ranks: { type: "string", default: "12288" },
      seconds: { type: "string", default: "30" },
      rounds: { type: "string", default: "3" },
      profile: { type: "string" },
    },
  });
  const { profile } = values;
  const number = (name: "agents" | "ranks" | "seconds" | "rounds") => Number(values[name]);
  const world = {
    agents: number("agents"),
    ranks: number("ranks"),
    seconds: number("seconds"),
    rounds: number("rounds"),
  };
  await reportScrape(world);
  reportCore(world);
  const folder = mkdtempSync(path.join(os.tmpdir(), "goku-scale-"));
  const execArgv = profile === undefined ? [] : ["--cpu-prof", `--cpu-prof-dir=${profile}`];
  try {
    const job = scaleJob(world.ranks, folder, { dp_shard: Math.min(64, world.ranks / 8), sp: 1 });
    report(await new Measurement(world, { folder, execArgv }).run(job), world);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

if (realpathSync(process.argv[1]!) === fileURLToPath(import.meta.url)) await main();
