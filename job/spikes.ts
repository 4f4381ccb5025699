import { DEVIATION_OF_MAD, median } from "./median.js";

/** Values that a new one is compared with, and how many there must be. */
export const SPIKE_WINDOW = 64;
const KNOWN_COUNT_MIN = 16;
/**
 * A spike is above both: so many times the median, and the median plus so many standard deviations. Gradient norms of a
 * healthy run change by more than losses do.
 */
export const LOSS_FACTOR = 3;
export const GRADIENT_FACTOR = 10;
const SPREADS = 8;

/** Of what is applied; a spike is not remembered, so that the next one is seen as well. */
export interface SpikeWatch {
  values: number[];
  /** Spikes in a row. */
  spikes: number;
}

/** What the steps of a run have told of its numbers so far: part of the training state. */
export interface NumbersSeen {
  loss: SpikeWatch;
  gradient: SpikeWatch;
}

export function nothingSeen(): NumbersSeen {
  return { loss: { values: [], spikes: 0 }, gradient: { values: [], spikes: 0 } };
}

export interface SpikeLimit {
  limit: number;
  median: number;
}

/** Above this a value counts as a spike among these, or null while too few are known. Pure. */
export function spikeLimit(values: readonly number[], factor: number): SpikeLimit | null {
  if (values.length < KNOWN_COUNT_MIN) return null;
  const middle = median(values);
  const spread = DEVIATION_OF_MAD * median(values.map((value) => Math.abs(value - middle)));
  return { limit: Math.max(factor * middle, middle + SPREADS * spread), median: middle };
}

/** What a step's numbers exceed; null: neither is a spike. */
export interface SpikeFound {
  loss: SpikeLimit | null;
  gradient: SpikeLimit | null;
}

/** Whether finite numbers of a step are spikes among those seen. Pure: ranks that have seen the same find the same. */
export function findSpike(
  seen: NumbersSeen,
  { loss, gradNorm }: { loss: number; gradNorm: number },
): SpikeFound | null {
  const found = {
    loss: exceeded(seen.loss, loss, LOSS_FACTOR),
    gradient: exceeded(seen.gradient, gradNorm, GRADIENT_FACTOR),
  };
  return found.loss === null && found.gradient === null ? null : found;
}

function exceeded({ values }: SpikeWatch, value: number, factor: number): SpikeLimit | null {
  const known = spikeLimit(values, factor);
  return known !== null && value > known.limit ? known : null;
}

export type SpikeNews =
  | { kind: "begins"; value: number; limit: number; median: number }
  /** After so many steps it is back. */
  | { kind: "ends"; value: number; steps: number }
  /** So many steps in a row: this is the new level, from which is judged. */
  | { kind: "stays"; steps: number };

/**
 * Takes the next value; news where a spike begins, where it is over, and where it has lasted as long as the window, from where on
 * the new values are the measure.
 */
export function watchSpikes(watch: SpikeWatch, value: number, factor: number): SpikeNews | null {
  const known = exceeded(watch, value, factor);
  if (known !== null) {
    watch.spikes += 1;
    if (watch.spikes === 1) return { kind: "begins", value, ...known };
    if (watch.spikes < SPIKE_WINDOW) return null;
    const steps = watch.spikes;
    watch.values = [];
    watch.spikes = 0;
    return { kind: "stays", steps };
  }
  watch.values.push(value);
  if (watch.values.length > SPIKE_WINDOW) watch.values.shift();
  const steps = watch.spikes;
  watch.spikes = 0;
  return steps === 0 ? null : { kind: "ends", value, steps };
}
