import type { LayoutSize } from "../../job/layout.js";
import { faultText, type PlannedFault, planFaults } from "./fault_plan.js";
import { planHardships } from "./hardships.js";
import { planNumbers } from "./numbers_hardships.js";
import { Random } from "./random.js";
import { planSigns } from "./sign_hardships.js";
import type { SimJobOptions } from "./sim_cluster.js";
import type { SimProgram } from "./sim_program.js";

/** Faults strike during this much virtual time, unless the store is gone for longer. */
const FAULTY_MS = 60_000;
/** With more than so many slots a job is as large as the cluster; with fewer there are spares. */
const LARGE_SLOTS = 64;

export interface SeedPlan {
  seed: number;
  nodes: number;
  slotsPerNode: number;
  /** Failure domains of the nodes; 0: each is its own. */
  racks: number;
  duplicateRate: number;
  jobs: SimJobOptions[];
  /** How long faults strike. */
  faultyMs: number;
  faults: PlannedFault[];
}

/** Everything about a run that chance decides beforehand, from its seed alone. */
export function planSeed(seed: number, nodes: { min: number; max: number }): SeedPlan {
  const random = new Random(seed);
  const count = random.between(nodes.min, nodes.max);
  const slotsPerNode = random.pick([1, 2, 2, 4]);
  const jobs: SimJobOptions[] = [];
  const jobCount = random.pick([1, 1, 1, 2, 3]);
  for (let i = 0; i < jobCount; i++)
    jobs.push(planJob(random, `j${i}`, Math.floor(count / jobCount) * slotsPerNode));
  // Drawn apart, so that seeds go on meaning what they meant.
  const apart = new Random(seed ^ 0x5eed);
  for (const job of jobs) job.previewEverySteps = apart.pick([0, 1, 3, 8]);
  for (const job of jobs) planExtras(apart, job);
  const hardships = planHardships(apart, FAULTY_MS);
  const outage = planOutage(apart);
  const bad = planNumbers(new Random(seed ^ 0xbad), jobs, FAULTY_MS);
  const signs = planSigns(new Random(seed ^ 0x516), FAULTY_MS);
  // With it jobs are longer, so that there is something to see of them meanwhile.
  const faultyMs = outage === null ? FAULTY_MS : outage.atMs + outage.fault.forMs;
  if (outage !== null) for (const job of jobs) job.steps = Math.ceil((job.steps * faultyMs) / FAULTY_MS);
  return {
    seed,
    nodes: count,
    slotsPerNode,
    racks: random.pick([0, 0, 2, 3]),
    duplicateRate: random.chance(0.3) ? 0.1 : 0,
    jobs,
    faultyMs,
    faults: [
      ...planFaults(random, FAULTY_MS),
      ...hardships,
      ...bad,
      ...signs,
      ...(outage === null ? [] : [outage]),
    ].sort((a, b) => a.atMs - b.atMs),
  };
}

/** Minutes without the store, in a few seeds: they take long. */
function planOutage(random: Random) {
  if (!random.chance(0.04)) return null;
  const fault = { kind: "storeOutage", forMs: random.between(90_000, 240_000) } as const;
  return { atMs: random.between(5_000, FAULTY_MS), fault };
}

function planExtras(random: Random, job: SimJobOptions): void {
  job.keepLast = random.pick([1, 2, 3]);
  job.snapshotEverySteps = random.pick([1, 1, 1, 3]);
  job.spares = random.pick([0, 0, 1, 2]);
  job.replaceStragglers = random.chance(0.5);
  job.maxBadSteps = random.pick([10, 10, 2]);
}

function planJob(random: Random, name: string, slots: number): SimJobOptions {
  const sp = random.pick([1, 1, 2]);
  const replicas = random.pick([1, 1, 2]);
  const most = slots > LARGE_SLOTS ? slots : 12;
  const room = Math.max(1, Math.floor(Math.min(slots, most) / (sp * replicas)));
  const layout: LayoutSize = { dp_replicate: replicas, dp_shard: random.between(1, room), sp };
  const fits = layout.dp_replicate * layout.dp_shard * layout.sp <= slots;
  const stepMs = random.between(400, 1_500);
  return {
    name,
    layout: random.chance(0.2) ? "auto" : fits ? layout : { dp_replicate: 1, dp_shard: 1, sp: 1 },
    steps: Math.ceil(random.between(30_000, 90_000) / stepMs),
    saveEverySteps: random.between(4, 30),
    stepMs,
    saveFailRate: random.pick([0, 0, 0.3]),
    replicas: random.pick([1, 1, 1, 0]),
    maxAttempts: random.chance(0.1) ? random.between(0, 3) : 1_000,
    ...(random.chance(0.25) ? { program: planProgram(random) } : {}),
  };
}

function planProgram(random: Random): SimProgram {
  const heartbeat = random.pick(["optional", "required"] as const);
  const beats = heartbeat === "required" || random.chance(0.6);
  return {
    heartbeat,
    beats,
    coupled: random.chance(0.7),
    crashes: random.pick([0, 0, 1, 3]),
    hangs: beats ? random.pick([0, 0, 1, 2]) : 0,
    saved: 0,
  };
}

/** What a failing seed prints first: enough to replay it. */
export function planText(plan: SeedPlan): string {
  const jobs = plan.jobs.map((job) => `  job ${JSON.stringify(job)}`);
  const faults = plan.faults.map((fault) => `  ${faultText(fault)}`);
  const head = `seed ${plan.seed}: ${plan.nodes} nodes of ${plan.slotsPerNode} slots in ${plan.racks} racks, duplicates ${plan.duplicateRate}`;
  return [head, ...jobs, ...faults].join("\n");
}
