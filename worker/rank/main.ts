import { modelConfig } from "../../job/job.js";
import { productRevision, productVersion } from "../../job/version.js";
import { openPackSource } from "../data/pack_source.js";
import { SAMPLE_CACHE_BYTES } from "../data/sample_cache.js";
import { loadNative } from "../engine/load_native.js";
import { FAMILY_VARIABLE } from "../program/process_family.js";
import { ProgramRank } from "../program/program_rank.js";
import type { FromRank, ToRank } from "../rank_messages.js";
import { STACK_FILE_VARIABLE } from "../stack_file.js";
import { watchParent } from "./parent_watch.js";
import { RankMachine } from "./rank_machine.js";

/**
 * Entry of a rank process: boots (imports, addon, thread pools), says hello and waits for a place, so that a spare costs
 * no start-up time when it is needed. It lives and dies with its agent. A place in a job with a program of its own makes
 * it the keeper of that program.
 */
function main(): void {
  const send = (message: FromRank) => {
    process.send?.(message, undefined, undefined, () => {}); // a failed send means the agent has gone, and so do we
  };
  const mark = process.env[FAMILY_VARIABLE] ?? "";
  const stackFile = process.env[STACK_FILE_VARIABLE] ?? null;
  const watch = watchParent(Number(process.env.GOKU_AGENT_PID ?? process.ppid), { stackFile, mark });
  process.on("disconnect", () => process.exit(0));
  // A terminal's Ctrl-C and a service manager's SIGTERM reach the whole group: the agent decides when ranks end.
  process.on("SIGINT", () => {});
  process.on("SIGTERM", () => {});
  const train = boot(send);
  const onSession = (session: number | null) => {
    watch.watchProgram(session);
    send({ kind: "program", session });
  };
  const program = new ProgramRank({ mark, inherited: process.env, send, onSession });
  let keepsProgram = false;
  process.on("message", (message: ToRank) => {
    if (message.kind === "prepare" || message.kind === "prepareProgram")
      keepsProgram = message.kind === "prepareProgram";
    if (keepsProgram) program.receive(message);
    else train(message);
  });
  send({ kind: "hello", pid: process.pid });
}

/** What its first place would pay for is done now; what fails is told there, so that the reason reaches the controller. */
function boot(send: (message: FromRank) => void): (message: ToRank) => void {
  try {
    const stackFile = process.env[STACK_FILE_VARIABLE];
    const native = loadNative();
    if (stackFile !== undefined) native.stackDumpInstall(stackFile);
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n`);
  }
  const machine = new RankMachine({
    native: loadNative,
    version: productVersion(),
    revision: productRevision(),
    openSource: (job, digest) =>
      openPackSource({ job, model: modelConfig(job), digest, cacheBytes: SAMPLE_CACHE_BYTES }),
    send,
  });
  return (message) => machine.receive(message);
}

main();
