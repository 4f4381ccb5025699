import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { createWriteStream, mkdirSync, rmSync, type WriteStream } from "node:fs";
import path from "node:path";
import { entryPoint } from "../job/entry_points.js";
import { ERRORS, type ErrorCode, GokuError } from "../job/errors.js";

/** For its ranks' last save; what takes longer than the second one is killed. */
const AGENT_GRACE_SECONDS = 8;
const REAP_MS = 10_000;

/** What names credentials of controllers, agents and gokuctl. */
const CREDENTIAL_VARIABLES = new Set([
  "GOKU_TLS_CERT",
  "GOKU_TLS_KEY",
  "GOKU_TLS_CA",
  "GOKU_TOKENS",
  "GOKU_CA",
  "GOKU_CERT",
  "GOKU_KEY",
  "GOKU_TOKEN_FILE",
]);

export interface LocalClusterOptions {
  nodes: number;
  slotsPerNode: number;
  /** Logs and the embedded store go here; kept afterwards. */
  folder: string;
  /** Instead of the embedded store; as `gokuctl controller --store` takes it. */
  store?: string;
  /** Controllers beside the first, on the same store, which then is not the embedded one. Default 0. */
  standbys?: number;
  /** Parent of the nodes' shared memory; one of this cluster's own unless given, which ends with it. */
  stateDir?: string;
  /** Extra environment of controller and agents, for example failpoints, or credentials. */
  env?: Record<string, string>;
  /** More arguments of controllers. */
  controllerArgs?: readonly string[];
  /** More arguments of agents. */
  agentArgs?: readonly string[];
  /** Ports of the controller; 0: any free one. */
  port?: number;
  restPort?: number;
  /** Where each member runs; all on loopback unless given. */
  placeOf?: (member: string) => MemberPlace;
  /** Start a process again after it died, as a kubelet would. Default true. */
  restart?: boolean;
}

/** Where a member runs: its address, and the command that enters that place, such as `ip netns exec NAME`. */
export interface MemberPlace {
  host: string;
  enter: readonly string[];
  /** Extra environment of this member alone. */
  env: Readonly<Record<string, string>>;
}

const LOOPBACK: MemberPlace = { host: "127.0.0.1", enter: [], env: {} };

/**
 * A whole cluster on this machine: one controller and some agents, each a process of its own that is started again
 * when it dies, as a kubelet would. Used by `gokuctl train --local`, by the demonstration and by the fault tests.
 */
export class LocalCluster {
  readonly #options: LocalClusterOptions;
  readonly #stateDir: string;
  readonly #members = new Map<string, Member>();
  readonly #addresses = new Map<string, { grpc: string; rest: string }>();
  #stopping = false;
  /** Of the first controller: host:port of gRPC and the URL of REST. */
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
      for (let i = 0; i <= (options.standbys ?? 0); i++) await cluster.startController(controllerName(i));
      for (let i = 0; i < options.nodes; i++) cluster.startAgent(nodeName(i));
    } catch (error) {
      await cluster.stop();
      throw error;
    }
    return cluster;
  }

  /** Ends every process at once, without a look at how: for a caller that is about to end itself. */
  killNow(): void {
    this.#stopping = true;
    for (const { child } of this.#members.values()) killGroup(child);
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

  /** host:port of gRPC and the URL of REST of the i-th controller. */
  addressOf(index: number): { grpc: string; rest: string } {
    return this.#addresses.get(controllerName(index))!;
  }

  /** Starts a controller (again: at the same ports) and resolves when it listens. */
  async startController(name = controllerName(0)): Promise<void> {
    const before = this.#addresses.get(name);
    const isFirst = name === controllerName(0);
    const [port, restPort] = before
      ? [before.grpc.split(":")[1]!, new URL(before.rest).port]
      : [isFirst ? this.#options.port : 0, isFirst ? this.#options.restPort : 0].map((one) =>
          String(one ?? 0),
        );
    const member = this.#spawn(name, [
      "controller",
      "--host",
      this.#placeOf(name).host,
      "--port",
      port!,
      "--rest-port",
      restPort!,
      "--store",
      this.#options.store ?? path.join(this.#options.folder, "store"),
      ...(this.#options.controllerArgs ?? []),
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
    this.#addresses.set(name, { grpc, rest });
    ({ grpc: this.controller, rest: this.rest } = this.addressOf(0));
  }

  startAgent(node: string): void {
    this.#spawn(node, [
      "agent",
      "--controller",
      [...this.#addresses.values()].map(({ grpc }) => grpc).join(","),
      "--node",
      node,
      "--slots",
      String(this.#options.slotsPerNode),
      "--host",
      this.#placeOf(node).host,
      "--state-dir",
      this.#stateDir,
      "--log-dir",
      this.#options.folder,
      "--grace",
      String(AGENT_GRACE_SECONDS),
      ...(this.#options.agentArgs ?? []),
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
        if (signal === "SIGKILL") killGroup(child);
        else child.kill(signal);
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
    const { enter, env } = this.#placeOf(name);
    const [command, ...before] = [...enter, process.execPath];
    const child = fork(entryPoint("gokuctl"), args, {
      execPath: command!,
      execArgv: [...before, ...process.execArgv],
      stdio: ["ignore", "pipe", "pipe", "ipc"],
      detached: true, // a group of its own: Ctrl-C is for the parent, which ends its members in order
      env: { ...withoutCredentials(process.env), ...this.#options.env, ...env },
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

  #placeOf(member: string): MemberPlace {
    return this.#options.placeOf?.(member) ?? LOOPBACK;
  }

  #restart(name: string): void {
    if (this.#stopping) return;
    if (!this.#addresses.has(name)) this.startAgent(name);
    else this.startController(name).catch(() => {}); // its exit schedules the next try
  }
}

/** Those of the person are for another cluster; this one is on loopback, and has none unless it is told. */
function withoutCredentials(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const ours = Object.entries(env).filter(([name]) => !CREDENTIAL_VARIABLES.has(name));
  return Object.fromEntries(ours);
}

/** A member with its children: a rank that was stopped would not notice that its agent has gone. */
function killGroup({ pid }: ChildProcess): void {
  try {
    process.kill(-pid!, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

function controllerName(index: number): string {
  return index === 0 ? "controller" : `controller-${index + 1}`;
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
