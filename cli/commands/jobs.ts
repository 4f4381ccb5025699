import type { Command } from "commander";
import { incidentJson, jobJson, logLineJson } from "../../controller/api/json.js";
import type { JobStatus } from "../../gen/goku/v1/controller.pb.js";
import { GokuError } from "../../job/errors.js";
import { STOP_GRACE } from "../../job/stop_grace.js";
import { withController } from "../context.js";
import { followJob } from "../follow_job.js";
import { incidentText } from "../format_incident.js";
import { isOver, jobsTable, phaseName, showJob } from "../format_job.js";
import { show } from "../output.js";
import { wholeNumber } from "../read_options.js";
import { requireNoError, watchJob } from "../watch_job.js";

/** Exit code of a stop that gave up steps. */
const GIVEN_UP = 1;

/** Commands that ask a running controller about jobs. */
export function addJobCommands(program: Command): void {
  program
    .command("jobs")
    .description("list the jobs a controller knows")
    .addHelpText("after", "\nExample:\n  gokuctl jobs --json --controller 127.0.0.1:7070")
    .action(list);
  named(program, "status")
    .description("show one job: phase and why, progress, layout, last checkpoint")
    .addHelpText("after", "\nExample:\n  gokuctl status shapes")
    .action(status);
  named(program, "watch")
    .description("follow a job until it ends: progress, ETA, events as they happen")
    .addHelpText("after", "\nExample:\n  gokuctl watch shapes")
    .action(watch);
  named(program, "why")
    .description(
      "explain the last incident of a job: what happened, who saw it, what was decided, what it cost",
    )
    .option("--all", "every incident, oldest first")
    .option("--incident <id>", "one incident by number")
    .addHelpText("after", "\nExample:\n  gokuctl why shapes --all")
    .action(why);
  named(program, "stop")
    .description("save a job and stop it; resume it later with: gokuctl resume --ckpt DIR")
    .option(
      "--grace <seconds>",
      `the state is to be durable within so long; where the next step would come too late, the newest that memory holds is saved (default ${STOP_GRACE.seconds})`,
    )
    .option("--no-wait", "return at once instead of waiting for the checkpoint")
    .addHelpText(
      "after",
      "\nExample:\n  gokuctl stop shapes && gokuctl resume --ckpt ./runs/shapes --layout 1x3x1",
    )
    .action(stop);
  named(program, "save")
    .description("make the next state durable now; training goes on")
    .addHelpText("after", "\nExample:\n  gokuctl save shapes && gokuctl status shapes")
    .action(save);
  named(program, "logs")
    .description("print the last lines the ranks wrote")
    .option("--rank <rank>", "one rank only")
    .option("--lines <count>", "how many lines", "200")
    .addHelpText("after", "\nExample:\n  gokuctl logs shapes --rank 2 --lines 50")
    .action(logs);
}

function named(program: Command, command: string): Command {
  return program.command(command).argument("[job]", "job name; the newest when left out", "");
}

function list(_options: object, command: Command): Promise<void> {
  return withController(command, async (client, output) => {
    const { jobs } = await client.call("listJobs", {});
    show(output, { jobs: jobs.map(jobJson) }, () => jobsTable(jobs));
  });
}

function status(name: string, _options: object, command: Command): Promise<void> {
  return withController(command, async (client, output) => {
    const { job } = await client.call("getJob", { name });
    showJob(output, job);
  });
}

function watch(name: string, _options: object, command: Command): Promise<void> {
  return withController(command, async (client, output) => {
    await watchJob(client, output, name);
  });
}

function why(name: string, options: { all?: boolean; incident?: string }, command: Command): Promise<void> {
  return withController(command, async (client, output) => {
    const { incidents } = await client.call("listIncidents", { job: name });
    const chosen = options.incident
      ? incidents.filter((incident) => String(incident.id) === options.incident)
      : options.all
        ? incidents
        : incidents.slice(-1);
    if (options.incident && chosen.length === 0) {
      throw new GokuError(
        "NOT_FOUND",
        `Cannot explain incident ${options.incident}: ${incidents.length} are known; list them with --all`,
      );
    }
    show(output, { incidents: chosen.map(incidentJson) }, () =>
      chosen.length === 0 ? "No incident so far" : chosen.map(incidentText).join("\n\n"),
    );
  });
}

/** Says what was saved. Exit code 1: steps that were done are in no checkpoint; a job that failed instead has its own. */
function stop(name: string, options: { grace?: string; wait: boolean }, command: Command): Promise<void> {
  return withController(command, async (client, output) => {
    const most = STOP_GRACE.secondsMax;
    const grace = options.grace === undefined ? undefined : wholeNumber("--grace", options.grace, { most });
    let { job } = await client.call("stopJob", { name, graceSeconds: grace });
    if (options.wait && job && !isOver(job.phase)) {
      if (!output.json) process.stderr.write(`${phaseName(job.phase)}: ${job.reason}\n`);
      const onStatus = (now: JobStatus) => {
        job = now;
      };
      for await (const _ of followJob(client, job.name, { onStatus }));
    }
    showJob(output, job);
    requireNoError(job);
    if (job !== undefined && job.stepsGivenUp > 0n) process.exitCode = GIVEN_UP;
  });
}

function save(name: string, _options: object, command: Command): Promise<void> {
  return withController(command, async (client, output) => {
    await client.call("saveJob", { name });
    show(output, {}, () => "The next step's state is being made durable; see it with: gokuctl status");
  });
}

function logs(name: string, options: { rank?: string; lines: string }, command: Command): Promise<void> {
  return withController(command, async (client, output) => {
    const rank = options.rank === undefined ? undefined : wholeNumber("--rank", options.rank);
    const limit = wholeNumber("--lines", options.lines, { least: 1 });
    const { lines } = await client.call("getLogs", { job: name, rank, limit });
    show(output, { lines: lines.map(logLineJson) }, () =>
      lines.map((line) => `${line.time?.toISOString() ?? ""}  rank ${line.rank}  ${line.text}`).join("\n"),
    );
  });
}
