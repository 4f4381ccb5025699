import type { LayoutSize } from "../../job/layout.js";
import { faultText, type PlannedFault, planFaults, type SimFault } from "./fault_plan.js";
import { Random } from "./random.js";
import { SimCluster, type SimJobOptions } from "./sim_cluster.js";

/** Faults strike during this much virtual time. */
const FAULTY_MS = 60_000;
/** Once healed, every job must be over within this. */
const HEALED_MS = 900_000;

export interface SeedPlan {
  seed: number;
  nodes: number;
  slotsPerNode: number;
  /** Failure domains of the nodes; 0: each is its own. */
  racks: number;
  controllers: number;
  duplicateRate: number;
  jobs: SimJobOptions[];
  faults: PlannedFault[];
}

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

/** Everything about a run that chance decides beforehand, from its seed alone. */
export function planSeed(seed: number, nodes: { min: number; max: number }): SeedPlan {
  const random = new Random(seed);
  const count = random.between(nodes.min, nodes.max);
  const slotsPerNode = random.pick([1, 2, 2, 4]);
  const jobs: SimJobOptions[] = [];
  const jobCount = random.pick([1, 1, 1, 2, 3]);
  for (let i = 0; i < jobCount; i++)
    jobs.push(planJob(random, `j${i}`, Math.floor(count / jobCount) * slotsPerNode));
  return {
    seed,
    nodes: count,
    slotsPerNode,
    racks: random.pick([0, 0, 2, 3]),
    controllers: random.pick([1, 2, 2, 3]),
    duplicateRate: random.chance(0.3) ? 0.1 : 0,
    jobs,
    faults: planFaults(random, FAULTY_MS),
  };
}

function planJob(random: Random, name: string, slots: number): SimJobOptions {
  const sp = random.pick([1, 1, 2]);
  const replicas = random.pick([1, 1, 2]);
  const room = Math.max(1, Math.floor(Math.min(slots, 12) / (sp * replicas)));
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
  };
}

