import type { RankPage } from "./wire.js";

export interface RankSighting {
  rank: number;
  nodeId: string;
  /** Null: its node is unreachable, or has not told yet. */
  page: RankPage | null;
  /** Milliseconds since the page last changed. */
  unchangedMs: number;
}

export type StallVerdict =
  /** These ranks did not arrive where the others wait. */
  | { kind: "ranks"; ranks: number[]; operation: string; reason: string }
  /** Everyone who can be seen waits; the ranks of these nodes cannot be seen. */
  | { kind: "nodes"; nodeIds: string[]; reason: string }
  /** The pages do not tell; abort and see who stays silent. */
  | { kind: "unknown"; reason: string }
  /** Nobody can be seen, so nothing is known. */
  | { kind: "unseen"; reason: string };

/**
 * Who holds up a generation that shows no progress. Collective numbers count alike on all ranks, since all run the same
 * program: the rank that hangs is the one that has entered the lowest collective. Ranks that wait inside a collective
 * (entered > completed) wait for somebody else, unless all the others have left that very collective already.
 */
export function localiseStall(sightings: readonly RankSighting[]): StallVerdict {
  const seen = sightings.filter((s): s is RankSighting & { page: RankPage } => s.page !== null);
  const unseen = sightings.filter((s) => s.page === null);
  if (seen.length === 0) return { kind: "unseen", reason: "no node of the generation can be reached" };
  const active = seen.filter((s) => s.page.phase !== "finished");
  const idle = active.filter((s) => s.page.entered === s.page.completed);
  const waiting = active.filter((s) => s.page.entered > s.page.completed);
  if (idle.length > 0 && waiting.length > 0) return blameIdle(idle, waiting);
  if (idle.length === 0 && unseen.length > 0) {
    const nodeIds = [...new Set(unseen.map((s) => s.nodeId))].sort();
    const where = waitingText(waiting);
    return {
      kind: "nodes",
      nodeIds,
      reason: `${where}; ${ranksText(unseen)} on ${nodeIds.join(", ")} cannot be seen`,
    };
  }
  if (idle.length === 0 && waiting.length > 1) return blameBehind(waiting);
  return {
    kind: "unknown",
    reason: `no change for ${secondsText(shortest(active))} and no rank waits for another`,
  };
}

/** Some wait, some do not: of those that do not, the furthest behind. */
function blameIdle(
  idle: readonly (RankSighting & { page: RankPage })[],
  waiting: readonly (RankSighting & { page: RankPage })[],
): StallVerdict {
  const lowest = Math.min(...idle.map((s) => s.page.entered));
  const enteredMost = Math.max(...waiting.map((s) => s.page.entered));
  const behind = idle.filter((s) => s.page.entered === lowest);
  if (lowest >= enteredMost) {
    return {
      kind: "unknown",
      reason: `${waitingText(waiting)}, and no rank is behind them`,
    };
  }
  return { kind: "ranks", ranks: behind.map((s) => s.rank), ...explain(behind, waiting) };
}

/** All wait: a rank stopped inside a collective that all the others have left shows the lowest number. */
function blameBehind(waiting: readonly (RankSighting & { page: RankPage })[]): StallVerdict {
  const lowest = Math.min(...waiting.map((s) => s.page.entered));
  const behind = waiting.filter((s) => s.page.entered === lowest);
  const others = waiting.filter((s) => s.page.entered > lowest);
  if (behind.length !== 1 || others.length === 0) {
    return { kind: "unknown", reason: `${waitingText(waiting)} and all of them seem to have arrived` };
  }
  return { kind: "ranks", ranks: behind.map((s) => s.rank), ...explain(behind, others) };
}

function explain(
  behind: readonly (RankSighting & { page: RankPage })[],
  waiting: readonly (RankSighting & { page: RankPage })[],
): { operation: string; reason: string } {
  const first = behind[0]!;
  const operation = operationText(waiting[0]!.page);
  const names = behind.map((s) => `rank ${s.rank} on ${s.nodeId}`).join(", ");
  const verb = behind.length === 1 ? "has" : "have";
  return {
    operation,
    reason: `${names} ${verb} not moved for ${secondsText(shortest(behind))} (${pageText(first.page)}); ${waitingText(waiting)}`,
  };
}

/** "7 ranks wait in all_gather of shard.0 (number 100)". */
function waitingText(waiting: readonly (RankSighting & { page: RankPage })[]): string {
  if (waiting.length === 0) return "no rank waits";
  const first = waiting[0]!;
  const who = waiting.length === 1 ? `rank ${first.rank} waits` : `${waiting.length} ranks wait`;
  return `${who} in ${operationText(first.page)} (number ${first.page.entered})`;
}

function operationText(page: RankPage): string {
  if (page.collective === "") return page.phase;
  return page.group === "" ? page.collective : `${page.collective} of ${page.group}`;
}

/** "step 41, backward, layer 3": the step being computed, after the last applied one. */
export function pageText(page: RankPage): string {
  const layer = page.layer >= 0 ? `, layer ${page.layer}` : "";
  return `step ${page.step + 1}, ${page.phase}${layer}`;
}

function ranksText(sightings: readonly RankSighting[]): string {
  const shown = sightings.slice(0, 4).map((s) => s.rank);
  const more = sightings.length > shown.length ? ` and ${sightings.length - shown.length} more` : "";
  return `${sightings.length === 1 ? "rank" : "ranks"} ${shown.join(", ")}${more}`;
}

function shortest(sightings: readonly RankSighting[]): number {
  return sightings.reduce((least, s) => Math.min(least, s.unchangedMs), Number.POSITIVE_INFINITY);
}

function secondsText(ms: number): string {
  return Number.isFinite(ms) ? `${(ms / 1000).toFixed(1)} s` : "an unknown time";
}
