import { jobTraits } from "../../job/command_job.js";
import { avoid } from "./avoid.js";
import { endJob, isOver } from "./jobs.js";
import type { GenerationState, JobState, NodeState } from "./state.js";
import { log, type Turn } from "./turn.js";
import type { Report } from "./wire.js";

/** Nodes told by name. */
const NAMES_MAX = 4;

/**
 * Whether the agents of this generation are to prove that checkpoint.uri is one folder on all of their nodes: only where it is a
 * folder, there are several, and one of them (this process of its agent) has not done so in this job. Pure.
 */
export function wantsProof(job: JobState, generation: GenerationState): boolean {
  const uri = jobTraits(job.record.job).checkpoint?.uri;
  if (uri === undefined || !uri.startsWith("file://") || generation.nodeRanks.size < 2) return false;
  return membersOf(generation).some((member) => !job.sharing.has(member));
}

/** Agent processes of the members. */
function membersOf({ nodeRanks, incarnations }: GenerationState): string[] {
  return [...nodeRanks.keys()].map((nodeId) => memberOf(nodeId, incarnations.get(nodeId)));
}

function memberOf(nodeId: string, incarnation = ""): string {
  return `${nodeId} ${incarnation}`;
}

/**
 * What an agent found. Two nodes that have both written, and neither of which sees the other's file, have two folders: one that
 * was only late would have seen the earlier one's. No checkpoint could ever be whole: a job that has none yet ends in its first generation.
 * A later one goes on, since memory protects it and nodes that do share may come; people are told once of each newcomer, and its next
 * generation does without it if it can.
 */
export function onStorageProof(
  turn: Turn,
  job: JobState,
  node: NodeState,
  report: Report & { kind: "storageProof" },
): void {
  const generation = job.generation!;
  const uri = jobTraits(job.record.job).checkpoint?.uri;
  if (uri === undefined || isOver(job) || generation.proofs.has(node.nodeId)) return;
  generation.proofs.set(node.nodeId, report);
  if (report.error !== "") {
    const text = `${node.nodeId} cannot prove that ${uri} is shared by all nodes: ${report.error}; saves there may fail`;
    log(turn, { level: "warning", type: "checkpoint", jobId: job.record.jobId, nodeId: node.nodeId, text });
  }
  const apart = [...generation.proofs].filter(([other, proof]) => {
    if (!report.written || !proof.written) return false;
    return report.missing.has(other) && proof.missing.has(node.nodeId);
  });
  if (apart.length > 0) {
    const names = apart.map(([other]) => other).sort();
    onApart(turn, job, { node: node.nodeId, others: names, uri });
    return;
  }
  const proofs = [...generation.proofs.values()];
  if (proofs.length < generation.nodeRanks.size || proofs.some(({ missing }) => missing.size > 0)) return;
  for (const member of membersOf(generation)) job.sharing.add(member);
}

function onApart(
  turn: Turn,
  job: JobState,
  { node, others, uri }: { node: string; others: readonly string[]; uri: string },
): void {
  const more = others.length > NAMES_MAX ? ` and ${others.length - NAMES_MAX} more` : "";
  const names = `${others.slice(0, NAMES_MAX).join(", ")}${more}`;
  const seen = `${node} does not see what ${names} wrote there, and is not seen by them`;
  const todo = "mount the same file system there on all nodes, or set checkpoint.uri to s3://BUCKET/PREFIX";
  const why = `Cannot save to ${uri}: it is not one folder on all nodes: ${seen}; ${todo}`;
  // A new leader knows neither who has shared nor how far the job has come: memory may hold hours of it.
  if (job.checkpoints.length === 0 && job.sharing.size === 0 && job.restarts === 0) {
    endJob(turn, job, { phase: "FAILED", code: "STORAGE_NOT_SHARED", reason: why });
    return;
  }
  const generation = job.generation!;
  const isNew = (nodeId: string) => !job.sharing.has(memberOf(nodeId, generation.incarnations.get(nodeId)));
  const newcomers = job.sharing.size > 0 ? [node, ...others].filter(isNew) : [];
  for (const nodeId of newcomers) avoid(turn, job, nodeId, `it does not share ${uri}`);
  // Every other member tells the same of it.
  const about = newcomers.length > 0 ? newcomers : ["all"];
  if (about.every((each) => generation.apart.has(each))) return;
  for (const each of about) generation.apart.add(each);
  const text = `${why}; training goes on, and no later checkpoint becomes whole meanwhile`;
  log(turn, { level: "alarm", type: "alarm", jobId: job.record.jobId, nodeId: node, text });
}
