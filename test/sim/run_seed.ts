import type { SeedPlan } from "./plan_seed.js";
import { SimCluster, type SimJobOptions } from "./sim_cluster.js";
import type { SimJob } from "./sim_group.js";
import { ProgramGroup } from "./sim_program.js";
import { strike } from "./strike.js";

/** Of which two fight for the lead of the third. */
const CONTROLLERS = 3;
/** Once healed, every job must be over within this. */
const HEALED_MS = 900_000;

export interface SeedResult {
  plan: SeedPlan;
  /** Null: every invariant held and every job came to its end. */
  error: Error | null;
  hash: number;
  events: number;
  virtualMs: number;
  generations: number;
  incidents: number;
}

/** Two phases: faults on and every invariant watched; then everything is healed, and every job must reach its end. */
export async function runSeed(
  plan: SeedPlan,
  onTrace: ((line: string) => void) | null = null,
): Promise<SeedResult> {
  const { seed, nodes, slotsPerNode, racks } = plan;
  const sim = new SimCluster({ seed, nodes, slotsPerNode, racks, controllers: CONTROLLERS });
  sim.mood.duplicateRate = plan.duplicateRate;
  sim.onTrace = onTrace;
  let error: Error | null = null;
  try {
    for (const job of plan.jobs) sim.submit(job);
    for (const { atMs, fault } of plan.faults) sim.scheduler.at(atMs, () => strike(sim, fault));
    await sim.run(plan.faultyMs);
    heal(sim);
    await sim.until(() => sim.allOver, HEALED_MS);
    await checkOutcomes(sim, plan);
  } catch (caught) {
    error = caught instanceof Error ? caught : new Error(String(caught));
  }
  return {
    plan,
    error,
    hash: sim.hash,
    events: sim.scheduler.executed,
    virtualMs: sim.nowMs,
    generations: sim.groups.size,
    incidents: [...sim.jobs.keys()].reduce((sum, jobId) => sum + sim.incidents(jobId).length, 0),
  };
}

/** A job may only fail when it was given few attempts, or nothing was left to restore. */
async function checkOutcomes(sim: SimCluster, plan: SeedPlan): Promise<void> {
  await sim.until(() => sim.nodes.every(({ agent }) => agent?.drawing == null), HEALED_MS);
  for (const options of plan.jobs) {
    const { outcome } = sim.record(`job-${options.name}`)!;
    if (outcome?.phase !== "FAILED") continue;
    const why = whyFailed(sim, sim.job(`job-${options.name}`), options, outcome.code);
    if (why === null) throw new Error(`job ${options.name} FAILED with ${outcome.code}: ${outcome.reason}`);
  }
}

/** What makes it right that a job failed; null: nothing does. */
function whyFailed(
  sim: SimCluster,
  { storage, badSteps }: SimJob,
  { maxAttempts = 1_000, maxBadSteps = 10, badStep, spike }: SimJobOptions,
  code: string | null,
): string | null {
  const isTold = (how: SimJobOptions["badStep" | "spike"]) => how === "stop" || how === "roll_back";
  const isWrong = sim.nodes.some(({ guilt }) => guilt.has("wrong"));
  switch (code) {
    case "NO_PROGRESS":
    case "NODE_LOST":
    case "NODE_PREEMPTED":
      return maxAttempts < 10 ? "it was given few attempts" : null;
    case "CHECKPOINT_CORRUPT": {
      if (storage.lost.size > 0 || storage.durable.some(({ corrupt }) => corrupt))
        return "what was durable is damaged or gone";
      return storage.durable.length === 0 ? "nothing is durable" : null;
    }
    case "RANK_CORRUPT":
      return isWrong ? "a device was wrong" : null;
    case "NOT_FINITE":
      if (badSteps.size > 0 && isTold(badStep)) return "it was to end then, or has gone back too often";
      return isWrong || longestRun(badSteps) >= maxBadSteps ? "too many steps in a row were bad" : null;
    case "NUMBERS_SPIKED":
      if ((badSteps.size > 0 || isWrong) && isTold(spike))
        return "it was to end then, or has gone back too often";
      return longestRun(badSteps) >= maxBadSteps ? "too many steps in a row were bad" : null;
    default:
      return null;
  }
}

function longestRun(steps: ReadonlyMap<number, unknown>): number {
  const lengths = [...steps.keys()].map((step) => {
    let length = 1;
    while (steps.has(step + length)) length += 1;
    return length;
  });
  return Math.max(0, ...lengths);
}

/** Everything that was broken is mended, except what only the controller can mend: hung ranks, orphaned nodes. */
function heal(sim: SimCluster): void {
  sim.store.faultRate = 0;
  sim.store.cutOff.clear();
  sim.liftBlockades();
  sim.mood.delayMsMax = 10;
  for (const controller of sim.controllers) controller.restart();
  for (const { agent, rank } of sim.livingRanks()) {
    rank.unkillable = false;
    // Of a program that need not beat nobody can say that it hangs.
    if (rank.group instanceof ProgramGroup && rank.group.job.program!.heartbeat === "optional") rank.goOn();
    if (rank.killPending) agent.rankDies(rank, "SIGKILL");
  }
  for (const node of sim.nodes) {
    node.broken = false;
    node.disk = null;
    node.wrong = null;
    if (node.slowness > 1) node.setSlowness(1, sim.nowMs);
    if (!node.up) sim.bootNode(node);
  }
  liftQuarantines(sim);
}

/** A person who looks after the cluster now and then. */
function liftQuarantines(sim: SimCluster): void {
  for (const nodeId of sim.leader()?.core?.quarantine.keys() ?? []) sim.liftQuarantine(nodeId);
  sim.scheduler.after(30_000, () => liftQuarantines(sim));
}
