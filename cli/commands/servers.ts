import { constants } from "node:os";
import path from "node:path";
import type { Command } from "commander";
import { toGokuError } from "../../job/errors.js";
import type { FailedMessage, ListeningMessage } from "../local_cluster.js";
import { wholeNumber } from "../read_options.js";

/** For what an agent has said last to be sent. */
const EXIT_MS = 1_000;

/** The two long-running processes. Both end cleanly on SIGTERM, SIGINT, and when a parent with an IPC channel goes. */
export function addServerCommands(program: Command): void {
  program
    .command("controller")
    .description("run a controller: gRPC for agents and gokuctl, REST, /metrics")
    .option(
      "--host <address>",
      "address to listen on; beyond loopback needs TLS or a token (not built yet), so it is refused",
      "127.0.0.1",
    )
    .option("--port <port>", "gRPC port; 0: any free one", "7070")
    .option("--rest-port <port>", "HTTP port; 0: any free one", "7080")
    .option("--store <dir>", "folder of the embedded store", "./runs/store")
    .action(async (options: { host: string; port: string; restPort: string; store: string }) => {
      try {
        // Loaded here, so that no other command pays for it.
        const { runController } = await import("../../controller/main.js");
        const server = await runController({
          host: options.host,
          port: wholeNumber("--port", options.port, { most: 65_535 }),
          restPort: wholeNumber("--rest-port", options.restPort, { most: 65_535 }),
          storeFolder: path.resolve(options.store),
        });
        process.send?.({
          kind: "listening",
          grpc: server.grpc,
          rest: server.rest,
        } satisfies ListeningMessage);
        await untilAsked();
        await server.close();
      } catch (error) {
        const known = toGokuError(error);
        process.send?.({ kind: "failed", code: known.code, message: known.message } satisfies FailedMessage);
        throw error;
      }
    });

  program
    .command("agent")
    .description(
      "run a node's agent: takes ranks from a controller, supervises them, keeps snapshots, writes checkpoints",
    )
    .requiredOption("--node <name>", "stable name of this node", process.env.NODE_NAME)
    .option("--slots <count>", "ranks this node can hold", "1")
    .option("--host <address>", "address at which other nodes reach this one", "127.0.0.1")
    .option(
      "--failure-domain <name>",
      "what fails together with this node, such as its rack: copies of its state go elsewhere (default: the node itself)",
      process.env.GOKU_FAILURE_DOMAIN ?? "",
    )
    .option("--state-dir <dir>", "shared-memory folder of snapshots and pages", "/dev/shm/goku")
    .option("--log-dir <dir>", "folder of the ranks' logs", "./runs/logs")
    .option(
      "--grace <seconds>",
      "on SIGTERM: time to make the ranks' state durable; less than whoever sends it allows",
      "30",
    )
    .action(
      async (
        options: Record<
          "node" | "slots" | "host" | "failureDomain" | "stateDir" | "logDir" | "grace",
          string
        >,
        command: Command,
      ) => {
        const { runAgent } = await import("../../worker/agent/run_agent.js");
        const agent = await runAgent({
          controllers: (command.optsWithGlobals() as { controller: string }).controller.split(","),
          node: options.node,
          slots: wholeNumber("--slots", options.slots, { least: 1 }),
          host: options.host,
          failureDomain: options.failureDomain,
          stateDir: path.resolve(options.stateDir),
          logDir: path.resolve(options.logDir),
          graceMs: 1000 * wholeNumber("--grace", options.grace, { most: 86_400 }),
        });
        await agent.close(await untilAsked());
        setTimeout(() => process.exit(), EXIT_MS).unref(); // a write that hangs keeps the process alive
      },
    );
}

/** What asked this process to end. A second signal ends it at once. */
function untilAsked(): Promise<string> {
  return new Promise((resolve) => {
    let isAsked = false;
    const asked = (by: string) => {
      isAsked = true;
      process.off("disconnect", left); // a listener keeps the channel open, and with it the process alive
      resolve(by);
    };
    const left = () => asked("the end of its parent");
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      process.on(signal, () => (isAsked ? process.exit(128 + constants.signals[signal]) : asked(signal)));
    }
    if (process.connected === false)
      left(); // forked by a parent that has gone already
    else if (process.channel) process.once("disconnect", left);
  });
}
