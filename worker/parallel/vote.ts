/** What this rank brings into the vote of a step; booleans are joined over all ranks as said. */
export interface VoteFlags {
  /** This rank's snapshot of the previous step is whole. All must be. */
  snapshotWhole: boolean;
  /** This rank has a free slot for the next snapshot. All must have. */
  slotFree: boolean;
  /** Someone asked this rank to save; one is enough. */
  save: boolean;
  /** Someone asked this rank to stop; one is enough. */
  stop: boolean;
}

/** The outcome, equal on every rank. */
export interface VoteResult {
  step: number;
  /** Mean loss of the step: per-pack sums added in pack order, whatever the layout. */
  loss: number;
  /** Gradient norm before clipping, rounded to f32 so that the number of partial sums does not show. */
  gradNorm: number;
  /** Loss and gradients are finite everywhere; if not, `apply` changes nothing. */
  finite: boolean;
  snapshotWhole: boolean;
  slotFree: boolean;
  save: boolean;
  stop: boolean;
  /** Samples of this step that could not be read, in pack order. */
  excluded: string[];
}
