import type { Logger } from "pino";
import { xidKind } from "../../../job/signals/xids.js";
import { GPU_LIMITS, type GpuAnswer, type GpuLimits, GpuReader } from "../../device/gpu_reader.js";
import type { GpuXid } from "../../gpu_messages.js";
import { GpuBook, type WatchedGpu } from "./gpu_book.js";
import type { ReadSign } from "./log_reader.js";
import type { MachineReading } from "./read_counters.js";

/** A reading is some hundred calls a GPU, of microseconds to milliseconds. */
const EVERY_MS = 10_000;
/** A driver that refuses is asked again, by a new process, after so long. */
const REST_MS = 60_000;

export interface GpuWatchOptions {
  log: Logger;
  /** Counters and states of the GPUs. */
  read: (machine: MachineReading) => void;
  /** What is no counter. */
  found: (signs: ReadSign[]) => void;
  /** Nobody else reads the driver's errors. */
  wantsXids: () => boolean;
  everyMs?: number;
  limits?: GpuLimits;
}

/** Reads the GPUs that ranks of this node see, from a process of its own; a machine without NVML is asked once. */
export class GpuWatch {
  private readonly options: GpuWatchOptions;
  private readonly book = new GpuBook(process.env.CUDA_VISIBLE_DEVICES);
  private reader: GpuReader | null = null;
  private timer: NodeJS.Timeout | null = null;
  private asking = false;
  private restsUntilMs = 0;
  private refusal = "";
  /** As of the last reading. */
  watched: readonly WatchedGpu[] = [];

  constructor(options: GpuWatchOptions) {
    this.options = options;
  }

  /** The first reading can wait: ranks that boot have the processor before. */
  start(): void {
    this.timer = setInterval(() => void this.look(), this.options.everyMs ?? EVERY_MS);
  }

  close(): void {
    if (this.timer !== null) clearInterval(this.timer);
    this.timer = null;
    this.reader?.kill();
  }

  private async look(): Promise<void> {
    if (this.asking || performance.now() < this.restsUntilMs) return;
    // Another process would hang in the same driver.
    if (this.reader?.over && !this.reader.gone) return;
    if (this.reader === null || this.reader.over)
      this.reader = new GpuReader(this.options.limits ?? GPU_LIMITS);
    this.asking = true;
    const answer = await this.reader.ask();
    this.asking = false;
    if (this.timer !== null) this.take(answer);
  }

  private take(answer: GpuAnswer): void {
    const { log, read, found, wantsXids } = this.options;
    if (answer.kind !== "read") this.watched = this.watched.map((gpu) => ({ ...gpu, reading: null }));
    switch (answer.kind) {
      case "missing":
        log.info("no GPU is watched: there is no libnvidia-ml.so.1, which comes with NVIDIA's driver");
        this.close();
        return;
      case "refused":
        this.rest(answer.why);
        return;
      case "ended":
        this.rest(`the process that reads GPUs does not work: ${answer.how}`);
        return;
      case "silent": {
        const seconds = answer.limitMs / 1000;
        const device = answer.gpu === null ? "" : this.book.labelAt(answer.gpu);
        log.warn({ device, seconds }, "the driver of the GPUs does not answer");
        found([{ kind: "counter.gpu_silent", device, text: `has not answered for ${seconds} s` }]);
        return;
      }
      case "read": {
        const { machine, watched } = this.book.take(answer.gpus);
        if (watched.length !== this.watched.length)
          log.info({ gpus: watched.map(({ index, uuid }) => `${index} ${uuid}`) }, "GPUs are watched");
        this.watched = watched;
        this.refusal = "";
        read(machine);
        if (wantsXids()) found(answer.xids.map(xidSign));
      }
    }
  }

  /** Told once for each reason. */
  private rest(why: string): void {
    const { log } = this.options;
    log[why === this.refusal ? "debug" : "warn"]({ why }, "GPUs cannot be read at present");
    this.refusal = why;
    this.restsUntilMs = performance.now() + REST_MS;
    this.reader?.kill();
  }
}

/** As the kernel's log has it. */
function xidSign({ busId, xid }: GpuXid): ReadSign {
  const device = busId
    .toLowerCase()
    .replace(/^0000(?=[0-9a-f]{4}:)/, "")
    .replace(/\.0$/, "");
  return { kind: xidKind(xid), device, text: `Xid ${xid}, as NVML tells it` };
}
