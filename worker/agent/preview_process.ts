import { type ChildProcess, fork } from "node:child_process";
import { entryPoint } from "../../job/entry_points.js";
import type { FromPreview, ToPreview } from "../preview_messages.js";
import type { ProcessRecords } from "./process_records.js";

/** Weights and pictures lie outside this heap; what is left in it is small. */
const HEAP_MIB = 128;
/** Of what it wrote last, for people. */
const LAST_CHARS = 300;

/**
 * The process that draws one preview. It gets the processor's time that ranks leave: `nice` starts it, since a priority set
 * later would leave out the threads that are there already.
 */
export class PreviewProcess {
  readonly pid: number;
  /** Resolves when it has ended and been reaped. */
  readonly gone: Promise<void>;
  private readonly child: ChildProcess;
  private last = "";
  private killed = false;

  /** @param onEnded how it ended, unless it was killed from here */
  constructor(
    order: ToPreview,
    records: ProcessRecords,
    { onMessage, onEnded }: { onMessage: (message: FromPreview) => void; onEnded: (how: string) => void },
  ) {
    this.child = fork(entryPoint("preview"), [], {
      stdio: ["ignore", "ignore", "pipe", "ipc"],
      serialization: "advanced",
      execPath: "nice",
      execArgv: ["-n", "19", process.execPath, `--max-old-space-size=${HEAP_MIB}`],
      env: { ...process.env, OMP_NUM_THREADS: "1", VIPS_CONCURRENCY: "1", UV_THREADPOOL_SIZE: "2" },
      detached: true, // a group of its own: what writes clips ends with it
    });
    this.pid = this.child.pid ?? -1;
    if (this.pid > 0) records.add(this.pid);
    this.child.stderr!.on("data", (bytes: Buffer) => {
      this.last = `${this.last}${bytes}`.slice(-LAST_CHARS);
    });
    this.child.on("message", (message: FromPreview) => {
      if (this.killed) return;
      if (message.kind === "booted") this.child.send(order, () => {});
      else onMessage(message);
    });
    this.gone = new Promise((resolve) => {
      const end = (how: string) => {
        if (this.pid > 0) records.remove(this.pid);
        if (!this.killed) onEnded(how);
        resolve();
      };
      this.child.once("error", (error) => {
        if (this.pid < 0) end(`cannot be started: ${error.message}`);
      });
      this.child.once("close", (code, signal) =>
        end(`${signal === null ? `exited with code ${code}` : `ended by ${signal}`}${this.lastText}`),
      );
    });
  }

  /** Ends it at once, and all that it has started. */
  kill(): void {
    this.killed = true;
    if (this.pid < 0) return;
    try {
      process.kill(-this.pid, "SIGKILL");
    } catch {
      this.child.kill("SIGKILL"); // it has no group of its own yet, or has gone
    }
  }

  private get lastText(): string {
    const line = this.last.trim().split("\n").at(-1) ?? "";
    return line === "" ? "" : `: ${line}`;
  }
}
