/** What all measurements share: how figures are summed up and judged. */

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** Says whether a figure keeps its limit; where it does not, this process will exit with 1. */
export function judge(value: number, limit: number): "ok" | "ABOVE" {
  if (value <= limit) return "ok";
  process.exitCode = 1;
  return "ABOVE"; // NaN, too
}
