import type { ErrorCode } from "../../job/errors.js";
import { diagnosePairs, isAtRest } from "./diagnosis.js";
import { isFree } from "./self_checks.js";
import type { JobState } from "./state.js";
import { log, type Turn } from "./turn.js";

/** Generations in a row that came to nothing before the nodes are tried: the first is often chance. */
const ATTEMPTS = 2;
/** What collectives end with that do not get through, or give wrong sums, while all processes live. */
const BETWEEN_NODES: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  "COMM_PEER_DIED",
  "COMM_TIMEOUT",
  "COMM_CHECK_FAILED",
  "RANK_STALLED",
]);
/** Free nodes that take part: of two members that fail with each other it is third ones that tell which. */
const WITNESS_COUNT = 2;
/** A round takes about a second, and most need one or two. */
const PAIRS_MS_MAX = 20_000;

/**
 * What a job waits for that fails again in its collectives, though no process of it has ended and self-checks have found nothing:
 * its nodes try collectives in pairs, once before it gets any further. Which node, or which way between two, is at fault is known then; see
 * docs/self-checks.md. Null: nothing.
 */
export function awaitPairs(turn: Turn, job: JobState): { reason: string; untilMs: number } | null {
  if (job.record.stop !== null) return null; // wants what memory holds saved at once
  const { diagnosis } = turn.state;
  const { jobId, job: spec } = job.record;
  const isUnderWay = diagnosis !== null && diagnosis.stage !== "done";
  if (isUnderWay && diagnosis.jobId !== jobId) return null;
  if (!isUnderWay) {
    const nodeIds = isUnexplained(job) ? pairable(turn, job) : [];
    if (nodeIds.length < 2) return null;
    job.pairedAt = job.stepHighest;
    const { id } = diagnosePairs(turn, jobId, nodeIds);
    const text = `diagnosis ${id}: tries collectives between ${nodeIds.length} nodes, since those of job ${spec.name} fail again and again`;
    log(turn, { level: "warning", type: "node", jobId, text });
  }
  const { startedMs, stage } = turn.state.diagnosis!;
  const untilMs = startedMs + PAIRS_MS_MAX;
  if (stage === "done" || turn.nowMs >= untilMs) return null;
  return { reason: "tries collectives between its nodes in pairs, to find out where they fail", untilMs };
}

function isUnexplained(job: JobState): boolean {
  const { attempts, pairedAt, stepHighest, faults, unconnected } = job;
  if (attempts < ATTEMPTS || pairedAt === stepHighest) return false;
  const isEnded = faults.some(({ source }) => source !== "failed" && source !== "stall");
  return !isEnded && unconnected.size === 0 && faults.some(({ code }) => BETWEEN_NODES.has(code));
}

/** Members, where all of them are well and at rest, and witnesses; empty: they cannot be tried. */
function pairable(turn: Turn, job: JobState): string[] {
  const { nodes, health } = turn.state;
  const { jobId } = job.record;
  const isWell = (nodeId: string) => health.get(nodeId)?.state === "passed";
  const members = [...new Set(job.prior?.rankNodes)].sort();
  const isReady = (nodeId: string) => {
    const node = nodes.get(nodeId);
    return isWell(nodeId) && node !== undefined && isAtRest(turn, node, jobId);
  };
  if (members.length < 2 || !members.every(isReady)) return [];
  const free = [...nodes.values()].filter((node) => isFree(turn, node) && isWell(node.nodeId));
  const witnesses = free.map(({ nodeId }) => nodeId).sort();
  return [...members, ...witnesses.slice(0, WITNESS_COUNT)];
}
