import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { openSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import type { FailedMessage, ListeningMessage } from "../cli/local_cluster.js";
import { entryPoint } from "../job/entry_points.js";

/** A controller as `gokuctl controller` runs it, in a process whose CPU time and memory are read. */
export class MeasuredController {
  readonly grpc: string;
  readonly rest: string;
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess, { grpc, rest }: ListeningMessage) {
    this.#child = child;
    this.grpc = grpc;
    this.rest = rest;
  }

  /** @param options.execArgv of node, for a profile */
  static async start(options: {
    folder: string;
    port?: string;
    restPort?: string;
    execArgv?: string[];
  }): Promise<MeasuredController> {
    const { folder, port = "0", restPort = "0", execArgv = [] } = options;
    const log = openSync(path.join(folder, "controller.log"), "a");
    const main = entryPoint("gokuctl");
    const store = path.join(folder, "store");
    const child = fork(main, ["controller", "--port", port, "--rest-port", restPort, "--store", store], {
      stdio: ["ignore", log, log, "ipc"],
      execArgv: ["--enable-source-maps", ...execArgv],
    });
    const [message] = (await once(child, "message")) as [ListeningMessage | FailedMessage];
    if (message.kind === "failed") throw new Error(message.message);
    return new MeasuredController(child, message);
  }

  /** Seconds of CPU that it has used, all its threads together. */
  get cpuSeconds(): number {
    const tasks = `/proc/${this.#child.pid}/task`;
    let nanoseconds = 0;
    for (const task of readdirSync(tasks)) {
      nanoseconds += Number(readFileSync(path.join(tasks, task, "schedstat"), "utf8").split(" ")[0]);
    }
    return nanoseconds / 1e9;
  }

  get residentBytes(): number {
    return this.#status("VmRSS");
  }

  /** The most that it has had. */
  get residentBytesMax(): number {
    return this.#status("VmHWM");
  }

  #status(field: string): number {
    const status = readFileSync(`/proc/${this.#child.pid}/status`, "utf8");
    return 1024 * Number(new RegExp(`^${field}:\\s+(\\d+) kB$`, "m").exec(status)![1]);
  }

  async stop(signal: "SIGTERM" | "SIGKILL"): Promise<void> {
    const exited = once(this.#child, "exit");
    this.#child.kill(signal);
    await exited;
  }
}
