import { type ChildProcess, fork } from "node:child_process";
import { availableParallelism } from "node:os";
import { entryPoint } from "../../job/entry_points.js";
import type { FromChecker, ToChecker } from "../check_messages.js";
import { cudaOrder } from "../device/cuda_order.js";
import { visibleDevices } from "../device/visible_devices.js";
import type { ProcessRecords } from "./process_records.js";

/** How long it may take to start on a busy machine, and a device's driver with it. */
const BOOT_MS = 30_000;
/** Of what it wrote last, for people. */
const LAST_CHARS = 300;

/** What came of a command; `ended`: the process has gone, or was ended since it took too long. */
export type CheckerAnswer = FromChecker | { kind: "ended"; how: string };

export interface CheckerOptions {
  records: ProcessRecords;
  /** Number of the CUDA device that it examines; null: the node itself. */
  device: number | null;
  /** How long it may take to start, and a device to answer for the first time. */
  bootMs?: number | undefined;
}

/**
 * The process in which a node is examined, or one device of it, from fork to exit: one command at a time, each with a
 * deadline.
 */
export class CheckerProcess {
  readonly pid: number;
  /** Resolves when it has ended and been reaped. */
  readonly gone: Promise<void>;
  private readonly child: ChildProcess;
  private readonly booted: Promise<CheckerAnswer>;
  private answer: ((answer: CheckerAnswer) => void) | null = null;
  private how: string | null = null;
  private last = "";

  constructor({ records, device, bootMs = BOOT_MS }: CheckerOptions) {
    this.child = fork(entryPoint("checks"), device === null ? [] : [String(device)], {
      stdio: ["ignore", "ignore", "pipe", "ipc"],
      serialization: "advanced", // group numbers are bigints
      env: { ...checkerEnvironment(), ...(device === null ? {} : deviceEnvironment(device)) },
    });
    this.pid = this.child.pid ?? -1;
    if (this.pid > 0) records.add(this.pid);
    this.child.stderr!.on("data", (bytes: Buffer) => {
      this.last = `${this.last}${bytes}`.slice(-LAST_CHARS);
    });
    this.child.on("message", (message: FromChecker) => this.settle(message));
    this.child.on("error", (error) => this.ended(`cannot be started: ${error.message}`));
    this.gone = new Promise((resolve) => {
      // After its output has been read, which explains its end.
      this.child.once("close", (code, signal) => {
        if (this.pid > 0) records.remove(this.pid);
        this.ended(`${signal === null ? `exited with code ${code}` : `ended by ${signal}`}${this.lastText}`);
        resolve();
      });
      if (this.pid < 0) resolve();
    });
    this.booted = this.expect(bootMs);
  }

  /** Sends a command and waits for what comes of it, at most so long once the process has started. */
  async ask(message: ToChecker, limitMs: number): Promise<CheckerAnswer> {
    const booted = await this.booted;
    if (booted.kind === "ended") return booted;
    const answer = this.expect(limitMs);
    if (this.how === null) this.child.send(message, () => {});
    return await answer;
  }

  /** Ends it; what is asked is answered with that. */
  kill(why: string): void {
    this.ended(why);
    this.child.kill("SIGKILL");
  }

  private expect(limitMs: number): Promise<CheckerAnswer> {
    const { how } = this;
    if (how !== null) return Promise.resolve({ kind: "ended", how });
    return new Promise((resolve) => {
      const limit = setTimeout(() => this.kill(`did not end in ${limitMs} ms and was killed`), limitMs);
      this.answer = (answer) => {
        clearTimeout(limit);
        resolve(answer);
      };
    });
  }

  private settle(answer: CheckerAnswer): void {
    const { answer: resolve } = this;
    this.answer = null;
    resolve?.(answer);
  }

  /** The first reason counts. */
  private ended(how: string): void {
    this.how ??= how;
    this.settle({ kind: "ended", how: this.how });
  }

  private get lastText(): string {
    const line = this.last.trim().split("\n").at(-1) ?? "";
    return line === "" ? "" : `: ${line}`;
  }
}

/** As that of a rank on it: the number says the same device everywhere. */
function deviceEnvironment(index: number): NodeJS.ProcessEnv {
  return {
    ...cudaOrder(),
    CUDA_VISIBLE_DEVICES: visibleDevices({ inherited: process.env.CUDA_VISIBLE_DEVICES, index }),
  };
}

/** A thread on every core that the agent may use, each bound to its own: a product then passes through all of them. */
function checkerEnvironment(): NodeJS.ProcessEnv {
  return {
    ...process.env,
    OMP_NUM_THREADS: String(availableParallelism()),
    OMP_PROC_BIND: "true",
    OMP_PLACES: "threads",
    OMP_WAIT_POLICY: "passive",
    OMP_DYNAMIC: "false",
  };
}
