import { dealtPack } from "../../job/deal.js";
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
  /** Someone asked this rank to end its generation; one is enough. */
  yield: boolean;
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
  /** The first half of that: nothing that was computed is NaN or infinite. */
  numbersFinite: boolean;
  /** Part of each pack in `loss`. */
  packLosses: number[];
  /** Multiply-adds of the forward passes of all packs, on all ranks together. */
  work: number;
  /** Where the step was computed a second time, what differed from the first, by rank; else null. */
  differences: Difference[] | null;
  snapshotWhole: boolean;
  slotFree: boolean;
  save: boolean;
  stop: boolean;
  yield: boolean;
  replicated: boolean;
  replicaLost: boolean;
  /** Places in the step of the samples that some rank could not read, or that are left out already. */
  excluded: number[];
}

/** Numbers of one rank, before the vote sums them over ranks. */
export interface OwnNumbers {
  packLosses: Float64Array;
  /** Its part of the squared gradient norm: of its shard, to which all ranks have added. */
  squaredNorm: number;
}

/** What of a rank's own numbers was not the same, bit for bit, when the step was computed a second time. */
export interface Difference {
  losses: boolean;
  norm: boolean;
}

export interface Ballot {
  arena: Arena;
  collectives: Collectives;
  layout: Layout;
  rank: number;
  input: StepInput;
  numbers: OwnNumbers;
  /** Multiply-adds of the forward passes of this rank's packs, in this try. */
  work: number;
  /** What this rank found when it computed the same step before; null: it has not. Alike on all ranks. */
  earlier: OwnNumbers | null;
  flags: VoteFlags;
}

/** Places in the vote's f64 vector, whose sum over ranks is the result; then one per pack, one per sample, of a second try one per rank. */
const PLACE = {
  squaredNorm: 0,
  notFinite: 1,
  notWhole: 2,
  notFree: 3,
  save: 4,
  stop: 5,
  notReplicated: 6,
  replicaLost: 7,
  yield: 8,
  work: 9,
  packs: 10,
} as const;

/** One all-reduce over the world; what is known about the step on any rank is known on all afterwards. */
export function castVote(ballot: Ballot): VoteResult {
  const votes = fillBallot(ballot);
  const { world } = ballot.collectives.groups;
  return readVotes(ballot, world === null ? votes : sumOverWorld(ballot, votes));
}

function fillBallot(ballot: Ballot): Float64Array {
  const { layout, rank, input, numbers, work, earlier, flags } = ballot;
  const { packLosses, squaredNorm } = numbers;
  const ranksAt = PLACE.packs + input.plan.packs.length + sampleCount(input);
  const votes = new Float64Array(ranksAt + (earlier === null ? 0 : layout.worldSize));
  votes[PLACE.squaredNorm] = squaredNorm;
  votes[PLACE.notFinite] = Number.isFinite(squaredNorm) && packLosses.every(Number.isFinite) ? 0 : 1;
  votes[PLACE.notWhole] = flags.snapshotWhole ? 0 : 1;
  votes[PLACE.notFree] = flags.slotFree ? 0 : 1;
  votes[PLACE.save] = flags.save ? 1 : 0;
  votes[PLACE.stop] = flags.stop ? 1 : 0;
  votes[PLACE.yield] = flags.yield ? 1 : 0;
  votes[PLACE.notReplicated] = flags.replicated ? 0 : 1;
  votes[PLACE.replicaLost] = flags.replicaLost ? 1 : 0;
  votes[PLACE.work] = work;
  votes.set(packLosses, PLACE.packs);
  markUnreadable(votes, input, layout, rank);
  if (earlier !== null) votes[ranksAt + rank] = differenceBits(earlier, numbers);
  return votes;
}

function sampleCount(input: StepInput): number {
  return input.plan.packs.reduce((sum, pack) => sum + pack.samples.length, 0);
}

const LOSSES_DIFFER = 1;
const NORM_DIFFERS = 2;

/** Bit for bit, but NaN is NaN whatever its bits, which vary with the order of operands. */
function differenceBits(before: OwnNumbers, now: OwnNumbers): number {
  const losses = now.packLosses.every((loss, i) => Object.is(loss, before.packLosses[i]));
  const norm = Object.is(now.squaredNorm, before.squaredNorm);
  return (losses ? 0 : LOSSES_DIFFER) + (norm ? 0 : NORM_DIFFERS);
}

/** Every rank of a sequence group reports, since each has read the group's packs by itself. */
function markUnreadable(votes: Float64Array, input: StepInput, layout: Layout, rank: number): void {
  const { plan, moved } = input;
  const { packs } = plan;
  let place = PLACE.packs + packs.length;
  for (const [slot, pack] of packs.entries()) {
    const round = Math.floor(slot / layout.dataRankCount);
    const batch = dealtPack(layout, rank, { round, moved }) === slot ? input.packs[round] : null;
    for (const [i, weight] of (batch?.weights ?? []).entries()) votes[place + i] = weight === 0 ? 1 : 0;
    place += pack.samples.length;
  }
}

function sumOverWorld({ arena, collectives }: Ballot, votes: Float64Array): Float64Array {
  const { native } = collectives;
  const bytes = new Uint8Array(votes.buffer);
  const buffer = arena.alloc("f64", votes.length);
  native.tensorWrite(buffer.id, 0, bytes);
  const ticket = native.allReduceStart(collectives.require("world"), buffer.id, 0);
  collectives.wait(collectives.started("vote", ticket));
  native.tensorRead(buffer.id, 0, bytes);
  buffer.free();
  return votes;
}

function readVotes({ input, layout, earlier }: Ballot, votes: Float64Array): VoteResult {
  const samplesAt = PLACE.packs + input.plan.packs.length;
  const ranksAt = samplesAt + sampleCount(input);
  const losses = votes.subarray(PLACE.packs, samplesAt);
  let loss = 0;
  for (const packLoss of losses) loss += packLoss;
  const gradNorm = Math.fround(Math.sqrt(votes[PLACE.squaredNorm]!));
  const unreadable = votes.subarray(samplesAt, ranksAt); // by how many ranks of its sequence group
  const agreed = unreadable.every((count) => count === 0 || count === layout.sp);
  const numbersFinite = votes[PLACE.notFinite] === 0 && Number.isFinite(gradNorm) && Number.isFinite(loss);
  return {
    step: input.step,
    loss,
    gradNorm,
    finite: numbersFinite && agreed,
    numbersFinite,
    packLosses: [...losses],
    work: votes[PLACE.work]!,
    differences: earlier === null ? null : Array.from(votes.subarray(ranksAt), readDifference),
    snapshotWhole: votes[PLACE.notWhole] === 0,
    slotFree: votes[PLACE.notFree] === 0,
    save: votes[PLACE.save]! > 0,
    stop: votes[PLACE.stop]! > 0,
    yield: votes[PLACE.yield]! > 0,
    replicated: votes[PLACE.notReplicated] === 0,
    replicaLost: votes[PLACE.replicaLost]! > 0,
    excluded: Array.from(unreadable.keys()).filter((place) => unreadable[place]! > 0),
  };
}

function readDifference(bits: number): Difference {
  return { losses: (bits & LOSSES_DIFFER) !== 0, norm: (bits & NORM_DIFFERS) !== 0 };
}
