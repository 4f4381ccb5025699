import type { Command } from "commander";
import { eventJson } from "../../controller/api/json.js";
import { withController } from "../context.js";
import { eventLine } from "../format_job.js";
import { collect } from "../read_options.js";

export function addEventsCommand(program: Command): void {
  program
    .command("events")
    .description("print what a controller did and saw, and who asked it for what (--kind audit)")
    .argument("[job]", "job name; all jobs, and the cluster, when left out", "")
    .option("--kind <kind>", "only this kind, such as audit, incident, node; may be repeated", collect, [])
    .option("--follow", "go on with events as they happen")
    .addHelpText("after", "\nExample:\n  gokuctl events --kind audit --json")
    .action(print);
}

function print(job: string, options: { kind: string[]; follow?: boolean }, command: Command): Promise<void> {
  return withController(command, async (client, output) => {
    for await (const event of client.events({ job, afterId: 0n, follow: options.follow ?? false })) {
      if (options.kind.length > 0 && !options.kind.includes(event.kind)) continue;
      process.stdout.write(`${output.json ? JSON.stringify(eventJson(event)) : eventLine(event)}\n`);
    }
  });
}
