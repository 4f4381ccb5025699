import type { StateName as StoredName } from "../../checkpoint/state.js";
import type { StateName } from "../../controller/core/contract.js";
import type { LeftOut } from "../../job/left_out.js";
import { type NumbersSeen, nothingSeen } from "../../job/spikes.js";

/** A training state as far as a simulation needs it: its name, where it came from, and a digest of the packs it has consumed. */
export interface Content {
  state: StateName;
  /** The state that its generation restored; null: initial values. */
  parent: StateName | null;
  /** Grows by one mix per step: two states of equal step agree only if they consumed the same packs. */
  digest: number;
  /** Steps that changed no weight. */
  leftOut: readonly LeftOut[];
  /** What the numbers of the next step are compared with; shared by all states that have seen the same, and never changed. */
  numbers: Readonly<NumbersSeen>;
}

export const INITIAL: Content = {
  state: { generation: 0, step: 0 },
  parent: null,
  digest: 1,
  leftOut: [],
  numbers: nothingSeen(),
};

/** Digest after consuming the packs of one more step; one that was voted down leaves a mark of its own. */
export function mixStep(digest: number, step: number, isSkipped = false): number {
  const mixed = (Math.imul(digest ^ step, 0x01000193) + step) >>> 0;
  return isSkipped ? ~mixed >>> 0 : mixed;
}

/** Each step once, ascending. */
export function stepsOf(leftOut: readonly LeftOut[]): number[] {
  const steps = new Set<number>();
  for (const { first, last } of leftOut) for (let step = first; step <= last; step++) steps.add(step);
  return [...steps].sort((a, b) => a - b);
}

/** Loss and gradient norm of a step where nothing is wrong: they follow from the weights and from its packs alone. */
export function ordinaryNumbers(digest: number, step: number): { loss: number; gradNorm: number } {
  const noise = mixStep(Math.imul(digest, 0x9e3779b1), step) / 2 ** 32;
  return { loss: 1 + 0.2 * noise, gradNorm: 2 - noise };
}

/** The same name as the worker and its files have it. */
export function stored({ generation, step }: StateName): StoredName {
  return { generation: String(generation), step };
}

export function unstored({ generation, step }: StoredName): StateName {
  return { generation: Number(generation), step };
}
