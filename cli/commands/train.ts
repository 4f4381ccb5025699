import type { Command } from "commander";
import { stringify } from "yaml";
import { absolutePaths } from "../../job/absolute_paths.js";
import { globals } from "../context.js";
import { show } from "../output.js";
import { readAnyJob } from "../read_options.js";
import { localSize, type RunOptions, runJob } from "../run_job.js";

export function addTrainCommand(program: Command): void {
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
    .addHelpText(
      "after",
      `
Examples:
  gokuctl train examples/shapes.yaml --local 2x2
  gokuctl train examples/shapes.yaml train.steps=200 layout=auto --detach
  gokuctl train examples/ddp.yaml --local 2x2          # a program of its own, one per rank`,
    )
    .action(train);
}

async function train(
  file: string,
  overrides: string[],
  options: RunOptions & { dryRun?: boolean },
  command: Command,
): Promise<void> {
  localSize(options);
  const job = readAnyJob(file, overrides);
  const output = globals(command);
  if (options.dryRun) return show(output, job, () => stringify(job).trimEnd());
  await runJob(absolutePaths(job, process.cwd()), null, options, output);
}
