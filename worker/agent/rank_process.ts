import { type ChildProcess, fork } from "node:child_process";
import path from "node:path";
import type { RankProgress } from "../../gen/goku/v1/agent.pb.js";
import type { ErrorCode } from "../../job/errors.js";
import type { FromRank, ToRank } from "../rank_messages.js";
import { ControlPage, createPage } from "./control_page.js";
import { monotonicMs, ProgressReader } from "./progress_reader.js";
import { LastLines, LineSplitter } from "./rank_log.js";

/** How a process ended. */
export interface ProcessEnd {
  /** Exit code, -1 when a signal ended it. */
  exitCode: number;
  /** For example SIGKILL; empty when it exited. */
  signal: string;
}

export interface RankProcessOptions {
  /** Unique among the processes of this agent. */
  id: number;
  /** Folder of its pages. */
  folder: string;
  /** Threads to start with; prepare may say otherwise. */
  threads: number;
  onMessage: (message: FromRank) => void;
  onLines: (lines: string[]) => void;
  /** The process has been reaped. */
  onExit: () => void;
  /** Follows: its output has been read, too. */
  onEnd: (end: ProcessEnd) => void;
}

const ENTRY = path.join(import.meta.dirname, "../rank/main.js");

/** A rank process as its agent sees it: from fork to exit, through any number of generations. */
export class RankProcess {
  readonly id: number;
  readonly pid: number;
  /** World rank it holds; null: a spare. */
  rank: number | null = null;
  /** Newest generation whose Prepare it was given; 0: none. */
  generation = 0n;
  /** Where in that generation it is, as its reports say. */
  stage: "spare" | "preparing" | "ready" | "connected" | "restored" | "running" | "finished" | "left" =
    "spare";
  /** Folder of its snapshot set. */
  set: string | null = null;
  /** It was told to end (or killed), and its end is nobody's fault. */
  dismissed = false;
  /** A signal that ends it is on its way. */
  dying = false;
  readonly controlPath: string;
  readonly progressPath: string;

  private readonly child: ChildProcess;
  private readonly control: ControlPage;
  private readonly progressReader: ProgressReader;
  private readonly last = new LastLines();
  private booted = false;
  private waiting: ToRank[] = [];

  constructor(options: RankProcessOptions) {
    this.id = options.id;
    this.controlPath = path.join(options.folder, `${options.id}.control`);
    this.progressPath = path.join(options.folder, `${options.id}.progress`);
    this.control = new ControlPage(this.controlPath);
    createPage(this.progressPath);
    this.progressReader = new ProgressReader(this.progressPath);
    this.child = fork(ENTRY, [], {
      stdio: ["ignore", "pipe", "pipe", "ipc"],
      serialization: "advanced", // JSON would lose a loss that is not a number
      env: rankEnvironment(options.threads),
    });
    this.pid = this.child.pid ?? -1;
    this.listen(options);
  }

  /** Sends a command; before the process has booted, it waits. */
  send(message: ToRank): void {
    if (!this.booted) this.waiting.push(message);
    // A failed send means that the process is going; its exit event tells the rest.
    else if (this.child.connected) this.child.send(message, () => {});
  }

  /** Frees it from the collectives of this generation and older ones. */
  abort(generation: bigint, cause: { peer: number | null; code: ErrorCode }): void {
    this.control.abort(generation, cause);
  }

  kill(): void {
    this.dying = true;
    this.child.kill("SIGKILL");
  }

  progress(): RankProgress {
    return this.progressReader.read({ rank: this.rank ?? 0, pid: this.pid }, monotonicMs());
  }

  get lastLines(): string[] {
    return this.last.all;
  }

  private listen({ onMessage, onLines, onExit, onEnd }: RankProcessOptions): void {
    for (const stream of [this.child.stdout!, this.child.stderr!]) {
      const splitter = new LineSplitter();
      const take = (lines: string[]) => {
        if (lines.length === 0) return;
        this.last.push(lines);
        onLines(lines);
      };
      stream.on("data", (bytes: Buffer) => take(splitter.push(bytes)));
      stream.on("end", () => take(splitter.end()));
    }
    this.child.on("message", (message: FromRank) => {
      if (message.kind === "hello") this.boot();
      else onMessage(message);
    });
    let ended = false;
    const end = (result: ProcessEnd) => {
      if (ended) return;
      ended = true;
      onEnd(result); // still reads the page that the process has left
      this.control.close();
      this.progressReader.close();
    };
    this.child.on("error", (error) => {
      this.last.push([error.message]);
      if (this.pid >= 0) return;
      onExit();
      end({ exitCode: -1, signal: "" }); // it could not be started
    });
    this.child.once("exit", (code, signal) => {
      const result = { exitCode: code ?? -1, signal: signal ?? "" };
      onExit();
      // What it wrote last explains its end; grandchildren that hold the pipes must not delay the news.
      const late = setTimeout(() => end(result), 50);
      this.child.once("close", () => {
        clearTimeout(late);
        end(result);
      });
    });
  }

  private boot(): void {
    this.booted = true;
    for (const message of this.waiting.splice(0)) this.send(message);
  }
}

/** Threads wait passively, because ranks share the cores and a spinning one would slow the rank it waits for. */
function rankEnvironment(threads: number): NodeJS.ProcessEnv {
  return {
    ...process.env,
    OMP_NUM_THREADS: String(threads),
    OMP_WAIT_POLICY: "passive",
    OMP_DYNAMIC: "false",
    GOKU_AGENT_PID: String(process.pid),
  };
}
