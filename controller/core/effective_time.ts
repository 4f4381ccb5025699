/** Samples of the last hour: one a minute. */
const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;

/**
 * How much of a job's time went into steps that count. A step counts when it is completed for the first time, with its time
 * less that of its snapshot. Forming, recovery, waiting for nodes and steps computed again do not count.
 */
export interface EffectiveTime {
  /** When the first generation formed; 0: none has. */
  startedMs: number;
  effectiveMs: number;
  /** Highest step that counted. */
  step: number;
  /** What effectiveMs was, a minute apart, oldest first, an hour of them. Not durable: a new leader begins anew. */
  minutes: { atMs: number; effectiveMs: number }[];
}

/** What of it is durable, with the record of a generation. */
export type EffectiveRecord = Omit<EffectiveTime, "minutes">;

export function createEffectiveTime(
  record: EffectiveRecord = { startedMs: 0, effectiveMs: 0, step: 0 },
): EffectiveTime {
  return { ...record, minutes: [] };
}

export function effectiveRecord({ minutes: _, ...record }: EffectiveTime): EffectiveRecord {
  return record;
}

/** A generation begins to form. */
export function beginEffective(time: EffectiveTime, nowMs: number): void {
  if (time.startedMs === 0) time.startedMs = nowMs;
  sample(time, nowMs);
}

/** A generation trains from this step on: of a job that was resumed, the steps before were another's. */
export function restoredAt(time: EffectiveTime, step: number, nowMs: number): void {
  time.step = Math.max(time.step, step);
  sample(time, nowMs);
}

/**
 * A step was completed, `atMs` on the clock of the node that tells; those between it and the last that counted, which nobody
 * told, took as long. What was done before this controller led, and is told afterwards, is none of what it has seen.
 */
export function countStep(
  time: EffectiveTime,
  done: { step: number; ms: number; atMs: number },
  nowMs: number,
): void {
  const fresh = Math.max(0, done.step - time.step);
  const added = fresh * Math.max(0, done.ms);
  time.step += fresh;
  time.effectiveMs += added;
  const { minutes } = time;
  if (minutes[0] !== undefined && done.atMs < minutes[0].atMs)
    for (const minute of minutes) minute.effectiveMs += added;
  sample(time, nowMs);
}

/** Effective over elapsed time: of all, and of the last hour as far as this controller has seen it. Null: not begun. */
export function ettrOf(time: EffectiveTime, nowMs: number): { total: number; hour: number } | null {
  const { startedMs, effectiveMs, minutes } = time;
  if (startedMs === 0 || nowMs <= startedMs) return null;
  const total = ratio(effectiveMs, nowMs - startedMs);
  const fromMs = nowMs - HOUR_MS;
  let from = minutes[0];
  for (const each of minutes) if (each.atMs <= fromMs) from = each;
  if (from === undefined) return { total, hour: 0 };
  return { total, hour: ratio(effectiveMs - from.effectiveMs, nowMs - Math.max(from.atMs, fromMs)) };
}

function ratio(effectiveMs: number, elapsedMs: number): number {
  return elapsedMs <= 0 ? 0 : Math.min(1, effectiveMs / elapsedMs);
}

function sample(time: EffectiveTime, nowMs: number): void {
  const { minutes, effectiveMs } = time;
  const last = minutes.at(-1);
  if (last !== undefined && nowMs < last.atMs + MINUTE_MS) return;
  minutes.push({ atMs: nowMs, effectiveMs });
  while (minutes[1] !== undefined && minutes[1].atMs <= nowMs - HOUR_MS) minutes.shift();
}
