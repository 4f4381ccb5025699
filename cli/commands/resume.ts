import type { Command } from "commander";
import { stringify } from "yaml";
import { openCheckpoint } from "../../checkpoint/load.js";
import { absolutePaths } from "../../job/absolute_paths.js";
import { GokuError } from "../../job/errors.js";
import { type Job, modelConfig } from "../../job/job.js";
import { Layout } from "../../job/layout.js";
import { loadJob } from "../../job/load_job.js";
import { parameterSpecs } from "../../job/parameters.js";
import { guaranteesEnded } from "../../job/resume_guarantees.js";
import { globals } from "../context.js";
import { show } from "../output.js";
import { checkpointUri, collect, wholeNumber } from "../read_options.js";
import { localSize, type RunOptions, runJob } from "../run_job.js";

interface ResumeOptions extends RunOptions {
  ckpt: string;
  layout?: string;
  ranks?: string;
  set: string[];
  dryRun?: boolean;
}

export function addResumeCommand(program: Command): void {
  program
    .command("resume")
    .description("continue from a checkpoint, on any number of ranks and in any layout")
    .requiredOption(
      "--ckpt <dir>",
      "folder or s3:// URI of a run (its newest checkpoint), or one checkpoint-<step> below it",
    )
    .option("--layout <RxSxU>", "dp_replicate x dp_shard x sp, for example 1x3x1")
    .option("--ranks <count>", "that many ranks, parameters sharded over all of them")
    .option("--set <key=value>", "change a key of the job; says which guarantees that ends", collect, [])
    .option(
      "--local <nodes>x<slots>",
      "start a controller and agents on this machine for the time of the job",
    )
    .option("--detach", "submit and return; follow later with gokuctl watch")
    .option("--dry-run", "print the job that would run and what changes, run nothing")
    .addHelpText(
      "after",
      `
Examples:
  gokuctl resume --ckpt ./runs/shapes --layout 1x3x1 --local 1x3
  gokuctl resume --ckpt ./runs/shapes/checkpoint-200 --set train.steps=900 --dry-run`,
    )
    .action(resume);
}

async function resume(options: ResumeOptions, command: Command): Promise<void> {
  const output = globals(command);
  localSize(options);
  const uri = checkpointUri(options.ckpt);
  const checkpoint = await openCheckpoint(uri);
  const { meta } = checkpoint;
  const before = meta.job as Job;
  const file = `kept in ${options.ckpt}`;
  const after = absolutePaths(loadJob(stringify(before), resumeOverrides(options), { file }), process.cwd());
  checkpoint.requireModel(parameterSpecs(modelConfig(after)));
  const ended = guaranteesEnded(before, after, { before: meta.layout, after: after.layout });
  if (!output.json) {
    process.stdout.write(`Resuming ${before.name} from step ${meta.state.step}\n`);
    for (const e of ended)
      process.stdout.write(`  ${e.key}: ${brief(e.from)} -> ${brief(e.to)}: ${e.consequence}\n`);
    if (ended.length === 0) process.stdout.write("  exact: same samples, same losses bit for bit\n");
  }
  if (options.dryRun)
    return show(output, { job: after, guarantees_ended: ended }, () => stringify(after).trimEnd());
  await runJob(after, uri, options, output);
}

function resumeOverrides(options: ResumeOptions): string[] {
  if (options.layout && options.ranks)
    throw new GokuError(
      "ARGUMENT_INVALID",
      "Cannot use --layout and --ranks together: a layout says how many ranks there are",
    );
  const overrides = [...options.set];
  if (options.layout) overrides.push(`layout=${JSON.stringify(Layout.parse(options.layout).size)}`);
  if (options.ranks) {
    const ranks = wholeNumber("--ranks", options.ranks, { least: 1 });
    overrides.push(`layout=${JSON.stringify({ dp_replicate: 1, dp_shard: ranks, sp: 1 })}`);
  }
  return overrides;
}

function brief(value: unknown): string {
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
