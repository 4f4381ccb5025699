#!/usr/bin/env node
import { Command, CommanderError } from "commander";
import { ERRORS, GokuError, toGokuError } from "../job/errors.js";
import { productVersion } from "../job/version.js";
import { DEFAULT_CONTROLLER } from "./client.js";
import { addCheckpointCommands } from "./commands/ckpt.js";
import { addDataCommands } from "./commands/data.js";
import { addDoctorCommand } from "./commands/doctor.js";
import { addJobCommands } from "./commands/jobs.js";
import { addSampleCommand } from "./commands/sample.js";
import { addServerCommands } from "./commands/servers.js";
import { addTrainCommands } from "./commands/train.js";

/** `gokuctl`: handlers translate; nothing here decides. Exit codes are those of the error catalogue (docs/errors.md). */
function buildProgram(): Command {
  const program = new Command("gokuctl")
    .description("Train, watch, resume and sample Goku-style image and video models")
    .version(productVersion())
    .option(
      "--controller <host:port>",
      "controller to ask",
      process.env.GOKU_CONTROLLER ?? DEFAULT_CONTROLLER,
    )
    .option("--json", "print one JSON document instead of text", false)
    .showSuggestionAfterError()
    .exitOverride()
    .addHelpText(
      "after",
      `
First steps:
  gokuctl data shapes ./data/shapes              write a small data set of captioned pictures and clips
  gokuctl train examples/shapes.yaml --local 2x2 train it here on 2 nodes of 2 ranks each
  gokuctl why                                    what happened when something broke
  gokuctl resume --ckpt ./runs/shapes --local 1x3  go on from the last checkpoint on 3 ranks
  gokuctl sample --ckpt ./runs/shapes --prompt "a red circle" --out red.png

Exit codes: 0 done, 2 a wrong argument or job file, 3 not found, 7 corrupt checkpoint, 21 no controller,
32 hardware or rank failure, 33 hang, 34 no progress after all recovery attempts; the whole list is in docs/errors.md`,
    );
  addTrainCommands(program);
  addJobCommands(program);
  addCheckpointCommands(program);
  addSampleCommand(program);
  addDataCommands(program);
  addServerCommands(program);
  addDoctorCommand(program);
  for (const command of program.commands) command.exitOverride();
  return program;
}

async function main(): Promise<number> {
  try {
    await buildProgram().parseAsync();
    return 0;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : ERRORS.ARGUMENT_INVALID.exit;
    const known = error instanceof GokuError ? error : toGokuError(error);
    if (process.argv.includes("--json"))
      process.stderr.write(`${JSON.stringify({ error: { code: known.code, message: known.message } })}\n`);
    else process.stderr.write(`${known.code}: ${known.message}\n`);
    if (known.code === "INTERNAL" && error instanceof Error) process.stderr.write(`${error.stack}\n`);
    return ERRORS[known.code].exit;
  }
}

// A closed pipe (`gokuctl logs | head`) is no error.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0);
  throw error;
});
process.exitCode = await main();
