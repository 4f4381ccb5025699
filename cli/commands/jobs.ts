import type { Command } from "commander";
import { incidentJson, jobJson, logLineJson, nodeJson } from "../../controller/api/json.js";
import type { JobStatus } from "../../gen/goku/v1/controller.pb.js";
import { GokuError } from "../../job/errors.js";
import { withController } from "../context.js";
import { followJob } from "../follow_job.js";
import { incidentText } from "../format_incident.js";
import { isOver, jobDetail, jobsTable, phaseName } from "../format_job.js";
import { duration, type Output, show, table } from "../output.js";
import { watchJob } from "../watch_job.js";

/** Commands that ask a running controller about jobs and nodes. */
export function addJobCommands(program: Command): void {
  program
    .command("jobs")
    .description("list the jobs a controller knows")
    .action((_options, command: Command) =>
      withController(command, async (client, output) => {
        const { jobs } = await client.call("listJobs", {});
        show(output, { jobs: jobs.map(jobJson) }, () => jobsTable(jobs));
      }),
    );

  program
    .command("status")
    .description("show one job: phase and why, progress, layout, last checkpoint")
    .argument("[job]", "job name; the newest when left out", "")
    .action((name: string, _options, command: Command) =>
      withController(command, async (client, output) => {
        const { job } = await client.call("getJob", { name });
        showJob(output, job);
      }),
    );

  program
    .command("watch")
    .description("follow a job until it ends: progress, ETA, events as they happen")
    .argument("[job]", "job name; the newest when left out", "")
    .action((name: string, _options, command: Command) =>
      withController(command, async (client, output) => {
        await watchJob(client, output, name);
      }),
    );

  program
    .command("why")
    .description(
      "explain the last incident of a job: what happened, who saw it, what was decided, what it cost",
    )
    .argument("[job]", "job name; the newest when left out", "")
    .option("--all", "every incident, oldest first")
    .option("--incident <id>", "one incident by number")
    .action((name: string, options: { all?: boolean; incident?: string }, command: Command) =>
      withController(command, async (client, output) => {
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
      }),
    );

  program
    .command("stop")
    .description("save a job and stop it; resume it later with: gokuctl resume --ckpt DIR")
    .argument("[job]", "job name; the newest when left out", "")
    .option("--no-wait", "return at once instead of waiting for the checkpoint")
    .action((name: string, options: { wait: boolean }, command: Command) =>
      withController(command, async (client, output) => {
        let { job } = await client.call("stopJob", { name });
        if (options.wait && job && !isOver(job.phase)) {
          if (!output.json) process.stderr.write(`${phaseName(job.phase)}: ${job.reason}\n`);
          const onStatus = (status: JobStatus) => {
            job = status;
          };
          for await (const _ of followJob(client, job.name, { onStatus }));
        }
        showJob(output, job);
      }),
    );

  program
    .command("logs")
    .description("print the last lines the ranks wrote")
    .argument("[job]", "job name; the newest when left out", "")
    .option("--rank <rank>", "one rank only")
    .option("--lines <count>", "how many lines", "200")
    .action((name: string, options: { rank?: string; lines: string }, command: Command) =>
      withController(command, async (client, output) => {
        const rank = options.rank === undefined ? undefined : wholeNumber("--rank", options.rank);
        const { lines } = await client.call("getLogs", {
          job: name,
          rank,
          limit: wholeNumber("--lines", options.lines),
        });
        show(output, { lines: lines.map(logLineJson) }, () =>
          lines
            .map((line) => `${line.time?.toISOString() ?? ""}  rank ${line.rank}  ${line.text}`)
            .join("\n"),
        );
      }),
    );

  program
    .command("nodes")
    .description("list nodes: slots, job, ranks and their progress, silence")
    .action((_options, command: Command) =>
      withController(command, async (client, output) => {
        const { nodes } = await client.call("listNodes", {});
        show(output, { nodes: nodes.map(nodeJson) }, () =>
          table(
            ["NODE", "STATE", "SLOTS", "DEVICE", "JOB", "RANKS", "HEARD", "SNAPSHOTS"],
            nodes.map((node) => [
              node.nodeId,
              node.connected ? "connected" : "unreachable",
              node.slots,
              node.device,
              node.job || "-",
              node.ranks.map((rank) => `${rank.rank}:${rank.phase}@${rank.step}`).join(" ") || "-",
              `${duration(node.silentSeconds)} ago`,
              node.heldStates.length === 0
                ? "-"
                : `step ${Math.max(...node.heldStates.map((held) => Number(held.state?.step ?? 0n)))}`,
            ]),
          ),
        );
      }),
    );
}

export function showJob(output: Output, job: JobStatus | undefined): void {
  show(output, job ? jobJson(job) : null, () => (job ? jobDetail(job) : "No job"));
}

/** A count from the command line. Throws ARGUMENT_INVALID naming the option. */
export function wholeNumber(option: string, text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0) {
    throw new GokuError(
      "ARGUMENT_INVALID",
      `Cannot read ${option}: found "${text}", want a whole number of at least 0`,
    );
  }
  return value;
}