/** Two phases: faults on and every invariant watched; then everything is healed, and every job must reach its end. */
export function runSeed(plan: SeedPlan, onTrace: ((line: string) => void) | null = null): SeedResult {
  const { seed, nodes, slotsPerNode, racks, controllers } = plan;
  const sim = new SimCluster({ seed, nodes, slotsPerNode, racks, controllers });
  sim.mood.duplicateRate = plan.duplicateRate;
  sim.onTrace = onTrace;
  let error: Error | null = null;
  try {
    for (const job of plan.jobs) sim.submit(job);
    for (const { atMs, fault } of plan.faults) sim.scheduler.at(atMs, () => strike(sim, fault));
    sim.run(FAULTY_MS);
    heal(sim);
    sim.until(() => sim.allOver, HEALED_MS);
    checkOutcomes(sim, plan);
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

/** What a failing seed prints first: enough to replay it. */
export function planText(plan: SeedPlan): string {
  const jobs = plan.jobs.map((job) => `  job ${JSON.stringify(job)}`);
  const faults = plan.faults.map((fault) => `  ${faultText(fault)}`);
  const head = `seed ${plan.seed}: ${plan.nodes} nodes of ${plan.slotsPerNode} slots in ${plan.racks} racks, ${plan.controllers} controllers, duplicates ${plan.duplicateRate}`;
  return [head, ...jobs, ...faults].join("\n");
}

/** A job may only fail when it was given few attempts, or nothing was left to restore. */
function checkOutcomes(sim: SimCluster, plan: SeedPlan): void {
  for (const options of plan.jobs) {
    const { outcome } = sim.record(`job-${options.name}`)!;
    if (outcome?.phase !== "FAILED") continue;
    const few =
      (options.maxAttempts ?? 1_000) < 10 && (outcome.code === "NO_PROGRESS" || outcome.code === "NODE_LOST");
    const nothing =
      outcome.code === "CHECKPOINT_CORRUPT" && sim.job(`job-${options.name}`).durable.some((d) => d.corrupt);
    if (!few && !nothing)
      throw new Error(`job ${options.name} FAILED with ${outcome.code}: ${outcome.reason}`);
  }
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
    if (rank.killPending) agent.rankDies(rank, "SIGKILL");
  }
  for (const node of sim.nodes) if (!node.up) sim.bootNode(node);
  liftQuarantines(sim);
}

/** A person who looks after the cluster now and then. */
function liftQuarantines(sim: SimCluster): void {
  for (const nodeId of sim.leader()?.core?.quarantine.keys() ?? []) sim.liftQuarantine(nodeId);
  sim.scheduler.after(30_000, () => liftQuarantines(sim));
}

function strike(sim: SimCluster, fault: SimFault): void {
  switch (fault.kind) {
    case "killRank":
    case "killTwoRanks":
    case "stopRank":
    case "hangRank":
    case "breakRankNetwork":
      strikeRank(sim, fault);
      return;
    case "crashAgent":
    case "crashNode":
    case "crashDomain":
    case "leaveNode":
    case "cutLink":
    case "blockade":
    case "blockadeAll":
      strikeNode(sim, fault);
      return;
    case "crashController":
    case "crashLeader":
    case "pauseLeader":
      strikeController(sim, fault);
      return;
    default:
      strikeRest(sim, fault);
  }
}

type FaultOf<K extends SimFault["kind"]> = Extract<SimFault, { kind: K }>;

function strikeRank(
  sim: SimCluster,
  fault: FaultOf<"killRank" | "killTwoRanks" | "stopRank" | "hangRank" | "breakRankNetwork">,
): void {
  const living = sim.livingRanks();
  const victim = living[fault.index % Math.max(1, living.length)];
  if (victim === undefined) return;
  const { agent, rank } = victim;
  switch (fault.kind) {
    case "killTwoRanks": {
      const second = living[(fault.index + 1) % living.length]!;
      if (second.rank !== rank) second.agent.rankDies(second.rank, "SIGKILL");
      agent.rankDies(rank, "SIGKILL");
      return;
    }
    case "killRank":
      agent.rankDies(rank, "SIGKILL");
      return;
    case "breakRankNetwork":
      if (rank.group === null) return;
      rank.group.disturbed = true;
      rank.group.breakOff(rank.rank);
      return;
    case "hangRank":
    case "stopRank": {
      rank.stopped = true;
      rank.unkillable = fault.kind === "hangRank";
      if (rank.group !== null) rank.group.disturbed = true;
      const forMs = fault.kind === "stopRank" ? fault.forMs : null;
      if (forMs !== null) sim.scheduler.after(forMs, () => rank.goOn());
    }
  }
}

function strikeNode(
  sim: SimCluster,
  fault: FaultOf<
    "crashAgent" | "crashNode" | "crashDomain" | "leaveNode" | "cutLink" | "blockade" | "blockadeAll"
  >,
): void {
  if (fault.kind === "blockadeAll") {
    for (const node of sim.nodes) sim.blockade(node.nodeId, fault.way, fault.forMs);
    return;
  }
  const node = sim.nodes[fault.index % sim.nodes.length]!;
  switch (fault.kind) {
    case "crashAgent":
      sim.crashAgent(node, fault.forMs);
      return;
    case "crashNode":
      sim.crashNode(node, fault.forMs);
      return;
    case "crashDomain":
      sim.crashDomain(node, fault.forMs);
      return;
    case "leaveNode":
      sim.leaveNode(node, fault.graceMs, fault.forMs);
      return;
    case "cutLink":
      node.agent?.cutLink();
      return;
    case "blockade":
      sim.blockade(node.nodeId, fault.way, fault.forMs);
  }
}

function strikeController(
  sim: SimCluster,
  fault: FaultOf<"crashController" | "crashLeader" | "pauseLeader">,
): void {
  const victim =
    fault.kind === "crashController" ? sim.controllers[fault.index % sim.controllers.length]! : sim.leader();
  if (victim === null) return;
  if (fault.kind === "pauseLeader") {
    victim.pause(fault.forMs);
    return;
  }
  victim.crash();
  sim.scheduler.after(fault.forMs, () => victim.restart());
}

function strikeRest(
  sim: SimCluster,
  fault: FaultOf<
    "storeFaults" | "cutStore" | "slowNetwork" | "corruptCheckpoint" | "requestSave" | "requestStop"
  >,
): void {
  switch (fault.kind) {
    case "storeFaults":
      sim.store.faultRate = fault.rate;
      sim.scheduler.after(fault.forMs, () => {
        sim.store.faultRate = 0;
      });
      return;
    case "cutStore": {
      const { id } = sim.controllers[fault.index % sim.controllers.length]!;
      sim.store.cutOff.add(id);
      sim.scheduler.after(fault.forMs, () => sim.store.cutOff.delete(id));
      return;
    }
    case "slowNetwork":
      sim.mood.delayMsMax = fault.delayMsMax;
      sim.scheduler.after(fault.forMs, () => {
        sim.mood.delayMsMax = 10;
      });
      return;
    default: {
      const ids = [...sim.jobs.keys()];
      const jobId = ids[fault.index % ids.length]!;
      if (fault.kind === "requestSave") sim.requestSave(jobId);
      else if (fault.kind === "requestStop") sim.requestStop(jobId);
      else {
        const newest = sim.job(jobId).durable.at(-1);
        if (newest !== undefined) newest.corrupt = true;
      }
    }
  }
}
