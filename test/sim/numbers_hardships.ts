import type { PlannedFault, SimFault } from "./fault_plan.js";
import type { Random } from "./random.js";
import type { SimJobOptions } from "./sim_cluster.js";

/** What strikes just when the ranks of a job have voted to go back, or soon after. */
const AMID: readonly ((random: Random) => SimFault)[] = [
  (r) => ({ kind: "deposeLeader", forMs: r.between(2_000, 15_000) }),
  (r) => ({ kind: "crashLeader", forMs: r.between(200, 10_000) }),
  (r) => ({ kind: "pauseLeader", forMs: r.between(500, 12_000) }),
  (r) => ({ kind: "storeFaults", rate: 0.5, forMs: r.between(2_000, 20_000) }),
  (r) => ({ kind: "storeOutage", forMs: r.between(2_000, 40_000) }),
  (r) => ({ kind: "crashNode", index: r.between(0, 1_000), forMs: r.between(2_000, 90_000) }),
  (r) => ({ kind: "crashDomain", index: r.between(0, 1_000), forMs: r.between(2_000, 90_000) }),
  (r) => ({ kind: "crashAgent", index: r.between(0, 1_000), forMs: r.between(200, 8_000) }),
  (r) => ({ kind: "killRank", index: r.between(0, 1_000) }),
  (r) => ({
    kind: "blockadeAll",
    way: r.pick(["up", "down", "both"] as const),
    forMs: r.between(500, 9_000),
  }),
  (r) => ({ kind: "loseCheckpoint", index: r.between(0, 1_000) }),
  (r) => ({ kind: "corruptCheckpoint", index: r.between(0, 1_000) }),
];

/**
 * Data that make numbers bad in one seed of four, with jobs that go back, stop or skip then. Drawn from a stream of its own:
 * all other seeds stay as they were.
 */
export function planNumbers(random: Random, jobs: readonly SimJobOptions[], untilMs: number): PlannedFault[] {
  if (!random.chance(0.25)) return [];
  for (const job of jobs) {
    job.badStep = random.pick(["roll_back", "roll_back", "skip", "stop"] as const);
    job.spike = random.pick(["roll_back", "roll_back", "apply", "skip", "stop"] as const);
    // As a job file has it: behind the last checkpoint that is kept there is none.
    const reach = 1 + ((job.keepLast ?? 3) - 1) * (job.saveEverySteps ?? 20);
    job.rollBackSteps = Math.min(reach, random.pick([1, 2, 5, 12, 30]));
    job.maxRollBacks = random.pick([3, 3, 1, 5]);
  }
  return Array.from({ length: random.between(1, 5) }, () => plannedBad(random, untilMs)).flat();
}

function plannedBad(random: Random, untilMs: number): PlannedFault[] {
  const atMs = random.between(3_000, untilMs - 1);
  const faults: PlannedFault[] = [];
  if (random.chance(0.15)) {
    const how = random.pick(["surge", "losses", "always"] as const);
    const fault: SimFault = { kind: "computeWrong", index: random.between(0, 1_000), how, forMs: 30_000 };
    faults.push({ atMs, fault });
  } else {
    const what = random.pick(["notFinite", "loss", "gradient"] as const);
    const [count, gap] = [random.pick([1, 1, 2, 4]), random.pick([1, 2, 7])];
    faults.push({ atMs, fault: { kind: "badData", index: random.between(0, 1_000), count, gap, what } });
  }
  if (random.chance(0.5)) {
    const fault = random.pick(AMID)(random);
    faults.push({
      atMs,
      fault: { kind: "uponRollBack", afterMs: random.pick([0, 5, 100, 700, 3_000]), fault },
    });
  }
  return faults;
}
