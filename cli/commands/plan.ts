import { statSync } from "node:fs";
import type { Command } from "commander";
import { absolutePaths } from "../../job/absolute_paths.js";
import type { Job } from "../../job/job.js";
import type { DataReport } from "../../worker/data/pack_source.js";
import { type GlobalOptions, globals } from "../context.js";
import { checkData } from "../data_report.js";
import { show } from "../output.js";
import { type ClusterOptions, readCluster } from "../plan/cluster.js";
import { doesNotFit } from "../plan/nearest_fit.js";
import { planJob } from "../plan/plan_job.js";
import { planJson } from "../plan/plan_json.js";
import { planText } from "../plan/plan_text.js";
import { readJob } from "../read_options.js";

export function addPlanCommand(program: Command): void {
  program
    .command("plan")
    .description(
      "say before the launch whether a job fits: memory of every layout, how packs fill, what checkpoints cost",
    )
    .argument("<file>", "job file (YAML)")
    .argument("[overrides...]", "dotted overrides, for example train.tokens_per_pack=1024")
    .option("--local <nodes>x<slots>", "nodes and ranks of each that this machine holds, as for train")
    .option("--nodes <count>", "nodes that hold the job (default: 1)")
    .option(
      "--slots <count>",
      "ranks of each node (default: those of the job's layout, else this machine's cores)",
    )
    .option("--memory <size>", "memory of a node, for example 64GiB (default: this machine's)")
    .option(
      "--shared-memory <size>",
      "what /dev/shm of a node can hold (default: this machine's, half of --memory)",
    )
    .option("--gpu <name>:<memory>", "plan for GPUs, computed and not measured, for example h200:141GB")
    .option("--gpus <count>", "GPUs in all (default: 8)")
    .option("--gpus-per-node <count>", "GPUs of each node (default: 8, or all when there are fewer)")
    .option("--no-data", "do not look at the media")
    .addHelpText(
      "after",
      `
Examples:
  gokuctl plan examples/shapes.yaml --local 2x2
  gokuctl plan job.yaml --nodes 4 --slots 8 --memory 256GiB
  gokuctl plan job.yaml model.preset=goku-8b train.packs_per_step=64 --gpu h200:141GB --gpus 64`,
    )
    .action(plan);
}

async function plan(
  file: string,
  overrides: string[],
  options: ClusterOptions & { data: boolean },
  command: Command,
): Promise<void> {
  const output = globals(command);
  const job = absolutePaths(readJob(file, overrides), process.cwd());
  const cluster = readCluster(options, job);
  const { data, note } = await look(job, options.data, output);
  const planned = planJob(job, cluster, data);
  show(output, planJson(planned, data), () => planText(planned, data, note));
  if (planned.recommended === null) throw doesNotFit(planned, data);
}

/** The data where they are here; a plan needs none. */
async function look(
  job: Job,
  wanted: boolean,
  output: GlobalOptions,
): Promise<{ data: DataReport | null; note: string | null }> {
  if (!wanted) return { data: null, note: "not looked at (--no-data)" };
  const { media } = job.data;
  if (!statSync(media, { throwIfNoEntry: false })?.isDirectory())
    return { data: null, note: `${media} is not here: planned without it` };
  return { data: await checkData(job, output), note: null };
}
