/** Standard deviation over median absolute deviation, of a normal distribution. */
export const DEVIATION_OF_MAD = 1.4826;

/** NaN of nothing. @param of which of the two in the middle of an even number is meant */
export function median(values: readonly number[], of: "lower" | "mean" | "upper" = "mean"): number {
  const sorted = [...values].sort((a, b) => a - b);
  const lower = sorted[Math.floor((sorted.length - 1) / 2)] ?? Number.NaN;
  const upper = sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
  return of === "lower" ? lower : of === "upper" ? upper : (lower + upper) / 2;
}
