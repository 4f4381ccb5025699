import type { SessionRequest } from "../../gen/goku/v1/agent.pb.js";

export type Report = NonNullable<SessionRequest["message"]>;

type SaveReport = Extract<Report, { $case: "checkpointCommitted" | "checkpointFailed" }>;

/** Steps kept for repeating: for a new leader's loss curve, and what piled up without one. */
const STEP_COUNT_MAX = 4_096;
/** A step older than this, once written to a stream, has arrived there or the stream was found broken. */
const STEP_REPEAT_MS = 30_000;

/** Reports that hold for the rest of their generation; the newest of each kind and rank counts. */
const LASTING = new Set<Report["$case"]>([
  "rankReady",
  "rankConnected",
  "rankRestored",
  "rankFailed",
  "rankExited",
  "rankFinished",
  "prepareRefused",
]);

/** Those of them that come after the steps: a job whose ranks are all done hears no more of its steps. */
const ENDS = new Set<Report["$case"]>(["rankFailed", "rankExited", "rankFinished"]);

/**
 * Reports that must not get lost with a stream: kept until something supersedes them and repeated after every Hello.
 * The protocol has no acknowledgements, because a repeat is harmless and most reports are made obsolete within a second.
 */
export class Outbox {
  private lasting = new Map<string, Report>();
  private steps: { report: Report; atMs: number; sent: boolean }[] = [];
  /** The newest commit, and the newest alarm until a later save succeeds; in the order they were made. */
  private saves: { report: SaveReport; told: boolean }[] = [];
  private released: Report | null = null;

  /** Keeps a report as long as it matters. `sent`: it was written to a living stream just now. */
  add(report: Report, nowMs: number, sent: boolean): void {
    if (LASTING.has(report.$case)) this.lasting.set(lastingKey(report), report);
    else if (report.$case === "stepCompleted") this.addStep(report, nowMs, sent);
    else if (report.$case === "checkpointCommitted" || report.$case === "checkpointFailed") {
      if (report.$case === "checkpointCommitted") this.dropAlarm();
      this.saves = this.saves.filter((kept) => kept.report.$case !== report.$case);
      this.saves.push({ report, told: sent });
    } else if (report.$case === "nodeReleased") this.released = report;
  }

  /** A later save of this node's ranks is done: an alarm that was told has had its day. */
  saveSettled(): void {
    this.dropAlarm();
  }

  /** One that no controller was there to hear stays, and goes before the commit that followed it. */
  private dropAlarm(): void {
    this.saves = this.saves.filter(({ report, told }) => report.$case === "checkpointCommitted" || !told);
  }

  /** A new generation was prepared: what was said about older ones is obsolete. */
  prepared(): void {
    this.lasting.clear();
    this.released = null;
  }

  /** The job is over here. */
  forgetJob(): void {
    this.lasting.clear();
    this.steps = [];
    this.saves = [];
  }

  /**
   * What to say after Hello, oldest first; it counts as sent. A leader that is new knows nothing of the steps so far and
   * is told all that are kept; one that was only out of reach, those it may have missed.
   */
  repeat(nowMs: number, newLeader: boolean): Report[] {
    const missed = this.steps.filter(({ sent, atMs }) => newLeader || !sent || nowMs - atMs < STEP_REPEAT_MS);
    for (const step of this.steps) step.sent = true;
    const saves = this.saves.map(({ report }) => report);
    for (const save of this.saves) save.told = true;
    if (this.saves.at(-1)?.report.$case === "checkpointCommitted") this.dropAlarm();
    const lasting = [...this.lasting.values()];
    return [
      ...lasting.filter(({ $case }) => !ENDS.has($case)),
      ...missed.map((step) => step.report),
      ...lasting.filter(({ $case }) => ENDS.has($case)),
      ...saves,
      ...(this.released === null ? [] : [this.released]),
    ];
  }

  private addStep(report: Report, nowMs: number, sent: boolean): void {
    this.steps.push({ report, atMs: nowMs, sent });
    if (this.steps.length > STEP_COUNT_MAX) this.steps.shift();
  }
}

function lastingKey(report: Report): string {
  const rank = "rank" in report.value ? report.value.rank : "node";
  return `${report.$case} ${rank}`;
}
