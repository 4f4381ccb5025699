import { mkdtempSync } from "node:fs";
import path from "node:path";
import { pino } from "pino";
import type { SelfCheck, SelfCheckBegun, SelfCheckReport } from "../../gen/goku/v1/agent.pb.js";
import { ProcessRecords } from "../../worker/agent/process_records.js";
import { SelfChecker } from "../../worker/agent/self_checker.js";
import type { DeviceInfo } from "../../worker/engine/native.js";

let checkLast = 0n;

export function selfCheckCommand(checks: readonly string[], more: Partial<SelfCheck> = {}): SelfCheck {
  return { checkId: ++checkLast, checks: [...checks], budgetMs: 40, checkpointUri: "", ...more };
}

/** Says something once; `next` waits for what has not been taken. */
class Queue<T> {
  readonly #items: T[] = [];
  readonly #waiting: ((item: T) => void)[] = [];
  push(item: T): void {
    const waiter = this.#waiting.shift();
    if (waiter) waiter(item);
    else this.#items.push(item);
  }
  next(): Promise<T> {
    const item = this.#items.shift();
    return item === undefined ? new Promise((resolve) => this.#waiting.push(resolve)) : Promise.resolve(item);
  }
}

/** A node's checker with its real processes, into which failpoints are set. */
export class CheckedNode {
  readonly begun = new Queue<SelfCheckBegun>();
  readonly reports = new Queue<SelfCheckReport>();
  readonly folder: string;
  /** Of its processes. */
  readonly records: ProcessRecords;
  readonly checker: SelfChecker;
  busy: string | null = null;

  /** @param scratch folder that its own is made in */
  constructor(
    scratch: string,
    { devices = [], ...limits }: { hangMs?: number; bootMs?: number; devices?: readonly DeviceInfo[] } = {},
  ) {
    this.folder = mkdtempSync(path.join(scratch, "node-"));
    this.records = new ProcessRecords(path.join(this.folder, "processes"));
    this.checker = new SelfChecker({
      host: "127.0.0.1",
      stateDir: this.folder,
      records: this.records,
      log: pino({ level: "silent" }),
      peerPort: () => 0,
      devices: () => devices,
      busy: () => this.busy,
      begun: (begun) => this.begun.push(begun),
      report: (report) => this.reports.push(report),
      ...limits,
    });
  }

  /** Starts an examination whose process meets these failpoints, as do those of devices that are started later. */
  start(message: SelfCheck, failpoints = ""): void {
    process.env.GOKU_FAILPOINTS = failpoints; // read when a process starts
    this.checker.start(message);
  }
}
