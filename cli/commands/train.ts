import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import type { Command } from "commander";
import { stringify } from "yaml";
import { openCheckpoint } from "../../checkpoint/load.js";
import { absolutePaths } from "../../job/absolute_paths.js";
import { GokuError, toGokuError } from "../../job/errors.js";
import type { Job } from "../../job/job.js";
import { Layout } from "../../job/layout.js";
import { loadJob } from "../../job/load_job.js";
import { guaranteesEnded } from "../../job/resume_guarantees.js";
import { ControllerClient } from "../client.js";
import { type GlobalOptions, globals } from "../context.js";
import { jobDetail } from "../format_job.js";
import { LocalCluster } from "../local_cluster.js";
import { show } from "../output.js";
import { watchJob } from "../watch_job.js";
import { showJob, wholeNumber } from "./jobs.js";

interface RunOptions {
  local?: string;
  detach?: boolean;
  dryRun?: boolean;
}
interface ResumeOptions extends RunOptions {
  ckpt: string;
  layout?: string;
  ranks?: string;
  set: string[];
}

export function addTrainCommands(program: Command): void {
  program
    .command("train")
    .description("submit a job file and follow it")
    .argument("<file>", "job file (YAML); see examples/ and docs/job-file.md")
    .argument("[overrides...]", "dotted overrides, for example train.steps=200 layout.sp=2")
    .option(
      "--local <nodes>x<slots>",
      "start a controller and agents on this machine for the time of the job, for example 2x2",
    )
    .option("--detach", "submit and return; follow later with gokuctl watch")
    .option("--dry-run", "check the job and print it with every default, run nothing")
    .action(async (file: string, overrides: string[], options: RunOptions, command: Command) => {
      const job = loadJob(readText(file), overrides, { file });
      const output = globals(command);
      if (options.dryRun) return show(output, job, () => stringify(job).trimEnd());
      await run(absolutePaths(job, process.cwd()), null, options, output);
    });

  program
    .command("resume")
    .description("continue from a checkpoint, on any number of ranks and in any layout")
    .requiredOption("--ckpt <dir>", "folder of a run (its newest checkpoint) or one checkpoint-<step> folder")
    .option("--layout <RxSxU>", "dp_replicate x dp_shard x sp, for example 1x3x1")
    .option("--ranks <count>", "any layout of that many ranks")
    .option("--set <key=value>", "change a key of the job; says which guarantees that ends", collect, [])
    .option(
      "--local <nodes>x<slots>",
      "start a controller and agents on this machine for the time of the job",
    )
    .option("--detach", "submit and return; follow later with gokuctl watch")
    .option("--dry-run", "print the job that would run and what changes, run nothing")
    .action(async (options: ResumeOptions, command: Command) => {
      const output = globals(command);
      const uri = checkpointUri(options.ckpt);
      const checkpoint = await openCheckpoint(uri);
      const before = checkpoint.meta.job as Job;
      const after = loadJob(stringify(before), resumeOverrides(options), { file: `kept in ${options.ckpt}` });
      const ended = guaranteesEnded(before, after, { before: checkpoint.meta.layout, after: after.layout });
      if (!output.json) {
        process.stdout.write(`Resuming ${before.name} from step ${checkpoint.meta.state.step}\n`);
        for (const e of ended)
          process.stdout.write(`  ${e.key}: ${brief(e.from)} -> ${brief(e.to)}: ${e.consequence}\n`);
        if (ended.length === 0) process.stdout.write("  exact: same samples, same losses bit for bit\n");
      }
      if (options.dryRun)
        return show(output, { job: after, guarantees_ended: ended }, () => stringify(after).trimEnd());
      await run(after, uri, options, output);
    });
}

/** Submits to the controller named, or to a cluster of its own for the time of the job, and follows. */
async function run(
  job: Job,
  resumeUri: string | null,
  options: RunOptions,
  output: GlobalOptions,
): Promise<void> {
  if (options.local && options.detach) {
    throw new GokuError(
      "ARGUMENT_INVALID",
      "Cannot detach from a local cluster: it ends with this command; leave out --detach or --local",
    );
  }
  const cluster = options.local ? await startLocal(options.local) : null;
  const client = new ControllerClient(cluster?.controller ?? output.controller);
  const interrupt = () => void client.call("stopJob", { name: job.name }).catch(() => {});
  if (cluster) process.once("SIGINT", interrupt);
  try {
    const { job: submitted } = await client.call("submitJob", {
      job: job as unknown as { [key: string]: unknown },
      resumeUri: resumeUri ?? undefined,
    });
    if (options.detach) return showJob(output, submitted);
    const ended = await watchJob(client, output, job.name);
    if (!output.json) process.stdout.write(`${jobDetail(ended)}\n`);
  } finally {
    process.off("SIGINT", interrupt);
    client.close();
    await cluster?.stop();
  }
}

async function startLocal(size: string): Promise<LocalCluster> {
  const match = /^(\d+)x(\d+)$/.exec(size);
  if (!match)
    throw new GokuError(
      "ARGUMENT_INVALID",
      `Cannot read --local "${size}": want nodes x slots per node, for example 2x2`,
    );
  const folder = mkdtempSync(path.join(tmpdir(), "goku-local-"));
  const cluster = await LocalCluster.start({
    nodes: Number(match[1]),
    slotsPerNode: Number(match[2]),
    folder,
  });
  process.stderr.write(
    `Local cluster: controller ${cluster.controller}, page ${cluster.rest}, logs ${folder}\n`,
  );
  return cluster;
}

function resumeOverrides(options: ResumeOptions): string[] {
  if (options.layout && options.ranks)
    throw new GokuError(
      "ARGUMENT_INVALID",
      "Cannot use --layout and --ranks together: a layout says how many ranks there are",
    );
  const overrides = [...options.set];
  if (options.layout) overrides.push(`layout=${JSON.stringify(Layout.parse(options.layout).size)}`);
  if (options.ranks)
    overrides.push(
      `layout=${JSON.stringify({ dp_replicate: 1, dp_shard: wholeNumber("--ranks", options.ranks), sp: 1 })}`,
    );
  return overrides;
}

/** Accepts a path or a file:// URI. */
export function checkpointUri(text: string): string {
  if (/^[a-z0-9]+:\/\//.test(text))
    return text.startsWith("file://") ? `file://${path.resolve(text.slice(7))}` : text;
  return `file://${path.resolve(text)}`;
}

function readText(file: string): string {
  try {
    return readFileSync(file.startsWith("file://") ? fileURLToPath(file) : file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT")
      throw new GokuError("NOT_FOUND", `Cannot read job file ${file}: it does not exist`);
    throw toGokuError(error, "ARGUMENT_INVALID");
  }
}

function collect(value: string, all: string[]): string[] {
  return [...all, value];
}

function brief(value: unknown): string {
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
