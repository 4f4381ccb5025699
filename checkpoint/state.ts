import type { Exclusion } from "../job/exclusion.js";
import type { LeftOut } from "../job/left_out.js";
import type { NumbersSeen } from "../job/spikes.js";

/**
 * A training state is named by the generation that computed it and its step. Restoring keeps the name,
 * and intervals of different names never combine.
 */
export interface StateName {
  generation: string; // decimal u64, so that the name survives JSON
  step: number; // optimizer steps taken (data position: packs of steps 1..step are consumed)
}
export function stateKey(state: StateName): string {
  return `${state.generation}-${state.step}`;
}

/** Kinds of tensors in a training state; every parameter has one of each, all f32 in the state. */
export const STATE_KINDS = ["model", "ema", "adam_m", "adam_v"] as const;
export type StateKind = (typeof STATE_KINDS)[number];

/** Elements [start, start+length) of the row-major run of a tensor. `tensor` is "<kind>/<parameter name>". */
export interface Interval {
  tensor: string;
  start: number;
  length: number;
}

/** What a state holds beside tensors. Small, identical on every rank. */
export interface StateMeta {
  state: StateName;
  /**
   * The state that the generation in `state` restored before its first step (a checkpoint's or a snapshot's name);
   * null: initial values. Readers walk it to tell a run's present line from lines that were given up.
   */
  parent: StateName | null;
  job: unknown; // resolved job as it ran (plain JSON)
  layout: { dp_replicate: number; dp_shard: number; sp: number };
  /** Adam's own step: equals state.step minus steps voted down. */
  adamStep: number;
  dataDigest: string; // digest of the data index the position refers to
  /** Latent statistics etc. of the data set, needed to sample from this checkpoint. */
  codec: unknown;
  /** At most EXCLUSIONS_MAX, in the order of their steps. */
  exclusions: readonly Exclusion[];
  /** Steps that changed no weight, at most LEFT_OUT_MAX entries; of a roll-back also steps that are still to come. */
  leftOut: readonly LeftOut[];
  /** What the next step's numbers are compared with. */
  numbers: NumbersSeen;
  version: string; // of the code that computed it: job/version.ts; "+mixed": of ranks that were built from several
}
