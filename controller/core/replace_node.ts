import type { ErrorCode } from "../../job/errors.js";
import { avoid } from "./avoid.js";
import { faultOf } from "./judge_fault.js";
import { drain } from "./leave.js";
import { membersInput } from "./members.js";
import type { JobState } from "./state.js";
import type { Turn } from "./turn.js";

/** A member that is to give its ranks to another node, and why. */
export interface Unwanted {
  nodeId: string;
  /** World rank named; null: the node. */
  rank: number | null;
  code: ErrorCode;
  /** Headline of the incident. */
  what: string;
  evidence: string;
}

/**
 * Ends the generation at its next vote, with a durable checkpoint, so that a free node takes the place of the first of these for
 * which there is one; nothing is computed twice. From then on the job avoids the node. False: nothing is free, or the generation is
 * ending anyway.
 */
export function replaceFirst(turn: Turn, job: JobState, unwanted: readonly Unwanted[]): boolean {
  const generation = job.generation!;
  if (job.stage !== "running" || generation.stage !== "run" || job.record.stop !== null) return false;
  if (generation.draining.size > 0 || generation.finished !== null) return false;
  const { nodes, avoid: avoided } = membersInput(turn, job);
  const free = nodes.filter(({ nodeId }) => !generation.nodeRanks.has(nodeId) && !avoided.has(nodeId));
  const found = unwanted.find(({ nodeId }) => {
    const taken = generation.nodeRanks.get(nodeId)?.length ?? Number.POSITIVE_INFINITY;
    return free.some(({ slots }) => slots >= taken);
  });
  const node = turn.state.nodes.get(found?.nodeId ?? "");
  if (found === undefined || node === undefined) return false;
  const { nodeId, rank, code, what, evidence } = found;
  avoid(turn, job, nodeId, what);
  const untilMs = turn.nowMs + turn.state.config.limits.finalSaveMs;
  const fault = faultOf({ atMs: turn.nowMs, source: "leaving", code, rank, nodeId, text: what });
  drain(turn, job, node, { untilMs, fault, evidence, without: nodeId });
  return true;
}
