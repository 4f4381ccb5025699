import type { VoteFlags } from "../../worker/parallel/vote.js";

/** What a rank brings into the vote where nothing is asked for and all snapshots are whole. */
export const ORDINARY_FLAGS: VoteFlags = {
  snapshotWhole: true,
  slotFree: true,
  save: false,
  stop: false,
  yield: false,
  replicated: true,
  replicaLost: false,
};
