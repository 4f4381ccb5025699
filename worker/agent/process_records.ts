import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { readStat } from "../program/process_stat.js";

/** One process as the kernel knows it: a pid alone may be given to another process later. */
export interface ProcessRecord {
  pid: number;
  /** Clock ticks after boot at which it started. */
  startTicks: string;
}

/** Start time of a process; null: there is none of that pid, or it is a zombie that only waits to be reaped. */
export function startTicks(pid: number): string | null {
  return readStat(pid)?.startTicks ?? null;
}

/** Whether that very process still lives. */
export function isAlive(record: ProcessRecord): boolean {
  return startTicks(record.pid) === record.startTicks;
}

/**
 * Which processes this node's agent has started, on record in its state folder: an agent that was killed leaves them
 * there, and its successor ends what still lives before it touches their memory.
 */
export class ProcessRecords {
  private readonly folder: string;

  constructor(folder: string) {
    this.folder = folder;
    mkdirSync(folder, { recursive: true });
  }

  add(pid: number): void {
    const ticks = startTicks(pid);
    if (ticks === null) return; // it has gone already; its exit event follows
    writeFileSync(path.join(this.folder, `${pid}.json`), JSON.stringify({ pid, startTicks: ticks }));
  }

  remove(pid: number): void {
    rmSync(path.join(this.folder, `${pid}.json`), { force: true });
  }

  all(): ProcessRecord[] {
    return readdirSync(this.folder).flatMap((name) => {
      const record = readRecord(path.join(this.folder, name));
      return record ? [record] : [];
    });
  }
}

/** Null when the file is missing or was cut off while being written. */
export function readRecord(file: string): ProcessRecord | null {
  try {
    const { pid, startTicks: ticks } = JSON.parse(readFileSync(file, "utf8")) as ProcessRecord;
    return Number.isInteger(pid) && pid > 1 && typeof ticks === "string" ? { pid, startTicks: ticks } : null;
  } catch {
    return null;
  }
}

/** Ends processes (SIGKILL) and waits until the kernel has freed them; returns those that would not go in time. */
export async function endProcesses(
  records: readonly ProcessRecord[],
  timeoutMs: number,
): Promise<ProcessRecord[]> {
  let living = records.filter(isAlive);
  for (const { pid } of living) {
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // It went on its own between the look and the signal.
    }
  }
  for (const end = performance.now() + timeoutMs; living.length > 0 && performance.now() < end; ) {
    await new Promise((resolve) => setTimeout(resolve, 5));
    living = living.filter(isAlive);
  }
  return living;
}
