import { existsSync, mkdirSync } from "node:fs";
import path from "node:path";
import type { Command } from "commander";
import { absolutePaths } from "../../job/absolute_paths.js";
import { GokuError } from "../../job/errors.js";
import { globals } from "../context.js";
import { checkData, dataLine } from "../data_report.js";
import { show, table } from "../output.js";
import { readJob, wholeNumber } from "../read_options.js";

export function addDataCommands(program: Command): void {
  const data = program.command("data").description("make and check data sets");
  data
    .command("shapes")
    .description("write the demonstration set: PNG pictures and MP4 clips of coloured shapes with captions")
    .argument("<dir>", "folder to write")
    .option("--seed <number>", "seed of positions, sizes and colours", "1")
    .addHelpText("after", "\nExample:\n  gokuctl data shapes ./data/shapes")
    .action(writeSet);
  data
    .command("check")
    .description(
      "read a job's media as training will: what there is, what is left out and why, how packs fill",
    )
    .argument("<file>", "job file (YAML)")
    .argument("[overrides...]", "dotted overrides, for example data.media=./other")
    .addHelpText("after", "\nExample:\n  gokuctl data check examples/shapes.yaml data.media=./data/mine")
    .action(check);
}

async function writeSet(dir: string, options: { seed: string }, command: Command): Promise<void> {
  const seed = wholeNumber("--seed", options.seed);
  makeFolder(path.resolve(dir));
  const { writeShapes } = await import("../../worker/data/shapes/write_shapes.js");
  const written = await writeShapes({ directory: dir, seed });
  show(
    globals(command),
    written,
    () => `Wrote ${written.images} pictures and ${written.clips} clips to ${dir}`,
  );
}

/** Level by level: node's own recursive mkdir never ends where the system makes no folders, as in /proc. */
function makeFolder(dir: string): void {
  if (existsSync(dir)) return;
  makeFolder(path.dirname(dir));
  try {
    mkdirSync(dir);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === "EEXIST") return;
    throw new GokuError("ARGUMENT_INVALID", `Cannot write to ${dir}: ${message}; name another folder`);
  }
}

async function check(file: string, overrides: string[], _options: object, command: Command): Promise<void> {
  const output = globals(command);
  const job = absolutePaths(readJob(file, overrides), process.cwd());
  const report = await checkData(job, output);
  const json = {
    media: job.data.media,
    images: report.images,
    videos: report.videos,
    packs_per_epoch: report.packsPerEpoch,
    tokens_per_pack: report.tokensPerPack,
    fill: report.fill,
    left_out: report.leftOut.map(({ sample, reason }) => ({ file: sample, reason })),
  };
  show(output, json, () => {
    const rows = report.leftOut.map(({ sample, reason }) => [sample, reason]);
    return rows.length === 0
      ? dataLine(report)
      : `${dataLine(report)}\n\n${table(["LEFT OUT", "WHY"], rows)}`;
  });
}
