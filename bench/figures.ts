/** What all measurements share: how figures are judged. */

/** Says whether a figure keeps its limit; where it does not, this process will exit with 1. */
export function judge(value: number, limit: number): "ok" | "ABOVE" {
  if (value <= limit) return "ok";
  process.exitCode = 1;
  return "ABOVE"; // NaN, too
}
