import type { SessionRequest } from "../../gen/goku/v1/agent.pb.js";
import type { StateName as WireState } from "../../gen/goku/v1/common.pb.js";

/** What an agent has to say, one at a time; several of them may travel as one message. */
export type Report = Exclude<NonNullable<SessionRequest["message"]>, { $case: "reports" }>;

type SaveReport = Extract<Report, { $case: "checkpointCommitted" | "checkpointFailed" }>;

/** Steps kept for repeating: for a new leader's loss curve, and what piled up without one. */
const STEP_COUNT_MAX = 4_096;
/**
 * A report older than this, once written to a stream, has arrived there and is written down, or the stream was found broken:
 * a leader that has lost its store gives up well before, and closes its streams.
 */
const REPEAT_MS = 30_000;

/** Commits kept that may not be written down; jobs keep fewer checkpoints. */
const SAVE_COUNT_MAX = 256;
/** Signs of trouble kept for repeating; older ones are dropped. */
const SIGNALS_COUNT_MAX = 64;

/** Reports that hold for the rest of their generation; the newest of each kind and rank counts. */
const LASTING = new Set<Report["$case"]>([
  "rankReady",
  "rankConnected",
  "rankRestored",
  "rankFailed",
  "rankExited",
  "rankFinished",
  "prepareRefused",
  "replicaFailed",
  "storageProof",
  "checkpointRead",
  "twinsDiffer",
  "previewDue",
  "previewRead",
  "previewEnded",
]);

/** One of them comes after the saves: of a checkpoint that is not told yet nothing can be said. */
const READ = "checkpointRead";

/** Those of them that come after the steps: a job whose ranks are all done hears no more of its steps. */
const ENDS = new Set<Report["$case"]>(["rankFailed", "rankExited", "rankFinished"]);

/** A report that is told again while it may have been missed. */
interface Kept<R> {
  report: R;
  /** When it was made, or last repeated. */
  atMs: number;
  sent: boolean;
}

/**
 * Reports that must not get lost with a stream: kept until something supersedes them and repeated after every Hello.
 * The protocol has no acknowledgements, because a repeat is harmless and most reports are made obsolete within a second.
 */
export class Outbox {
  private lasting = new Map<string, Report>();
  private steps: Kept<Report>[] = [];
  /** Of the machine and its ranks, whatever becomes of the generation; a repeat is known by its time, and counts once. */
  private signals: Kept<Report>[] = [];
  /**
   * The newest commit and those that no leader may have written down, the newest alarm until a later save succeeds; in the
   * order they were made.
   */
  private saves: Kept<SaveReport>[] = [];
  private released: Report | null = null;

  /** Keeps a report as long as it matters. `sent`: it was written to a living stream just now. */
  add(report: Report, nowMs: number, sent: boolean): void {
    if (LASTING.has(report.$case)) this.lasting.set(lastingKey(report), report);
    else if (report.$case === "stepCompleted") this.addStep(report, nowMs, sent);
    else if (report.$case === "nodeSignals") {
      this.signals.push({ report, atMs: nowMs, sent });
      if (this.signals.length > SIGNALS_COUNT_MAX) this.signals.shift();
    } else if (report.$case === "checkpointCommitted" || report.$case === "checkpointFailed") {
      if (report.$case === "checkpointCommitted") this.dropAlarm();
      this.saves = this.saves.filter(
        (kept) =>
          kept.report.$case !== report.$case || (isCommit(kept.report) && (!sent || isMissed(kept, nowMs))),
      );
      this.saves.push({ report, atMs: nowMs, sent });
      if (this.saves.length > SAVE_COUNT_MAX) this.saves.shift();
    } else if (report.$case === "nodeReleased") this.released = report;
  }

  /** A later save of this node's ranks is done: an alarm that was told has had its day. */
  saveSettled(): void {
    this.dropAlarm();
  }

  /** One that no controller was there to hear stays, and goes before the commit that followed it. */
  private dropAlarm(): void {
    this.saves = this.saves.filter(({ report, sent }) => isCommit(report) || !sent);
  }

  /** A new generation was prepared: what was said about older ones is obsolete. */
  prepared(): void {
    this.lasting.clear();
    this.released = null;
  }

  /**
   * What was due is being drawn, or left out: a new leader must not be told that it is due. It knows nothing of the drawing, and
   * where it has not heard of all members yet, would leave it out and end the pins that are being read.
   */
  previewAnswered(state: WireState): void {
    const due = this.lasting.get(PREVIEW_DUE);
    const found = due?.$case === "previewDue" ? due.value.state : undefined;
    if (found?.generation === state.generation && found.step === state.step) this.lasting.delete(PREVIEW_DUE);
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
    const steps = this.steps.filter((step) => newLeader || isMissed(step, nowMs));
    this.signals = this.signals.filter((signal) => isMissed(signal, nowMs));
    const signals = this.signals.map(({ report }) => report);
    const saves = this.saves.map(({ report }) => report);
    for (const kept of [...steps, ...this.signals, ...this.saves]) {
      kept.atMs = nowMs;
      kept.sent = true;
    }
    if (saves.at(-1)?.$case === "checkpointCommitted") this.dropAlarm();
    const lasting = [...this.lasting.values()];
    return [
      ...signals,
      ...lasting.filter(({ $case }) => !ENDS.has($case) && $case !== READ),
      ...steps.map(({ report }) => report),
      ...lasting.filter(({ $case }) => ENDS.has($case)),
      ...saves,
      ...lasting.filter(({ $case }) => $case === READ),
      ...(this.released === null ? [] : [this.released]),
    ];
  }

  private addStep(report: Report, nowMs: number, sent: boolean): void {
    this.steps.push({ report, atMs: nowMs, sent });
    if (this.steps.length > STEP_COUNT_MAX) this.steps.shift();
  }
}

function isCommit(report: Report): boolean {
  return report.$case === "checkpointCommitted";
}

/** Whether a leader may not have heard it, or not written it down. */
function isMissed({ sent, atMs }: Kept<Report>, nowMs: number): boolean {
  return !sent || nowMs - atMs < REPEAT_MS;
}

const PREVIEW_DUE = "previewDue node";

function lastingKey(report: Report): string {
  if (report.$case === READ && report.value.damage !== "") return `${READ} ${report.value.uri}`;
  const rank = "rank" in report.value ? report.value.rank : "node";
  return `${report.$case} ${rank}`;
}
