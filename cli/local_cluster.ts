import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { createWriteStream, mkdirSync, rmSync, type WriteStream } from "node:fs";
import path from "node:path";
import { ERRORS, type ErrorCode, GokuError } from "../job/errors.js";

/** For its ranks' last save; what takes longer than the second one is killed. */
const AGENT_GRACE_SECONDS = 8;
const REAP_MS = 10_000;

export interface LocalClusterOptions {
  nodes: number;
  slotsPerNode: number;
  /** Logs and the embedded store go here; kept afterwards. */
  folder: string;
  /** Parent of the nodes' shared memory; one of this cluster's own unless given, which ends with it. */
  stateDir?: string;
  /** Extra environment of controller and agents, for example failpoints. */
  env?: Record<string, string>;
  /** Ports of the controller; 0: any free one. */
  port?: number;
  restPort?: number;
  /** Start a process again after it died, as a kubelet would. Default true. */
  restart?: boolean;
}

/**
 * A whole cluster on this machine: one controller and some agents, each a process of its own that is started again
 * when it dies, as a kubelet would. Used by `gokuctl train --local`, by the demonstration and by the fault tests.
 */
export class LocalCluster {
  readonly #options: LocalClusterOptions;
  readonly #stateDir: string;
  readonly #members = new Map<string, Member>();
  #stopping = false;
  /** host:port of gRPC and the URL of REST. */
  controller = "";
  rest = "";

  private constructor(options: LocalClusterOptions) {
    this.#options = options;
    this.#stateDir = options.stateDir ?? path.join("/dev/shm/goku", path.basename(options.folder));
  }

  static async start(options: LocalClusterOptions): Promise<LocalCluster> {
    mkdirSync(options.folder, { recursive: true });
    const cluster = new LocalCluster(options);
    try {
      await cluster.startController();
      for (let i = 0; i < options.nodes; i++) cluster.startAgent(nodeName(i));
    } catch (error) {
      await cluster.stop();
      throw error;
    }
    return cluster;
  }

  /** Process of "controller" or of a node, for those who want to harm it. */
  pid(member: string): number {
    return this.#memberOf(member).child.pid!;
  }

  /** How the present process of a member ends: exit code, or the signal that ended it. */
  ended(member: string): Promise<number | NodeJS.Signals> {
    const { child } = this.#memberOf(member);
    const how = () => child.exitCode ?? child.signalCode;
    const now = how();
    return now !== null ? Promise.resolve(now) : once(child, "exit").then(() => how()!);
  }

  #memberOf(name: string): Member {
    const member = this.#members.get(name);
    if (member === undefined)
      throw new GokuError(
        "NOT_FOUND",
        `Cannot find member "${name}": have ${[...this.#members.keys()].join(", ")}`,
      );
    return member;
  }

  /** Starts the controller (again: at the same ports) and resolves when it listens. */
  async startController(): Promise<void> {
    const [port, restPort] = this.controller
      ? [this.controller.split(":")[1]!, new URL(this.rest).port]
      : [String(this.#options.port ?? 0), String(this.#options.restPort ?? 0)];
    const member = this.#spawn("controller", [
      "controller",
      "--port",
      port,
      "--rest-port",
      restPort,
      "--store",
      path.join(this.#options.folder, "store"),
    ]);
    const listening = new Promise<{ grpc: string; rest: string }>((resolve, reject) => {
      member.child.on("message", (message: ListeningMessage | FailedMessage) => {
        if (message.kind === "listening") resolve(message);
        if (message.kind === "failed") reject(new GokuError(knownCode(message.code), message.message));
      });
      member.child.once("exit", (code, signal) =>
        reject(
          new GokuError(
            "INTERNAL",
            `Cannot start the controller: it ended with ${signal ?? `exit code ${code}`}; see ${member.logPath}`,
          ),
        ),
      );
    });
    const { grpc, rest } = await listening;
    this.controller = grpc;
    this.rest = rest;
  }

  startAgent(node: string): void {
    this.#spawn(node, [
      "agent",
      "--controller",
      this.controller,
      "--node",
      node,
      "--slots",
      String(this.#options.slotsPerNode),
      "--host",
      "127.0.0.1",
      "--state-dir",
      this.#stateDir,
      "--log-dir",
      this.#options.folder,
      "--grace",
      String(AGENT_GRACE_SECONDS),
    ]);
  }

  /**
   * Ends everything and frees its shared memory. On SIGTERM agents let their ranks save first; SIGKILL ends all at once.
   */
  async stop(signal: "SIGTERM" | "SIGKILL" = "SIGTERM"): Promise<void> {
    this.#stopping = true;
    const ends = [...this.#members.values()].map(async ({ child, log }) => {
      if (child.exitCode === null && child.signalCode === null) {
        const exited = once(child, "exit");
        child.kill(signal);
        const reaper = setTimeout(() => child.kill("SIGKILL"), REAP_MS);
        await exited;
        clearTimeout(reaper);
      }
      log.end();
    });
    await Promise.all(ends);
    if (this.#options.stateDir === undefined)
      rmSync(this.#stateDir, { recursive: true, force: true, maxRetries: 10 }); // the last rank may still be going
  }

  #spawn(name: string, args: string[]): Member {
    const logPath = path.join(this.#options.folder, `${name}.log`);
    const log = this.#members.get(name)?.log ?? createWriteStream(logPath, { flags: "a" });
    const child = fork(path.join(import.meta.dirname, "main.js"), args, {
      stdio: ["ignore", "pipe", "pipe", "ipc"],
      detached: true, // a group of its own: Ctrl-C is for the parent, which ends its members in order
      env: { ...process.env, ...this.#options.env },
    });
    child.stdout!.pipe(log, { end: false });
    child.stderr!.pipe(log, { end: false });
    const member: Member = { child, log, logPath };
    this.#members.set(name, member);
    child.once("exit", () => {
      const restart = this.#options.restart ?? true;
      if (this.#stopping || !restart || this.#members.get(name) !== member) return;
      // A kubelet waits a little, so that a process that fails at once does not spin.
      setTimeout(() => this.#restart(name), 100);
    });
    return member;
  }

  #restart(name: string): void {
    if (this.#stopping) return;
    if (name !== "controller") this.startAgent(name);
    else this.startController().catch(() => {}); // its exit schedules the next try
  }
}

function nodeName(index: number): string {
  return `node-${String.fromCharCode(97 + (index % 26))}${index >= 26 ? Math.floor(index / 26) : ""}`;
}

/** What a controller tells its parent once it listens, or cannot. */
export interface ListeningMessage {
  kind: "listening";
  grpc: string;
  rest: string;
}
export interface FailedMessage {
  kind: "failed";
  code: string;
  message: string;
}

interface Member {
  child: ChildProcess;
  log: WriteStream;
  logPath: string;
}

function knownCode(code: string): ErrorCode {
  return Object.hasOwn(ERRORS, code) ? (code as ErrorCode) : "INTERNAL";
}
