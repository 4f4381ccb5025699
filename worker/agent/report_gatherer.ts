import type { Report } from "./outbox.js";

/** A phase of forming that not all ranks of the node have told the end of is told in part after so long. */
const PHASE_MS = 50;
/** What survivors say of a rank that they miss waits so long for the others of the node to say it, too. */
const ECHO_MS = 20;

/** The controller goes on when the last rank of the last node has said so: a part of a node's ranks tells it nothing. */
const PHASES = new Set<Report["$case"]>(["rankReady", "rankConnected", "rankRestored", "rankFinished"]);
const ECHOES = new Set(["COMM_PEER_DIED", "COMM_ABORTED"]);

/**
 * Decides when the reports of a node's ranks go out. A message costs the controller of a large cluster more than what is
 * in it, and most that ranks say, all of them say at about the same time: it goes out together, with the last of them.
 * Whatever else is said goes out at once, with all that was held before it: the order stays. Pure but for what it holds.
 */
export class ReportGatherer {
  #held: Report[] = [];
  #dueMs: number | null = null;

  /** When what is held goes out at the latest; null: nothing is. */
  get dueMs(): number | null {
    return this.#dueMs;
  }

  /** What goes out now, in order; empty: it is held. @param ranks on this node in the present generation */
  add(report: Report, { nowMs, ranks }: { nowMs: number; ranks: number }): Report[] {
    this.#held.push(report);
    const waitMs = waitOf(report);
    if (waitMs === null) return this.take();
    const said = new Set(this.#held.map(({ value }) => ("rank" in value ? value.rank : -1)));
    if (said.size >= ranks) return this.take();
    this.#dueMs = Math.min(this.#dueMs ?? Number.POSITIVE_INFINITY, nowMs + waitMs);
    return [];
  }

  /** All that is held; what several ranks say alike of the same peer, as one. */
  take(): Report[] {
    const held = this.#held;
    this.#held = [];
    this.#dueMs = null;
    return joinEchoes(held);
  }
}

function joinEchoes(reports: readonly Report[]): Report[] {
  const joined: Report[] = [];
  for (const report of reports) {
    const before = joined.at(-1);
    const isSame = isEcho(report) && before !== undefined && isEcho(before) && saysTheSame(before, report);
    if (!isSame) joined.push(report);
    else {
      const others = [...before.value.others, report.value.rank];
      joined[joined.length - 1] = { $case: "rankFailed", value: { ...before.value, others } };
    }
  }
  return joined;
}

function saysTheSame({ value: a }: Echo, { value: b }: Echo): boolean {
  return (
    a.rank !== b.rank &&
    !a.others.includes(b.rank) &&
    a.generation === b.generation &&
    a.error?.code === b.error?.code &&
    a.error?.peer === b.error?.peer &&
    a.error?.operation === b.error?.operation
  );
}

type Echo = Extract<Report, { $case: "rankFailed" }>;

function isEcho(report: Report): report is Echo {
  return report.$case === "rankFailed" && ECHOES.has(report.value.error?.code ?? "");
}

/** Null: it waits for nobody. */
function waitOf(report: Report): number | null {
  if (PHASES.has(report.$case)) return PHASE_MS;
  return isEcho(report) ? ECHO_MS : null;
}
