import type { Logger } from "pino";
import type {
  SelfCheck,
  SelfCheckBegun,
  SelfCheckConnect,
  SelfCheckReport,
} from "../../gen/goku/v1/agent.pb.js";
import {
  type CheckName,
  type CheckPlace,
  DEVICE_CHECKS,
  type DeviceCheck,
  LONE_CHECKS,
  type LoneCheck,
} from "../check_messages.js";
import type { FoundDevices } from "../device/find_devices.js";
import { CheckerProcess } from "./checker_process.js";
import { pause } from "./pause.js";
import type { ProcessRecords } from "./process_records.js";

export interface SelfCheckerOptions {
  host: string;
  /** The node's folder of pages and snapshots. */
  stateDir: string;
  records: ProcessRecords;
  log: Logger;
  peerPort: () => number;
  /** CUDA devices of the node, in CUDA's order. */
  devices: () => FoundDevices["devices"];
  /** Why the node must not be examined now, for example because ranks run; null: it may be. */
  busy: () => string | null;
  begun: (begun: SelfCheckBegun) => void;
  report: (report: SelfCheckReport) => void;
  /** A check that takes so much longer than its budget has hung. */
  hangMs?: number;
  /** So has a process that takes so long to start. */
  bootMs?: number;
}

const FILE = "file://";
const HANG_MS = 10_000;
/** On a machine that does many other things a round may take long. */
const HANG_BUDGETS = 20;
/** A process that a device's driver does not let go cannot be waited for. */
const REAP_MS = 5_000;

/** What a report says of one check: the node's, or a device's. */
type Result = SelfCheckReport["results"][number];

/** One examination: what was asked, and the processes at work. */
interface Run {
  command: SelfCheck;
  checker: CheckerProcess;
  /** Of devices. */
  others: CheckerProcess[];
  /** Its port is open, and it waits for the members of its collective. */
  listens: boolean;
  /** Ends it when nobody connects. */
  limit: NodeJS.Timeout | null;
}

/**
 * Examines the node when the controller asks, in a process of its own, and then each of its devices, in one process each: a
 * check that crashes or hangs is a verdict about the node or that device and no more. One examination at a time; a newer one, or a rank that gets a place, ends it.
 */
export class SelfChecker {
  private readonly options: SelfCheckerOptions;
  private run: Run | null = null;
  /** Started ahead; null: none waits. */
  private waiting: CheckerProcess | null = null;
  /** What the node's own checks found last. */
  last: SelfCheckReport | undefined;

  constructor(options: SelfCheckerOptions) {
    this.options = options;
  }

  /** Starts a process for the first examination, which follows soon: it boots while the agent seeks a controller. */
  warm(): void {
    this.waiting ??= this.fork();
  }

  start(command: SelfCheck): void {
    const { busy, begun } = this.options;
    this.end("a newer self-check replaced it");
    const why = busy();
    if (why !== null) {
      this.report(command, [], why);
      return;
    }
    const run: Run = { command, checker: this.fork(), others: [], listens: false, limit: null };
    this.run = run;
    if (command.checks.includes("collective")) {
      void this.listen(run);
      return;
    }
    begun({ checkId: command.checkId, clockMs: BigInt(Date.now()), port: 0, pid: 0 });
    void this.examine(run);
  }

  /** All members of a collective listen. */
  connect({ checkId, group, members, secret }: SelfCheckConnect): void {
    const { run } = this;
    if (run === null || run.command.checkId !== checkId || !run.listens) return;
    if (secret === "") {
      this.cancel("its controller gave the collective no secret");
      return;
    }
    const index = members.findIndex(({ pid, host }) => pid === run.checker.pid && host === this.options.host);
    if (run.limit !== null) clearTimeout(run.limit);
    const place = this.place(run.command, 1);
    void run.checker
      .ask({ kind: "connect", place, group, secret, members, index }, this.limitMs(place))
      .then((answer) => this.finish(run, [resultOf("collective", answer)]));
  }

  /** The agent ends: resolves when nothing of an examination is left that could write into the node's folder. */
  async close(): Promise<void> {
    const { run, waiting } = this;
    const checkers = [run?.checker, ...(run?.others ?? []), waiting].filter((checker) => checker != null);
    this.cancel("the agent ends");
    const reaped = new AbortController();
    await Promise.race([Promise.all(checkers.map(({ gone }) => gone)), pause(REAP_MS, reaped.signal)]);
    reaped.abort();
  }

  /** Ranks get a place here. */
  cancel(why: string): void {
    const { run } = this;
    this.end(why);
    this.waiting?.kill(why);
    this.waiting = null;
    if (run !== null) this.report(run.command, [], why);
  }

