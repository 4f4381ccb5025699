#!/usr/bin/env node
import { logVerbosity, setLogVerbosity } from "@grpc/grpc-js";
import { Command, CommanderError, Option } from "commander";
import { ERRORS, GokuError, toGokuError } from "../job/errors.js";
import { productVersion } from "../job/version.js";
import { DEFAULT_CONTROLLER } from "./client.js";
import { addCheckpointCommands } from "./commands/ckpt.js";
import { addDataCommands } from "./commands/data.js";
import { addDiagnoseCommand } from "./commands/diagnose.js";
import { addDoctorCommand } from "./commands/doctor.js";
import { addEventsCommand } from "./commands/events.js";
import { addJobCommands } from "./commands/jobs.js";
import { addKubernetesCommands } from "./commands/kubernetes.js";
import { addNodesCommand } from "./commands/nodes.js";
import { addPlanCommand } from "./commands/plan.js";
import { addPreviewsCommand } from "./commands/previews.js";
import { addResumeCommand } from "./commands/resume.js";
import { addSampleCommand } from "./commands/sample.js";
import { addSecurityCommands } from "./commands/security.js";
import { addServerCommands } from "./commands/servers.js";
import { addTrainCommand } from "./commands/train.js";

/** `gokuctl`: handlers translate; nothing here decides. Exit codes are those of the error catalogue (docs/errors.md). */
function buildProgram(): Command {
  const program = new Command("gokuctl")
    .description("Train, watch, resume and sample Goku-style image and video models")
    .version(productVersion())
    .option(
      "--controller <host:port,...>",
      "controller to ask, or several; one that does not lead says who does",
      process.env.GOKU_CONTROLLER ?? DEFAULT_CONTROLLER,
    )
    .addOption(
      new Option("--ca <file>", "CA of the controller's certificate; without: no TLS").env("GOKU_CA"),
    )
    .addOption(new Option("--cert <file>", "certificate that says who you are").env("GOKU_CERT"))
    .addOption(new Option("--key <file>", "its key").env("GOKU_KEY"))
    .addOption(
      new Option("--token-file <file>", "file of the token that says who you are").env("GOKU_TOKEN_FILE"),
    )
    .option(
      "--json",
      "print one JSON document instead of text; train, resume and watch: a line for each event, the job last",
      false,
    )
    .showSuggestionAfterError()
    .addHelpText(
      "after",
      `
First steps:
  gokuctl data shapes ./data/shapes              write a small data set of captioned pictures and clips
  gokuctl plan examples/shapes.yaml --local 2x2  does it fit? memory, packs and checkpoints of every layout
  gokuctl train examples/shapes.yaml --local 2x2 train it here on 2 nodes of 2 ranks each
  gokuctl resume --ckpt ./runs/shapes --local 1x3 --layout 1x3x1  go on from the last checkpoint on 3 ranks
  gokuctl sample --ckpt ./runs/shapes --prompt "a red circle" --out red.png

With a controller and agents that stay:
  gokuctl controller                             and on every node: gokuctl agent --node NAME --slots N
  gokuctl train examples/shapes.yaml --detach    then: gokuctl watch, status, logs, stop
  gokuctl why                                    what happened when something broke
  docs/security.md                               certificates and tokens, for controllers beyond this machine

Exit codes: 0 done, 1 doctor found a problem or ckpt diff a difference, 2 a wrong argument or job file, or a job that does not fit, 3 not found,
7 corrupt checkpoint, 10 credentials, 21 no controller, 32 hardware or rank failure, 33 hang, 34 no progress after all recovery attempts, 130 interrupted;
the whole list is in docs/errors.md`,
    );
  addPlanCommand(program);
  addTrainCommand(program);
  addResumeCommand(program);
  addJobCommands(program);
  addNodesCommand(program);
  addEventsCommand(program);
  addDiagnoseCommand(program);
  addCheckpointCommands(program);
  addSampleCommand(program);
  addPreviewsCommand(program);
  addDataCommands(program);
  addServerCommands(program);
  addSecurityCommands(program);
  addKubernetesCommands(program);
  addDoctorCommand(program);
  for (const command of [program, ...subcommands(program)]) prepare(command);
  return program;
}

function subcommands(command: Command): Command[] {
  return command.commands.flatMap((sub) => [sub, ...subcommands(sub)]);
}

/** Wrong usage is thrown, so that main() answers it like every other error. */
function prepare(command: Command): void {
  command.exitOverride().configureHelp({ showGlobalOptions: true });
  command.configureOutput({
    outputError: () => {},
    ...(asJson() ? { writeErr: () => {} } : {}),
  });
}

/** For what a command that has failed still writes. */
const LINGER_MS = 1_000;

async function main(): Promise<number> {
  const program = buildProgram();
  // It writes lines of its own about every port that cannot be had.
  if (process.env.GRPC_VERBOSITY === undefined) setLogVerbosity(logVerbosity.NONE);
  try {
    await program.parseAsync();
    return Number(process.exitCode ?? 0);
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return 0; // --help, --version
    if (error instanceof CommanderError && error.code === "commander.help" && !asJson())
      return ERRORS.ARGUMENT_INVALID.exit; // no command was given, and the help has been printed
    const known = error instanceof CommanderError ? usageError(error, program) : toGokuError(error);
    if (asJson())
      process.stderr.write(`${JSON.stringify({ error: { code: known.code, message: known.message } })}\n`);
    else process.stderr.write(`${known.code}: ${known.message}\n`);
    if (known.code === "INTERNAL" && error instanceof Error) process.stderr.write(`${error.stack}\n`);
    return ERRORS[known.code].exit;
  }
}

function usageError({ code, message }: CommanderError, program: Command): GokuError {
  const said = code === "commander.help" ? "none was given" : message.replace(/^error: /, "");
  const line = said.replace(/\s*\n\s*/g, " ").replace(/\.$/, "");
  return new GokuError(
    "ARGUMENT_INVALID",
    `Cannot read the command: ${line}; see ${namedCommand(program)} --help`,
  );
}

/** The innermost command that the arguments name: its help lists its options. */
function namedCommand(program: Command): string {
  let command = program;
  let path = program.name();
  for (const word of process.argv.slice(2)) {
    const sub = command.commands.find((each) => each.name() === word || each.aliases().includes(word));
    if (sub === undefined) continue;
    command = sub;
    path += ` ${sub.name()}`;
  }
  return path;
}

/** Also where the arguments could not be read. */
function asJson(): boolean {
  return process.argv.includes("--json");
}

// A closed pipe (`gokuctl logs | head`) is no error.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0);
  throw error;
});
process.exitCode = await main();
// What failed may have left a connection that nobody answers, which the system gives up only after two minutes; nor may whoever would
// start it again wait so long. Does not keep alive what has nothing left.
if (process.exitCode !== 0) setTimeout(() => process.exit(), LINGER_MS).unref();
