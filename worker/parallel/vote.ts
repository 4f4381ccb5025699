import type { Layout } from "../../job/layout.js";
import type { Arena } from "../engine/tensor.js";
import type { Collectives } from "./collectives.js";
import type { StepInput } from "./step_types.js";

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
  /** The state that is being copied to other nodes is there for this rank. All must be. */
  replicated: boolean;
  /** This rank's copy of it cannot be made; one is enough. */
  replicaLost: boolean;
}

/** The outcome, equal on every rank. */
export interface VoteResult {
  step: number;
  /** Mean loss of the step: per-pack sums added in pack order, whatever the layout. */
  loss: number;
  /** Gradient norm before clipping, rounded to f32 so that the number of partial sums does not show. */
  gradNorm: number;
  /**
   * Loss and gradients are finite everywhere, and the ranks that share a sequence could read the same samples of it (else they
   * have attended to zeros of one another's). If not, `apply` changes nothing.
   */
  finite: boolean;
  snapshotWhole: boolean;
  slotFree: boolean;
  save: boolean;
  stop: boolean;
  replicated: boolean;
  replicaLost: boolean;
  /** Places in the step of the samples that some rank could not read, or that are left out already. */
  excluded: number[];
}

export interface Ballot {
  arena: Arena;
  collectives: Collectives;
  layout: Layout;
  rank: number;
  input: StepInput;
  /** This rank's part of the loss of every pack. */
  packLosses: Float64Array;
  /** This rank's part of the squared gradient norm. */
  squaredNorm: number;
  flags: VoteFlags;
}

/** Places in the vote's f64 vector, whose sum over ranks is the result; then one per pack, then one per sample. */
const PLACE = {
  squaredNorm: 0,
  notFinite: 1,
  notWhole: 2,
  notFree: 3,
  save: 4,
  stop: 5,
  notReplicated: 6,
  replicaLost: 7,
  packs: 8,
} as const;

/** One all-reduce over the world; what is known about the step on any rank is known on all afterwards. */
export function castVote(ballot: Ballot): VoteResult {
  const votes = fillBallot(ballot);
  const { world } = ballot.collectives.groups;
  return readVotes(ballot, world === null ? votes : sumOverWorld(ballot, votes));
}

function fillBallot({ layout, rank, input, packLosses, squaredNorm, flags }: Ballot): Float64Array {
  const { packs } = input.plan;
  const samples = packs.reduce((sum, pack) => sum + pack.samples.length, 0);
  const votes = new Float64Array(PLACE.packs + packs.length + samples);
  votes[PLACE.squaredNorm] = squaredNorm;
  votes[PLACE.notFinite] = Number.isFinite(squaredNorm) && packLosses.every(Number.isFinite) ? 0 : 1;
  votes[PLACE.notWhole] = flags.snapshotWhole ? 0 : 1;
  votes[PLACE.notFree] = flags.slotFree ? 0 : 1;
  votes[PLACE.save] = flags.save ? 1 : 0;
  votes[PLACE.stop] = flags.stop ? 1 : 0;
  votes[PLACE.notReplicated] = flags.replicated ? 0 : 1;
  votes[PLACE.replicaLost] = flags.replicaLost ? 1 : 0;
  votes.set(packLosses, PLACE.packs);
  markUnreadable(votes, input, layout, rank);
  return votes;
}

/** Every rank of a sequence group reports, since each has read the group's packs by itself. */
function markUnreadable(votes: Float64Array, input: StepInput, layout: Layout, rank: number): void {
  const { packs } = input.plan;
  let place = PLACE.packs + packs.length;
  for (const [slot, pack] of packs.entries()) {
    const mine = slot % layout.dataRankCount === layout.dataRank(rank);
    const batch = mine ? input.packs[Math.floor(slot / layout.dataRankCount)] : null;
    for (const [i, weight] of (batch?.weights ?? []).entries()) votes[place + i] = weight === 0 ? 1 : 0;
    place += pack.samples.length;
  }
}

function sumOverWorld({ arena, collectives }: Ballot, votes: Float64Array): Float64Array {
  const { native } = collectives;
  const bytes = new Uint8Array(votes.buffer);
  const buffer = arena.alloc("f64", votes.length);
  native.tensorWrite(buffer.id, 0, bytes);
  collectives.wait(collectives.started(native.allReduceStart(collectives.require("world"), buffer.id, 0)));
  native.tensorRead(buffer.id, 0, bytes);
  buffer.free();
  return votes;
}

function readVotes({ input, layout }: Ballot, votes: Float64Array): VoteResult {
  const { packs } = input.plan;
  let loss = 0;
  for (let slot = 0; slot < packs.length; slot++) loss += votes[PLACE.packs + slot]!;
  const gradNorm = Math.fround(Math.sqrt(votes[PLACE.squaredNorm]!));
  const unreadable = votes.subarray(PLACE.packs + packs.length); // by how many ranks of its sequence group
  const agreed = unreadable.every((count) => count === 0 || count === layout.sp);
  return {
    step: input.step,
    loss,
    gradNorm,
    finite: votes[PLACE.notFinite] === 0 && Number.isFinite(gradNorm) && Number.isFinite(loss) && agreed,
    snapshotWhole: votes[PLACE.notWhole] === 0,
    slotFree: votes[PLACE.notFree] === 0,
    save: votes[PLACE.save]! > 0,
    stop: votes[PLACE.stop]! > 0,
    replicated: votes[PLACE.notReplicated] === 0,
    replicaLost: votes[PLACE.replicaLost]! > 0,
    excluded: Array.from(unreadable.keys()).filter((place) => unreadable[place]! > 0),
  };
}