  private end(why: string): void {
    const { run } = this;
    this.run = null;
    if (run === null) return;
    if (run.limit !== null) clearTimeout(run.limit);
    for (const checker of [run.checker, ...run.others]) checker.kill(why);
  }

  private async listen(run: Run): Promise<void> {
    const place = this.place(run.command, 1);
    const answer = await run.checker.ask({ kind: "listen", place }, this.limitMs(place));
    if (this.run !== run) return;
    if (answer.kind !== "listening") {
      this.finish(run, [resultOf("collective", answer)]);
      return;
    }
    run.listens = true;
    run.limit = setTimeout(() => this.run === run && this.cancel("nobody connected"), this.limitMs(place));
    const { pid } = run.checker;
    this.options.begun({
      checkId: run.command.checkId,
      clockMs: BigInt(Date.now()),
      port: answer.port,
      pid,
    });
  }

  private async examine(run: Run): Promise<void> {
    const { checks } = run.command;
    const names = checks.filter((name) => isOneOf(LONE_CHECKS, name));
    const devices = this.options.devices();
    const ofDevices = devices.length === 0 ? [] : checks.filter((name) => isOneOf(DEVICE_CHECKS, name));
    const place = this.place(run.command, names.length + ofDevices.length);
    const found = await this.examineNode(run, names, place);
    if (this.run !== run) return;
    // All at the same time: a node with eight of them is not held up for longer than one with one.
    const each = devices.map(({ name }, index) => this.examineDevice(run, { index, name }, ofDevices, place));
    this.finish(run, [...found, ...(await Promise.all(each)).flat()]);
  }

  private async examineNode(run: Run, names: readonly LoneCheck[], place: CheckPlace): Promise<Result[]> {
    const results: Result[] = [];
    for (const name of names) {
      if (name === "checkpoint_disk" && place.checkpointDir === "") continue;
      const answer = await run.checker.ask({ kind: "run", name, place }, this.limitMs(place));
      if (this.run !== run) break;
      results.push(resultOf(name, answer));
      if (answer.kind === "ended") run.checker = this.fork(); // the others are still to be asked
    }
    return results;
  }

  /** A device whose process ended without an answer is asked nothing more: it would be waited for as long again. */
  private async examineDevice(
    run: Run,
    device: NonNullable<Result["device"]>,
    names: readonly DeviceCheck[],
    place: CheckPlace,
  ): Promise<Result[]> {
    const results: Result[] = [];
    if (names.length === 0) return results;
    const { records, bootMs } = this.options;
    const checker = new CheckerProcess({ records, device: device.index, bootMs });
    run.others.push(checker);
    for (const name of names) {
      const answer = await checker.ask({ kind: "run", name, place }, this.limitMs(place));
      results.push({ ...resultOf(name, answer), device });
      if (answer.kind === "ended") break;
    }
    return results;
  }

  private finish(run: Run, results: Result[]): void {
    if (this.run !== run) return;
    this.end("its checks are done");
    this.report(run.command, results, "");
  }

  private report({ checkId }: SelfCheck, results: Result[], busy: string): void {
    const { log } = this.options;
    const report: SelfCheckReport = { checkId, results, busy };
    for (const result of results) log[result.ok ? "info" : "error"](result, "self-check");
    if (busy !== "") log.info({ busy }, "self-check not made");
    if (results.some(({ name }) => name !== "collective")) this.last = report;
    this.options.report(report);
  }

  private fork(): CheckerProcess {
    const { waiting } = this;
    this.waiting = null;
    const { records, bootMs } = this.options;
    return waiting ?? new CheckerProcess({ records, device: null, bootMs });
  }

  private place({ budgetMs, checkpointUri }: SelfCheck, shares: number): CheckPlace {
    const { host, stateDir, peerPort } = this.options;
    const checkpointDir = checkpointUri.startsWith(FILE) ? checkpointUri.slice(FILE.length) : "";
    return { budgetMs: budgetMs / shares, host, peerPort: peerPort(), stateDir, checkpointDir };
  }

  private limitMs({ budgetMs }: CheckPlace): number {
    return Math.round((this.options.hangMs ?? HANG_MS) + HANG_BUDGETS * budgetMs);
  }
}

/** What a controller of another version asks for is left out. */
function isOneOf<T extends string>(names: readonly T[], name: string): name is T {
  return (names as readonly string[]).includes(name);
}

/** An end without an answer is a failure of the check. */
function resultOf(name: CheckName, answer: Awaited<ReturnType<CheckerProcess["ask"]>>): Result {
  if (answer.kind === "result") return { ...answer.result, device: undefined };
  const detail = answer.kind === "ended" ? `its process ${answer.how}` : `its process said ${answer.kind}`;
  return { name, ok: false, value: 0, unit: "", detail, seconds: 0, device: undefined };
}
