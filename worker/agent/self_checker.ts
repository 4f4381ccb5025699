import type { Logger } from "pino";
import type {
  SelfCheck,
  SelfCheckBegun,
  SelfCheckConnect,
  SelfCheckReport,
} from "../../gen/goku/v1/agent.pb.js";
import {
  CHECK_NAMES,
  type CheckName,
  type CheckPlace,
  type CheckResult,
  type LoneCheck,
} from "../check_messages.js";
import { CheckerProcess } from "./checker_process.js";
import type { ProcessRecords } from "./process_records.js";

export interface SelfCheckerOptions {
  host: string;
  /** The node's folder of pages and snapshots. */
  stateDir: string;
  records: ProcessRecords;
  log: Logger;
  peerPort: () => number;
  /** Why the node must not be examined now, for example because ranks run; null: it may be. */
  busy: () => string | null;
  begun: (begun: SelfCheckBegun) => void;
  report: (report: SelfCheckReport) => void;
  /** A check that takes so much longer than its budget has hung. */
  hangMs?: number;
}

const FILE = "file://";
const HANG_MS = 10_000;
/** On a machine that does many other things a round may take long. */
const HANG_BUDGETS = 20;

/** One examination: what was asked, and the process at work. */
interface Run {
  command: SelfCheck;
  checker: CheckerProcess;
  /** Its port is open, and it waits for the members of its collective. */
  listens: boolean;
  /** Ends it when nobody connects. */
  limit: NodeJS.Timeout | null;
}

/**
 * Examines the node when the controller asks, in a process of its own: a check that crashes or hangs is a verdict about
 * the node and no more. One examination at a time; a newer one, or a rank that gets a place, ends it.
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
    const run: Run = { command, checker: this.fork(), listens: false, limit: null };
    this.run = run;
    const names = command.checks.filter(isCheckName);
    if (names.includes("collective")) {
      void this.listen(run);
      return;
    }
    begun({ checkId: command.checkId, clockMs: BigInt(Date.now()), port: 0, pid: 0 });
    void this.examine(
      run,
      names.filter((name) => name !== "collective"),
    );
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
    const checkers = [this.run?.checker, this.waiting].filter((checker) => checker != null);
    this.cancel("the agent ends");
    await Promise.all(checkers.map(({ gone }) => gone));
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
    if (this.run?.limit) clearTimeout(this.run.limit);
    this.run?.checker.kill(why);
    this.run = null;
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

  private async examine(run: Run, names: readonly LoneCheck[]): Promise<void> {
    const results: CheckResult[] = [];
    for (const name of names) {
      const place = this.place(run.command, names.length);
      if (name === "checkpoint_disk" && place.checkpointDir === "") continue;
      const answer = await run.checker.ask({ kind: "run", name, place }, this.limitMs(place));
      if (this.run !== run) return;
      results.push(resultOf(name, answer));
      if (answer.kind === "ended") run.checker = this.fork(); // the others are still to be asked
    }
    this.finish(run, results);
  }

  private finish(run: Run, results: CheckResult[]): void {
    if (this.run !== run) return;
    this.end("its checks are done");
    this.report(run.command, results, "");
  }

  private report({ checkId }: SelfCheck, results: CheckResult[], busy: string): void {
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
    return waiting ?? new CheckerProcess(this.options.records);
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

function isCheckName(name: string): name is CheckName {
  return (CHECK_NAMES as readonly string[]).includes(name);
}

/** An end without an answer is a failure of the check. */
function resultOf(name: CheckName, answer: Awaited<ReturnType<CheckerProcess["ask"]>>): CheckResult {
  if (answer.kind === "result") return answer.result;
  const detail = answer.kind === "ended" ? `its process ${answer.how}` : `its process said ${answer.kind}`;
  return { name, ok: false, value: 0, unit: "", detail, seconds: 0 };
}
