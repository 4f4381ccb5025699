import type { Hardship } from "./hardships.js";
import type { Random } from "./random.js";
import type { SignHardship } from "./sign_hardships.js";
import type { Blockade } from "./sim_link.js";

/** One thing that goes wrong; `index` picks the victim among those there are when it strikes. */
export type SimFault =
  | { kind: "killRank"; index: number }
  | { kind: "killTwoRanks"; index: number }
  | { kind: "stopRank"; index: number; forMs: number | null }
  | { kind: "hangRank"; index: number }
  | { kind: "breakRankNetwork"; index: number }
  | { kind: "crashAgent"; index: number; forMs: number }
  | { kind: "crashNode"; index: number; forMs: number }
  | { kind: "crashDomain"; index: number; forMs: number }
  | { kind: "leaveNode"; index: number; graceMs: number; forMs: number }
  | { kind: "breakNode"; index: number; forMs: number }
  | { kind: "cutLink"; index: number }
  | { kind: "cutNodes"; index: number; other: number; forMs: number }
  | { kind: "blockade"; index: number; way: Blockade; forMs: number }
  | { kind: "blockadeAll"; way: Blockade; forMs: number }
  | { kind: "crashController"; index: number; forMs: number }
  | { kind: "crashLeader"; forMs: number }
  | { kind: "pauseLeader"; forMs: number }
  /** It cannot reach the store, and leads on beyond its lease, since the clock that it counts by stands still. */
  | { kind: "deposeLeader"; forMs: number }
  | { kind: "storeFaults"; rate: number; forMs: number }
  | { kind: "cutStore"; index: number; forMs: number }
  | { kind: "slowNetwork"; delayMsMax: number; forMs: number }
  | { kind: "corruptCheckpoint"; index: number }
  | Hardship
  | SignHardship
  /** Strikes so long after the next vote of ranks to go back. */
  | { kind: "uponRollBack"; afterMs: number; fault: SimFault }
  | { kind: "requestSave"; index: number }
  | { kind: "requestStop"; index: number; graceMs: number };

export interface PlannedFault {
  atMs: number;
  fault: SimFault;
}

type Maker = (random: Random) => SimFault;
const index = (random: Random) => random.between(0, 1_000);
const way = (random: Random) => random.pick(["up", "down", "both"] as const);

const MAKERS: Record<
  Exclude<SimFault["kind"], "breakNode" | "uponRollBack" | (Hardship | SignHardship)["kind"]>,
  Maker
> = {
  killRank: (r) => ({ kind: "killRank", index: index(r) }),
  killTwoRanks: (r) => ({ kind: "killTwoRanks", index: index(r) }),
  stopRank: (r) => ({
    kind: "stopRank",
    index: index(r),
    forMs: r.chance(0.3) ? r.between(200, 20_000) : null,
  }),
  hangRank: (r) => ({ kind: "hangRank", index: index(r) }),
  breakRankNetwork: (r) => ({ kind: "breakRankNetwork", index: index(r) }),
  crashAgent: (r) => ({ kind: "crashAgent", index: index(r), forMs: r.between(200, 8_000) }),
  crashNode: (r) => ({ kind: "crashNode", index: index(r), forMs: r.between(2_000, 90_000) }),
  crashDomain: (r) => ({ kind: "crashDomain", index: index(r), forMs: r.between(2_000, 90_000) }),
  leaveNode: (r) => ({
    kind: "leaveNode",
    index: index(r),
    graceMs: r.between(200, 30_000),
    forMs: r.between(2_000, 90_000),
  }),
  cutLink: (r) => ({ kind: "cutLink", index: index(r) }),
  cutNodes: (r) => ({ kind: "cutNodes", index: index(r), other: index(r), forMs: r.between(500, 60_000) }),
  blockade: (r) => ({ kind: "blockade", index: index(r), way: way(r), forMs: r.between(500, 12_000) }),
  blockadeAll: (r) => ({ kind: "blockadeAll", way: way(r), forMs: r.between(500, 12_000) }),
  crashController: (r) => ({ kind: "crashController", index: index(r), forMs: r.between(500, 15_000) }),
  crashLeader: (r) => ({ kind: "crashLeader", forMs: r.between(200, 10_000) }),
  pauseLeader: (r) => ({ kind: "pauseLeader", forMs: r.between(500, 12_000) }),
  deposeLeader: (r) => ({ kind: "deposeLeader", forMs: r.between(2_000, 15_000) }),
  storeFaults: (r) => ({ kind: "storeFaults", rate: 0.05 + 0.4 * r.unit(), forMs: r.between(2_000, 20_000) }),
  cutStore: (r) => ({ kind: "cutStore", index: index(r), forMs: r.between(500, 10_000) }),
  slowNetwork: (r) => ({
    kind: "slowNetwork",
    delayMsMax: r.between(50, 900),
    forMs: r.between(2_000, 20_000),
  }),
  corruptCheckpoint: (r) => ({ kind: "corruptCheckpoint", index: index(r) }),
  requestSave: (r) => ({ kind: "requestSave", index: index(r) }),
  requestStop: (r) => ({ kind: "requestStop", index: index(r), graceMs: r.pick([0, 1_000, 5_000, 30_000]) }),
};

/**
 * What goes wrong in one run, resolved before it starts. Every seed enables its own few kinds of faults, some often and
 * close together: mixing all kinds evenly would make each run alike and rarely let one kind meet itself.
 */
export function planFaults(random: Random, untilMs: number): PlannedFault[] {
  const kinds = (Object.keys(MAKERS) as (keyof typeof MAKERS)[]).filter(() => random.chance(0.35));
  if (kinds.length === 0) kinds.push("killRank");
  const count = random.between(1, 20);
  const clustered = random.chance(0.3);
  const echoRate = random.pick([0, 0.3, 0.7]);
  const centerMs = random.between(3_000, untilMs);
  const plan: PlannedFault[] = [];
  for (let i = 0; i < count; i++) {
    const kind = random.pick(kinds);
    if (kind === "requestStop" && !random.chance(0.1)) continue;
    const strikesMs = clustered ? centerMs + random.between(0, 3_000) : random.between(500, untilMs);
    const atMs = Math.min(untilMs - 1, strikesMs);
    plan.push({ atMs, fault: MAKERS[kind](random) });
    // A second blow while the first is being dealt with.
    const second = random.pick(kinds);
    if (random.chance(echoRate) && second !== "requestStop") {
      const laterMs = Math.min(untilMs - 1, atMs + random.between(1, 4_000));
      plan.push({ atMs: laterMs, fault: MAKERS[second](random) });
    }
  }
  // A machine that computes wrong bits disturbs nothing by itself: it meets all other kinds, in one run of three.
  for (let broken = random.chance(0.3) ? random.between(1, 3) : 0; broken > 0; broken--) {
    const forMs = random.between(2_000, 90_000);
    plan.push({
      atMs: random.between(0, untilMs - 1),
      fault: { kind: "breakNode", index: index(random), forMs },
    });
  }
  return plan.sort((a, b) => a.atMs - b.atMs);
}

export function faultText({ atMs, fault }: PlannedFault): string {
  const { kind, ...rest } = fault;
  const details = Object.entries(rest).map(([key, value]) => `${key} ${JSON.stringify(value)}`);
  return `${(atMs / 1000).toFixed(3).padStart(8)} s  ${kind}  ${details.join(", ")}`;
}
