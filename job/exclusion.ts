/**
 * A sample that is left out for good, because a step could not read it. Each sample has at most one; computing a later step
 * again leaves out the same ones.
 */
export interface Exclusion {
  /** Entry of the data index that the state names by its digest. */
  sample: number;
  /** The first step without it. */
  step: number;
}

/** So many fit the header of a snapshot, whatever their numbers. A data set with more unreadable samples needs repair. */
export const EXCLUSIONS_MAX = 10_000;
