import type { ErrorCode } from "../../job/errors.js";
import type { PlannedFault } from "./fault_plan.js";
import type { Random } from "./random.js";
import type { Wrong } from "./sim_node.js";
import type { BadData } from "./train_numbers.js";

/** What goes wrong while all processes live, and what people ask for meanwhile. */
export type Hardship =
  /** Its ranks need so many times as long for a step. */
  | { kind: "slowNode"; index: number; factor: number; forMs: number }
  | { kind: "computeWrong"; index: number; how: Wrong; forMs: number }
  /** A pack of so many of the next steps is bad, whoever computes it: of each, or of every so many. */
  | { kind: "badData"; index: number; count: number; gap: number; what: BadData }
  /** A bit turns in the state that a rank computes with. */
  | { kind: "flipLive"; index: number }
  /** Bits turn in so many of the snapshots and replicas that a node holds. */
  | { kind: "flipCopies"; index: number; count: number }
  /** Writes to durable storage fail, of one node or of `all`. */
  | { kind: "fillDisk"; index: number; code: ErrorCode; all: boolean; forMs: number }
  | { kind: "loseCheckpoint"; index: number }
  /** No controller reaches the store. */
  | { kind: "storeOutage"; forMs: number }
  /** A person wants a node free, and gives it back later. */
  | { kind: "drainNode"; index: number; forMs: number }
  /** A person vouches for a node. */
  | { kind: "releaseNode"; index: number };

const index = (random: Random) => random.between(0, 1_000);
const MAKERS: Record<Exclude<Hardship["kind"], "storeOutage">, (random: Random) => Hardship> = {
  slowNode: (r) => ({
    kind: "slowNode",
    index: index(r),
    factor: r.pick([1.3, 2, 3]),
    forMs: r.between(10_000, 120_000),
  }),
  computeWrong: (r) => ({
    kind: "computeWrong",
    index: index(r),
    how: r.pick(["losses", "losses", "gradients", "always"] as const),
    forMs: r.between(2_000, 60_000),
  }),
  badData: (r) => ({
    kind: "badData",
    index: index(r),
    count: r.pick([1, 1, 2, 4]),
    gap: 1,
    what: "notFinite",
  }),
  flipLive: (r) => ({ kind: "flipLive", index: index(r) }),
  flipCopies: (r) => ({ kind: "flipCopies", index: index(r), count: r.pick([1, 1, 3, 20]) }),
  fillDisk: (r) => ({
    kind: "fillDisk",
    index: index(r),
    code: r.pick(["STORAGE_FULL", "STORAGE_FAILED"] as const),
    all: r.chance(0.3),
    forMs: r.between(5_000, 90_000),
  }),
  loseCheckpoint: (r) => ({ kind: "loseCheckpoint", index: index(r) }),
  drainNode: (r) => ({ kind: "drainNode", index: index(r), forMs: r.between(2_000, 60_000) }),
  releaseNode: (r) => ({ kind: "releaseNode", index: index(r) }),
};

/** Of one seed in two, a few kinds: so they meet each other, and whatever else goes wrong. */
export function planHardships(random: Random, untilMs: number): PlannedFault[] {
  if (random.chance(0.5)) return [];
  const all = Object.keys(MAKERS) as (keyof typeof MAKERS)[];
  const kinds = all.filter(() => random.chance(0.3));
  if (kinds.length === 0) kinds.push(random.pick(all));
  return Array.from({ length: random.between(1, 8) }, () => ({
    atMs: random.between(2_000, untilMs - 1),
    fault: MAKERS[random.pick(kinds)](random),
  }));
}
