/** Runs of ranks named in a text; the rest is counted. */
const RUNS_COUNT_MAX = 4;

/** For people: "rank 2", "ranks 0-3", "ranks 0, 1, 4-7 and 12 more". @param ranks ascending */
export function ranksText(ranks: readonly number[]): string {
  const runs: { first: number; last: number }[] = [];
  for (const rank of ranks) {
    const run = runs.at(-1);
    if (run !== undefined && run.last === rank - 1) run.last = rank;
    else runs.push({ first: rank, last: rank });
  }
  const shown = runs.slice(0, RUNS_COUNT_MAX);
  const named = shown.reduce((sum, { first, last }) => sum + last - first + 1, 0);
  const more = ranks.length > named ? ` and ${ranks.length - named} more` : "";
  const names = shown.map(({ first, last }) => runText(first, last)).join(", ");
  return `${ranks.length === 1 ? "rank" : "ranks"} ${names}${more}`;
}

function runText(first: number, last: number): string {
  if (first === last) return String(first);
  return last === first + 1 ? `${first}, ${last}` : `${first}-${last}`;
}
