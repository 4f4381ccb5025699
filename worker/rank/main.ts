import { GokuError, toGokuError } from "../../job/errors.js";
import { modelConfig } from "../../job/job.js";
import { productVersion } from "../../job/version.js";
import { openPackSource } from "../data/pack_source.js";
import { loadNative } from "../engine/load_native.js";
import type { FromRank, ToRank } from "../rank_messages.js";
import { watchParent } from "./parent_watch.js";
import { RankMachine } from "./rank_machine.js";

/** Encoded samples kept in memory by each rank. */
const CACHE_BYTES = 256 * 2 ** 20;

/**
 * Entry of a rank process: boots (imports, addon, thread pools), says hello and waits for a place, so that a spare costs
 * no start-up time when it is needed. It lives and dies with its agent.
 */
function main(): void {
  const send = (message: FromRank) => {
    process.send?.(message, undefined, undefined, () => {}); // a failed send means the agent has gone, and so do we
  };
  watchParent(Number(process.env.GOKU_AGENT_PID ?? process.ppid));
  process.on("disconnect", () => process.exit(0));
  // A terminal's Ctrl-C and a service manager's SIGTERM reach the whole group: the agent decides when ranks end.
  process.on("SIGINT", () => {});
  process.on("SIGTERM", () => {});
  const receive = boot(send);
  process.on("message", (message: ToRank) => receive(message));
  send({ kind: "hello", pid: process.pid });
}

/** A process that cannot load its addon says so when it is given a place, so that the reason reaches the controller. */
function boot(send: (message: FromRank) => void): (message: ToRank) => void {
  try {
    const machine = new RankMachine({
      native: loadNative(),
      version: productVersion(),
      openSource: (job, digest) =>
        openPackSource({ job, model: modelConfig(job), digest, cacheBytes: CACHE_BYTES }),
      send,
    });
    return (message) => machine.receive(message);
  } catch (error) {
    const { code, message } = error instanceof GokuError ? error : toGokuError(error, "NATIVE_MISSING");
    return (command) => {
      if (command.kind !== "prepare") return;
      const { generation, rank } = command;
      send({ kind: "failed", generation, rank, code, message, peer: -1, operation: "" });
    };
  }
}

main();
