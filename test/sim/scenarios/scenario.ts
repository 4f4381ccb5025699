import assert from "node:assert/strict";
import { SimCluster, type SimJobOptions, type SimOptions } from "../sim_cluster.js";

export const JOB = "job-j";
export const FOUR = { dp_replicate: 1, dp_shard: 2, sp: 2 };

/** A cluster whose one job has done `steps` steps: four ranks on n00 and n01 unless told otherwise. */
export async function trained(
  steps: number,
  options: Partial<SimOptions> = {},
  job: Partial<SimJobOptions> = {},
): Promise<SimCluster> {
  const sim = new SimCluster({ seed: 7, nodes: 4, ...options });
  sim.submit({ name: "j", layout: FOUR, steps: 60, ...job });
  await sim.until(() => sim.stepOf(JOB) >= steps);
  return sim;
}

export async function finishes(sim: SimCluster): Promise<void> {
  await sim.until(() => sim.allOver);
  assert.equal(sim.record(JOB)!.outcome?.phase, "COMPLETED", sim.status());
}

export async function recovers(sim: SimCluster): Promise<void> {
  await sim.until(() => sim.incidents(JOB)[0]?.outcome === "recovered");
}

export const generation = (sim: SimCluster) => sim.groupOf(JOB)!.generation;
/** The processes of its ranks. */
export const pids = (sim: SimCluster) =>
  sim.groupOf(JOB)!.members.map((m) => `${m!.agent.incarnation}/${m!.rank.pid}`);
/** Newest state of the job's generation that its ranks have agreed to be in two places. */
export const replicated = (sim: SimCluster) => sim.groupOf(JOB)!.replicated!;
/** Step that the newest generation has restored. */
export const resumed = (sim: SimCluster) => [...sim.groupOf(JOB)!.restored.values()][0]!.step;
/** Nodes that have its ranks. */
export const members = (sim: SimCluster) => [
  ...new Set(sim.groupOf(JOB)!.members.map((m) => m!.agent.node.nodeId)),
];
export const decisions = (sim: SimCluster) =>
  sim
    .incidents(JOB)
    .flatMap((incident) => incident.decisions.map((d) => d.text))
    .join("; ");
