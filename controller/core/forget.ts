import { forgive } from "./avoid.js";
import { durableKeys } from "./contract.js";
import { persist } from "./durable.js";
import { incidentErasure } from "./incident.js";
import type { JobState } from "./state.js";
import type { Turn } from "./turn.js";

/** Ended jobs that people may still ask about; a new leader reads all of them. */
const JOBS_ENDED_MAX = 100;
/** A node silent for longer, without a place in a living job, has gone for good; pods come back under new names. */
const NODE_KEPT_MS = 24 * 3600 * 1000;

/** Erases the jobs that ended first, except those of which a node still holds something. */
export function forgetJobs(turn: Turn): void {
  const { jobs, nodes } = turn.state;
  const held = new Set([...nodes.values()].flatMap((node) => [node.jobId, node.heldJobId]));
  const ended = [...jobs.values()].filter((job) => job.stage === "ended");
  ended.sort((a, b) => a.record.outcome!.atMs - b.record.outcome!.atMs);
  for (const job of ended.slice(0, Math.max(0, ended.length - JOBS_ENDED_MAX))) {
    if (!held.has(job.record.jobId)) forgetJob(turn, job);
  }
}

function forgetJob(turn: Turn, job: JobState): void {
  const { jobId } = job.record;
  turn.state.jobs.delete(jobId);
  const keys = [durableKeys.job(jobId), durableKeys.generation(jobId), durableKeys.checkpoints(jobId)];
  persist(turn, [...keys.map((key) => ({ key, record: null })), ...job.incidents.map(incidentErasure)]);
}

export function forgetNodes(turn: Turn): void {
  const { nodes, jobs, health } = turn.state;
  for (const node of nodes.values()) {
    const wanted = node.jobId !== null && jobs.get(node.jobId)?.record.outcome === null;
    if (node.session !== null || wanted || turn.nowMs - node.heardMs <= NODE_KEPT_MS) continue;
    nodes.delete(node.nodeId);
    health.delete(node.nodeId);
    forgive(turn, node.nodeId, "it has gone for good");
  }
}
