import { type ChildProcess, fork } from "node:child_process";
import { randomUUID } from "node:crypto";
import { rmSync } from "node:fs";
import path from "node:path";
import type { RankProgress } from "../../gen/goku/v1/agent.pb.js";
import { entryPoint } from "../../job/entry_points.js";
import type { ErrorCode } from "../../job/errors.js";
import { cudaOrder } from "../device/cuda_order.js";
import { endFamily, FAMILY_VARIABLE } from "../program/process_family.js";
import type { FromRank, ToRank } from "../rank_messages.js";
import { STACK_FILE_VARIABLE } from "../stack_file.js";
import { ControlPage, createPage } from "./control_page.js";
import { inspectProcess } from "./inspect_process.js";
import { inspectProgram } from "./inspect_program.js";
import type { Unsent } from "./progress_reader.js";
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

/** How long what a program leaves behind may take to go; longer than its node may take to be found bad. */
const FAMILY_MS = 60_000;

/** What a person reads of one rank. */
const INSPECTED_LINES_MAX = 60;

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
  /** It was told to open the data of a job before it has a place there. */
  knowsData = false;
  /** GPU of the node, in CUDA's order, that it computes on for as long as it lives; null: none yet. */
  gpu: number | null = null;
  /** It was told to end (or killed), and its end is nobody's fault. */
  dismissed = false;
  /** It is to be killed, and is looked at first. */
  condemned = false;
  /** A signal that ends it is on its way. */
  dying = false;
  readonly controlPath: string;
  readonly progressPath: string;
  /** What a program of its own that it keeps may write to say that it goes on. */
  readonly heartbeatPath: string;
  /** Where it tells its stacks. */
  readonly stackPath: string;

  private readonly child: ChildProcess;
  /** Session of the program of its own that it keeps; null: it runs none. */
  private session: number | null = null;
  /** Process of the program that it keeps, or kept last. */
  private programPid: number | null = null;
  /** Carried by all that it starts. */
  private readonly mark: string;
  private readonly control: ControlPage;
  private readonly progressReader: ProgressReader;
  private readonly last = new LastLines();
  private booted = false;
  private waiting: ToRank[] = [];

  constructor(options: RankProcessOptions) {
    this.id = options.id;
    this.controlPath = path.join(options.folder, `${options.id}.control`);
    this.progressPath = path.join(options.folder, `${options.id}.progress`);
    this.heartbeatPath = path.join(options.folder, `${options.id}.heartbeat`);
    this.mark = familyMark(options.folder) + randomUUID();
    this.stackPath = path.join(options.folder, `${options.id}.stacks`);
    this.control = new ControlPage(this.controlPath);
    createPage(this.progressPath);
    this.progressReader = new ProgressReader(this.progressPath);
    this.child = fork(entryPoint("rank"), [], {
      stdio: ["ignore", "pipe", "pipe", "ipc"],
      serialization: "advanced", // JSON would lose a loss that is not a number
      env: {
        ...rankEnvironment(options.threads),
        [STACK_FILE_VARIABLE]: this.stackPath,
        [FAMILY_VARIABLE]: this.mark,
      },
    });
    this.pid = this.child.pid ?? -1;
    this.listen(options);
  }

  /** It is given a rank, and has something to do from now on. */
  beginPlace(rank: number, generation: bigint): void {
    this.rank = rank;
    this.generation = generation;
    this.stage = "preparing";
    this.progressReader.begin();
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

  /** What it is doing, or the program that it keeps, one line each; see inspectProcess(). */
  async inspect(): Promise<string[]> {
    const { mark, session, pid } = this;
    const lines =
      session === null
        ? await inspectProcess(pid, this.stackPath)
        : inspectProgram({ mark, session, except: pid });
    return lines.slice(0, INSPECTED_LINES_MAX);
  }

  /** To be called every `WATCH_MS`, so that progress() knows for how long nothing has moved. */
  watch(): void {
    this.progressReader.watch(monotonicMs());
  }

  progress(): RankProgress {
    return this.progressReader.read({ rank: this.rank ?? 0, pid: this.pid }, monotonicMs());
  }

  /** As of the last progress(). */
  get unsent(): Unsent | null {
    return this.progressReader.unsent;
  }

  /** It, or the program that it keeps or kept last. */
  isProcess(pid: number): boolean {
    return pid === this.pid || pid === this.programPid;
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
      else if (message.kind === "program") this.keeps(message.session);
      else if (message.kind !== "failed" && message.kind !== "finished") onMessage(message);
      // What it wrote before its end has come already, and is read in this turn.
      else setImmediate(() => onMessage(message));
    });
    let ended = false;
    const end = (result: ProcessEnd) => {
      if (ended) return;
      ended = true;
      onEnd(result); // still reads the page that the process has left
      this.control.close();
      this.progressReader.close();
      rmSync(this.stackPath, { force: true });
    };
    this.child.on("error", (error) => {
      this.last.push([error.message]);
      if (this.pid >= 0) return;
      onExit();
      end({ exitCode: -1, signal: "" }); // it could not be started
    });
    const reaped = (result: ProcessEnd) => {
      onExit();
      // What it wrote last explains its end; grandchildren that hold the pipes must not delay the news.
      const late = setTimeout(() => end(result), 50);
      this.child.once("close", () => {
        clearTimeout(late);
        end(result);
      });
    };
    this.child.once("exit", (code, signal) => {
      this.dying = true;
      const result = { exitCode: code ?? -1, signal: signal ?? "" };
      if (this.session === null) reaped(result);
      else
        void endFamily({ mark: this.mark, session: this.session, except: 0 }, FAMILY_MS).then(() =>
          reaped(result),
        );
    });
  }

  private keeps(session: number | null): void {
    this.session = session;
    this.programPid = session ?? this.programPid; // the first process of its session
  }

  private boot(): void {
    this.booted = true;
    for (const message of this.waiting.splice(0)) this.send(message);
  }
}

/** What all processes carry that this agent's ranks have started, and those of its predecessors on this node. */
export function familyMark(pagesFolder: string): string {
  return `${pagesFolder}/`;
}

/** Threads wait passively, because ranks share the cores and a spinning one would slow the rank it waits for. */
function rankEnvironment(threads: number): NodeJS.ProcessEnv {
  return {
    ...process.env,
    ...cudaOrder(),
    OMP_NUM_THREADS: String(threads),
    OMP_WAIT_POLICY: "passive",
    OMP_DYNAMIC: "false",
    GOKU_AGENT_PID: String(process.pid),
  };
}
