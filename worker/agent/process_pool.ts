import type { FromRank } from "../rank_messages.js";
import type { ProcessRecords } from "./process_records.js";
import { type ProcessEnd, RankProcess } from "./rank_process.js";

export interface ProcessPoolOptions {
  /** Folder of the processes' pages. */
  pagesFolder: string;
  records: ProcessRecords;
  /** Threads a process starts with. */
  threads: number;
  onMessage: (process: RankProcess, message: FromRank) => void;
  onLines: (process: RankProcess, lines: string[]) => void;
  /** Reaped. */
  onExit: (process: RankProcess) => void;
  /** Follows: its output has been read. */
  onEnd: (process: RankProcess, end: ProcessEnd) => void;
}

/** All processes that this agent started and that have not ended, on record for a successor of the agent. */
export class ProcessPool {
  private readonly options: ProcessPoolOptions;
  private readonly processes = new Map<number, RankProcess>();
  private idLast = 0;

  constructor(options: ProcessPoolOptions) {
    this.options = options;
  }

  start(): RankProcess {
    const { pagesFolder, threads, records, onMessage, onLines, onExit, onEnd } = this.options;
    const process: RankProcess = new RankProcess({
      id: ++this.idLast,
      folder: pagesFolder,
      threads,
      onMessage: (message) => onMessage(process, message),
      onLines: (lines) => onLines(process, lines),
      onExit: () => {
        process.dying = true;
        records.remove(process.pid);
        onExit(process);
      },
      onEnd: (end) => {
        this.processes.delete(process.id);
        onEnd(process, end);
      },
    });
    this.processes.set(process.id, process);
    if (process.pid > 0) records.add(process.pid);
    return process;
  }

  find(id: number): RankProcess | undefined {
    return this.processes.get(id);
  }

  /** Also those that a signal is about to end. */
  get all(): RankProcess[] {
    return [...this.processes.values()];
  }

  get living(): RankProcess[] {
    return this.all.filter((process) => !process.dying);
  }

  /** Living processes that hold a rank. */
  get ranks(): RankProcess[] {
    return this.living.filter((process) => process.rank !== null);
  }

  /** Living processes that wait for a rank. */
  get spares(): RankProcess[] {
    return this.living.filter((process) => process.rank === null);
  }

  /** Ends processes that did nothing wrong. */
  dismiss(processes: readonly RankProcess[]): void {
    for (const process of processes) {
      process.dismissed = true;
      process.kill();
    }
  }

  /** Resolves when none of these is left. */
  async gone(which: (process: RankProcess) => boolean): Promise<void> {
    while (this.all.some(which)) await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
