import path from "node:path";
import type { Logger } from "pino";
import type { CounterRate, NodeSignal } from "../../../gen/goku/v1/agent.pb.js";
import type { CounterName } from "../../../job/signals/counters.js";
import { CounterWatch } from "./counter_watch.js";
import type { WatchedGpu } from "./gpu_book.js";
import { GpuWatch } from "./gpu_watch.js";
import { KernelLog } from "./kernel_log.js";
import { LogReader, type ReadSign } from "./log_reader.js";
import { type MachineReading, readMachine } from "./read_counters.js";
import { readKernelLine } from "./read_kernel_line.js";
import { SignalBook } from "./signal_book.js";

/** Reading costs microseconds, and what it finds ends a wait of minutes. */
const KERNEL_EVERY_MS = 1_000;
/** Some counters ask the firmware of a card. */
const COUNTERS_EVERY_MS = 5_000;

export interface NodeWatchOptions {
  /** Where the machine's `dev/kmsg` and `sys` are: `/`, or where a container sees them. */
  hostRoot: string;
  log: Logger;
  /** World rank whose process, or program, this is; null: none of this node's. */
  rankOf: (pid: number) => number | null;
  /** To be told at once. */
  found: (signals: NodeSignal[]) => void;
  /** Counters that grew, for metrics. */
  grew: (counter: CounterName, by: number) => void;
}

/** Reads what this machine and its ranks say of their health, and tells what is worth knowing; decides nothing. */
export class NodeWatch {
  private readonly options: NodeWatchOptions;
  private readonly book = new SignalBook();
  private readonly counters = new CounterWatch();
  private readonly gpuWatch: GpuWatch;
  private readonly readers = new Map<number, LogReader>();
  private kernel: KernelLog | null = null;
  private readonly timers: NodeJS.Timeout[] = [];
  private reading = false;
  /** What cannot be watched, with why, one line each. */
  readonly unwatched: string[] = [];

  constructor(options: NodeWatchOptions) {
    this.options = options;
    this.gpuWatch = new GpuWatch({
      log: options.log,
      read: (machine) => this.judge(machine),
      found: (signs) => this.tell(signs, () => null),
      wantsXids: () => this.kernel === null,
    });
  }

  start(): void {
    this.openKernel();
    this.every(KERNEL_EVERY_MS, () => this.lookAtKernel());
    this.every(COUNTERS_EVERY_MS, () => void this.lookAtCounters());
    void this.lookAtCounters();
    this.gpuWatch.start();
  }

  close(): void {
    for (const timer of this.timers) clearInterval(timer);
    this.closeKernel();
    this.gpuWatch.close();
  }

  /** Growth of the machine's counters. */
  get rates(): CounterRate[] {
    return [...this.counters.perMinute].map(([counter, perMinute]) => ({ counter, perMinute }));
  }

  /** GPUs that ranks of this node see. */
  get gpus(): readonly WatchedGpu[] {
    return this.gpuWatch.watched;
  }

  /** A generation begins: what its ranks say counts anew, and who is killed for memory, which in a container is told of the node. */
  begin(): void {
    this.readers.clear();
    this.book.clear("rank ");
    this.book.clear("node kernel.oom_kill ");
  }

  /** Output of a rank. */
  take(rank: number, lines: readonly string[]): void {
    const reader = this.readers.get(rank) ?? new LogReader();
    this.readers.set(rank, reader);
    this.tell(
      lines.flatMap((line) => reader.read(line) ?? []),
      () => rank,
    );
  }

  /** Also when a rank has ended: the kernel says why it killed a process before it does. */
  lookAtKernel(): void {
    if (this.kernel === null) return;
    try {
      const signs = this.kernel.read().flatMap((line) => readKernelLine(line) ?? []);
      this.tell(signs, ({ pid }) => (pid === null ? null : this.options.rankOf(pid)));
    } catch (error) {
      this.closeKernel();
      this.cannotRead(error as NodeJS.ErrnoException);
    }
  }

  private async lookAtCounters(): Promise<void> {
    if (this.reading) return; // a card that does not answer must not pile up readers
    this.reading = true;
    try {
      this.judge(await readMachine(this.options.hostRoot));
    } finally {
      this.reading = false;
    }
  }

  private judge(machine: MachineReading): void {
    const { signs, grown } = this.counters.take(machine, performance.now());
    for (const [counter, by] of grown) this.options.grew(counter, by);
    this.tell(signs, () => null);
  }

  private tell<T extends ReadSign>(signs: readonly T[], rankOf: (sign: T) => number | null): void {
    const signals = signs.flatMap((sign): NodeSignal[] => {
      const { kind, device, text } = sign;
      const rank = rankOf(sign);
      const key = `${rank === null ? "node" : `rank ${rank}`} ${kind} ${device}`;
      const count = this.book.count(key, performance.now());
      if (count === null) return [];
      return [{ kind, rank: rank ?? undefined, device, text, count, atMs: BigInt(Date.now()) }];
    });
    if (signals.length > 0) this.options.found(signals);
  }

  private openKernel(): void {
    try {
      this.kernel = new KernelLog(path.join(this.options.hostRoot, "dev/kmsg"));
    } catch (error) {
      this.cannotRead(error as NodeJS.ErrnoException);
    }
  }

  private closeKernel(): void {
    this.kernel?.close();
    this.kernel = null;
  }

  private cannotRead({ code = "", message }: NodeJS.ErrnoException): void {
    const file = path.join(this.options.hostRoot, "dev/kmsg");
    const what = `the kernel's log: ${file} cannot be read (${code || message}), so that faults of GPUs, memory and disks are not seen`;
    this.unwatched.push(what);
    this.options.log.warn(
      { file, code },
      `cannot watch ${what}; docs/hardware-signals.md says what it needs`,
    );
  }

  private every(ms: number, look: () => void): void {
    this.timers.push(setInterval(look, ms));
  }
}
