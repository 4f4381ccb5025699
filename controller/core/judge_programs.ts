import type { RankPage } from "./wire.js";

/** A rank that runs a program of its own, as its page shows it. */
export interface ProgramSighting {
  rank: number;
  nodeId: string;
  /**
   * Null: its node is not in sight, or has not told yet. How long it has not changed counts as its agent told: what has not
   * been heard since may be under way, or be read late by a controller that stood still.
   */
  page: RankPage | null;
}

export interface ProgramVerdict {
  /** Who holds the others up; empty: nobody beats any more, and nobody is behind. */
  late: { rank: number; nodeId: string }[];
  reason: string;
}

/**
 * Ranks that have stopped to beat; null: none has. Judged are those that have beaten in this generation or, where the job
 * says that all must, every one that has not ended. Programs tell no collectives, so that of the late ones those behind
 * in steps are named; where all are late at one step, as in a collective that will not end, nobody is. Pure.
 */
export function judgePrograms(
  sightings: readonly ProgramSighting[],
  options: { limitMs: number; required: boolean },
): ProgramVerdict | null {
  const { limitMs, required } = options;
  const watched = sightings.flatMap(({ page, ...sighting }) =>
    page?.phase === "program" && (required || page.microStep > 0) ? [{ ...sighting, page }] : [],
  );
  const late = watched.filter(({ page }) => page.unchangedMs >= limitMs);
  if (late.length === 0) return null;
  const lowest = Math.min(...late.map(({ page }) => page.step));
  const behind = late.filter(({ page }) => page.step === lowest);
  const longest = Math.min(...behind.map(({ page }) => page.unchangedMs));
  const last = lowest > 0 ? `, the last at step ${lowest}` : "";
  const silence = `no heartbeat for ${(longest / 1000).toFixed(1)} s${last}`;
  if (behind.length === watched.length && watched.length > 1)
    return { late: [], reason: `all ${watched.length} ranks that beat: ${silence}` };
  if (behind.length === watched.length) return { late: behind, reason: `${ranksText(behind)}: ${silence}` };
  const others = watched.length - behind.length;
  const elsewhere = `${others} ${others === 1 ? "other went" : "others went"} on`;
  return { late: behind, reason: `${ranksText(behind)}: ${silence}; ${elsewhere}` };
}

const NAMES_COUNT_MAX = 4;

function ranksText(ranks: readonly ProgramSighting[]): string {
  const names = ranks.slice(0, NAMES_COUNT_MAX).map(({ rank, nodeId }) => `rank ${rank} on ${nodeId}`);
  const more = ranks.length > names.length ? ` and ${ranks.length - names.length} more` : "";
  return names.join(", ") + more;
}
