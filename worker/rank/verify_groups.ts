import { createHash } from "node:crypto";
import { GokuError } from "../../job/errors.js";
import type { Layout } from "../../job/layout.js";
import { type CommId, DTYPE, type Native } from "../engine/native.js";
import type { Groups } from "../parallel/groups.js";
import { REDUCE, reduceNumbers } from "./reduce_numbers.js";

/** Something that must be the same on all ranks. */
export interface AgreedFact {
  name: string;
  /** Text that differs when the fact does. */
  digest: string;
}

/**
 * The first collectives of a generation: each group sums and gathers numbers that only its members in their order give, and the world
 * compares what all ranks must have in common (48 bits of each digest are exact in a double).
 * Throws COMM_CHECK_FAILED, or DATA_CHANGED where ranks see different data, and what collectives throw.
 */
export function verifyGroups(
  native: Native,
  groups: Groups,
  place: { layout: Layout; rank: number },
  facts: readonly AgreedFact[],
): void {
  const { layout, rank } = place;
  const world = Array.from({ length: layout.worldSize }, (_, i) => i);
  const members: [string, CommId | null, number[]][] = [
    ["world", groups.world, world],
    ["shard", groups.shard, layout.shardGroup(rank)],
    ["replica", groups.replica, layout.replicaGroup(rank)],
    ["sequence", groups.sequence, layout.sequenceGroup(rank)],
  ];
  for (const [name, comm, ranks] of members) {
    if (comm === null) continue;
    verifySum(native, comm, name, ranks, rank);
    verifyGather(native, comm, name, ranks, rank);
  }
  verifyFacts(native, groups.world, facts);
}

/** Member i gives 2^i at place i modulo 32 and its rank + 1 at place 32: every absent or doubled member shows. */
function verifySum(native: Native, comm: CommId, name: string, ranks: readonly number[], rank: number): void {
  const numbers = new Float64Array(33);
  const index = ranks.indexOf(rank);
  numbers[index % 32] = 2 ** (Math.floor(index / 32) % 52);
  numbers[32] = rank + 1;
  const wanted = new Float64Array(33);
  for (const [i, member] of ranks.entries()) {
    wanted[i % 32]! += 2 ** (Math.floor(i / 32) % 52);
    wanted[32]! += member + 1;
  }
  const found = reduceNumbers(native, comm, numbers, REDUCE.sum);
  const wrong = wanted.findIndex((value, i) => found[i] !== value);
  if (wrong < 0) return;
  throw new GokuError(
    "COMM_CHECK_FAILED",
    `Cannot trust group ${name}: its first sum is ${found[wrong]} at place ${wrong}, want ${wanted[wrong]}, form the generation again`,
  );
}

/** Every member gives its rank + 1 and finds all in their order. Goes the way of weights, from device to device, where a sum of few numbers does not. */
function verifyGather(
  native: Native,
  comm: CommId,
  name: string,
  ranks: readonly number[],
  rank: number,
): void {
  const [own, all] = [native.tensorAlloc(DTYPE.f32, 1), native.tensorAlloc(DTYPE.f32, ranks.length)];
  const found = new Float32Array(ranks.length);
  try {
    native.tensorWrite(own, 0, new Uint8Array(Float32Array.of(rank + 1).buffer));
    native.commWait(native.allGatherStart(comm, all, own, new Float64Array(ranks.length).fill(1)));
    native.tensorRead(all, 0, new Uint8Array(found.buffer));
  } finally {
    native.tensorFree(own);
    native.tensorFree(all);
  }
  const wrong = ranks.findIndex((member, i) => found[i] !== member + 1);
  if (wrong < 0) return;
  throw new GokuError(
    "COMM_CHECK_FAILED",
    `Cannot trust group ${name}: at place ${wrong} of its first gather is ${found[wrong]}, want ${ranks[wrong]! + 1}, form the generation again`,
  );
}

/** Throws where ranks differ; every rank of the world must call it. */
export function verifyFacts(native: Native, world: CommId | null, facts: readonly AgreedFact[]): void {
  const different = differentFacts(native, world, facts);
  if (different.length === 0) return;
  throw new GokuError(
    different.includes("data") ? "DATA_CHANGED" : "COMM_CHECK_FAILED",
    `Cannot start the generation: ranks differ in ${different.join(", ")}, want the same on all; give every node the same data set and product version`,
  );
}

/** Names of those in which ranks differ, the same on all; every rank of the world must call it. */
export function differentFacts(native: Native, world: CommId | null, facts: readonly AgreedFact[]): string[] {
  if (world === null) return [];
  const own = Float64Array.from(facts, ({ digest }) =>
    createHash("sha256").update(digest).digest().readUIntBE(0, 6),
  );
  const most = reduceNumbers(native, world, own, REDUCE.max);
  const least = reduceNumbers(native, world, own, REDUCE.min);
  return facts.map(({ name }) => name).filter((_, i) => most[i] !== least[i]);
}
