/** Step times remembered per job. */
export const STEP_TIMES_COUNT_MAX = 64;
/** Pauses remembered per job: so many that what pauses every hundredth step has done so twice among them. */
export const PAUSES_COUNT_MAX = 256;
/** Fewer than this say nothing yet. */
const LEARNT_COUNT_MIN = 3;
/** Of a pause that was seen twice. */
const RETURNING_FACTOR = 1.25;
/** A machine that has become slower is known for it after two steps; what they vary by is known of neither. */
const RECENT_COUNT = 3;
const RECENT_FACTOR = 2;
/** First steps of a generation, in which loaders fill, caches warm and every snapshot slot is written for the first time. */
export const SETTLING_STEPS = 4;
const SETTLING_FACTOR = 4;
/** Before a generation's first step: plans are made, devices and disks wake. */
const FIRST_STEP_MS = 20_000;
const UNLEARNT_MS = 60_000;
const UNLEARNT_FACTOR = 12;
/** Storage has its own tries and timeouts: a rank that waits for data and shows that it does so is given longer. */
const WAITING_MS = 30_000;

/** What a job has shown of its pace. */
export interface StallEvidence {
  /** Of the last steps, without the first of each generation. */
  stepTimesMs: readonly number[];
  /** The longest pause in each of the last steps, without those in which a generation settles, and what was taken for a hang. */
  pausesMs: readonly number[];
  /** `recovery.stall_seconds`. */
  floorMs: number;
  /** Steps that the present generation has told. */
  stepsTold: number;
}

export interface StallLimits {
  /** No rank shows any sign of life for so long: some rank hangs. */
  stillMs: number;
  /** The same where only some of the ranks can be seen: each by itself may be still for a step. */
  partMs: number;
  /** No rank gets any further for so long, though some show that they wait for data. */
  waitingMs: number;
}

/**
 * How long all ranks of a generation may stand still before one of them counts as hung. The usual step time S is the median
 * of the last 64. The pause of a step, P, is the longest time in it in which rank 0 showed nothing new; all ranks together are
 * never still for longer. Once four steps of the generation are done:
 *
 *   still   = max(floor, min(4 * median P, floor + 2 * S), 1.25 * second longest P of the last 256 steps,
 *                 2 * median P of the last 3 steps)
 *   part    = max(still, floor + 2 * S)
 *   waiting = max(part, 30 s, 4 * S, 2 * 90th percentile of the step times)
 *
 * A rank that hangs lets the others go on for a step at most; so with the default floor of 1.5 s a verdict takes less than
 * 3 S + 2 s, and where steps are long and full of small changes, little more than the floor. A rare pause is no norm (the
 * longest is left out), a pause that returns is; and where two of the last three steps were slow, so is the machine. What was
 * taken for a hang counts as a pause of twice the limit: if it was none, it is known for what it is when it has returned a few
 * times. Four times these limits hold in the first four steps of a generation, and at least 20 s before the first of them;
 * before three pauses of the job are known, at least 60 s and 12 floors.
 */
export function stallLimits(evidence: StallEvidence): StallLimits {
  const { stepTimesMs, pausesMs, floorMs, stepsTold } = evidence;
  const stepMs = quantile(stepTimesMs, 0.5);
  const waitingMs = Math.max(WAITING_MS, 4 * stepMs, 2 * quantile(stepTimesMs, 0.9));
  if (pausesMs.length < LEARNT_COUNT_MIN) {
    const stillMs = Math.max(UNLEARNT_MS, UNLEARNT_FACTOR * floorMs, 4 * quantile(stepTimesMs, 1));
    return { stillMs, partMs: stillMs, waitingMs: Math.max(stillMs, SETTLING_FACTOR * waitingMs) };
  }
  const stepsMs = floorMs + 2 * stepMs;
  const usualMs = Math.min(4 * quantile(pausesMs, 0.5), stepsMs);
  const recentMs = RECENT_FACTOR * quantile(pausesMs.slice(-RECENT_COUNT), 0.5);
  const returningMs = RETURNING_FACTOR * secondLongest(pausesMs);
  const learntMs = Math.ceil(Math.max(floorMs, usualMs, returningMs, recentMs));
  const settles = stepsTold < SETTLING_STEPS;
  const factor = settles ? SETTLING_FACTOR : 1;
  const stillMs = Math.max(factor * learntMs, stepsTold === 0 ? FIRST_STEP_MS : 0);
  const partMs = Math.max(stillMs, factor * Math.ceil(stepsMs));
  return { stillMs, partMs, waitingMs: Math.max(partMs, factor * waitingMs) };
}

/**
 * How long a program that beats of its own accord may be silent: max(floor, 4 * median, 2 * 90th percentile of the times
 * between beats). Its floor is generous already, so it counts from the start.
 * @param options.stepTimesMs between two heartbeats that told a step
 */
export function beatLimitMs({
  stepTimesMs,
  floorMs,
}: {
  stepTimesMs: readonly number[];
  floorMs: number;
}): number {
  if (stepTimesMs.length < LEARNT_COUNT_MIN) return floorMs;
  return Math.ceil(Math.max(floorMs, 4 * quantile(stepTimesMs, 0.5), 2 * quantile(stepTimesMs, 0.9)));
}

/** 0 of nothing. */
function quantile(values: readonly number[], fraction: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(fraction * (sorted.length - 1))] ?? 0;
}

function secondLongest(values: readonly number[]): number {
  let longest = 0;
  let second = 0;
  for (const value of values) {
    if (value > longest) {
      second = longest;
      longest = value;
    } else second = Math.max(second, value);
  }
  return second;
}

/** Appends a step time, forgetting the oldest beyond the limit. */
export function rememberStepTime(stepTimesMs: number[], stepMs: number): void {
  remember(stepTimesMs, stepMs, STEP_TIMES_COUNT_MAX);
}

/** The same of a pause. */
export function rememberPause(pausesMs: number[], pauseMs: number): void {
  remember(pausesMs, pauseMs, PAUSES_COUNT_MAX);
}

function remember(values: number[], value: number, countMax: number): void {
  values.push(value);
  if (values.length > countMax) values.shift();
}
