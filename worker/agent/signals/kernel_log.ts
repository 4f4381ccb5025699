import { closeSync, constants, openSync, readSync } from "node:fs";
import { LineSplitter } from "../rank_log.js";

/** One read gives one record, which is shorter. */
const RECORD_BYTES = 8_192;
/** Records taken at once: a machine in trouble may write without end, and the agent has other work. */
const READS_MAX = 1_000;

/**
 * The kernel's log from now on, read without waiting: /dev/kmsg, or a file or pipe that stands for it. Throws the system's error
 * where it cannot be opened or read.
 */
export class KernelLog {
  private readonly fd: number;
  private readonly bytes = Buffer.alloc(RECORD_BYTES);
  private readonly splitter = new LineSplitter();

  constructor(file: string) {
    this.fd = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      // What was written before is an older agent's affair, or was mended since: the self-checks of a node that joins look at it.
      while (this.read().length > 0);
    } catch (error) {
      closeSync(this.fd);
      throw error;
    }
  }

  /** Lines written since the last time. */
  read(): string[] {
    const lines: string[] = [];
    for (let reads = 0; reads < READS_MAX; reads++) {
      const count = this.readOnce();
      if (count === 0) break;
      if (count > 0) lines.push(...this.splitter.push(this.bytes.subarray(0, count)));
    }
    return lines;
  }

  close(): void {
    closeSync(this.fd);
  }

  /** 0: there is nothing more; -1: a record was overwritten before it was read. */
  private readOnce(): number {
    try {
      return readSync(this.fd, this.bytes);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "EAGAIN") return 0;
      if (code === "EPIPE") return -1;
      throw error;
    }
  }
}
