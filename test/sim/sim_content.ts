import type { StateName as StoredName } from "../../checkpoint/state.js";
import type { StateName } from "../../controller/core/contract.js";

/** A training state as far as a simulation needs it: its name, where it came from, and a digest of the packs it has consumed. */
export interface Content {
  state: StateName;
  /** The state that its generation restored; null: initial values. */
  parent: StateName | null;
  /** Grows by one mix per step: two states of equal step agree only if they consumed the same packs. */
  digest: number;
  /** Steps that changed no weight, ascending. */
  skipped: readonly number[];
}

export const INITIAL: Content = {
  state: { generation: 0, step: 0 },
  parent: null,
  digest: 1,
  skipped: [],
};

/** Digest after consuming the packs of one more step; one that was voted down leaves a mark of its own. */
export function mixStep(digest: number, step: number, isSkipped = false): number {
  const mixed = (Math.imul(digest ^ step, 0x01000193) + step) >>> 0;
  return isSkipped ? ~mixed >>> 0 : mixed;
}

/** The same name as the worker and its files have it. */
export function stored({ generation, step }: StateName): StoredName {
  return { generation: String(generation), step };
}

export function unstored({ generation, step }: StoredName): StateName {
  return { generation: Number(generation), step };
}
