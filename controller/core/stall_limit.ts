/** Step times remembered per job. */
export const STEP_TIMES_COUNT_MAX = 64;
/** Fewer step times than this say nothing yet. */
const LEARNT_COUNT_MIN = 3;
/** First steps load data, fill caches and wake disks. */
const UNLEARNT_FACTOR = 12;
const FIRST_STEP_FACTOR = 4;

/**
 * How long all ranks of a generation may show no change before one of them counts as stalled:
 *
 *   max(floor, 4 * median, 2 * 90th percentile) of the last 64 step times of this job.
 *
 * A change is any new step, micro-step, phase, layer or collective, so gaps are far shorter than a step and the limit
 * is generous; what it must survive is a step that is slow for a good reason. Median and percentile instead of mean and
 * maximum: after a recovery a few steps are very long, and must not blind the detector for the next 64.
 * Before three steps are known the limit is 12 floors; before the first step of a new generation 4 learnt limits.
 */
export function stallLimitMs(options: {
  stepTimesMs: readonly number[];
  floorMs: number;
  generationHasStepped: boolean;
}): number {
  const { stepTimesMs, floorMs, generationHasStepped } = options;
  if (stepTimesMs.length < LEARNT_COUNT_MIN) return UNLEARNT_FACTOR * floorMs;
  const sorted = [...stepTimesMs].sort((a, b) => a - b);
  const at = (fraction: number) => sorted[Math.floor(fraction * (sorted.length - 1))]!;
  const learnt = Math.ceil(Math.max(floorMs, 4 * at(0.5), 2 * at(0.9)));
  return generationHasStepped ? learnt : FIRST_STEP_FACTOR * learnt;
}

/** Appends a step time, forgetting the oldest beyond the limit. */
export function rememberStepTime(stepTimesMs: number[], stepMs: number): void {
  stepTimesMs.push(stepMs);
  if (stepTimesMs.length > STEP_TIMES_COUNT_MAX) stepTimesMs.shift();
}
