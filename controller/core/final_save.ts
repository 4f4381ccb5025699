import { jobTraits } from "../../job/command_job.js";
import { mustStop } from "./form.js";
import { faultOf, lostFaults } from "./judge_fault.js";
import type { RankSighting } from "./localise_stall.js";
import { reportFaults } from "./recover.js";
import type { JobState } from "./state.js";
import { arm, heardMs, isInSight, jobTimers, silenceMs, type Turn } from "./turn.js";

/**
 * Whether the last steps are done, or a stop was asked for, and every rank that can be seen waits for its agent to save. Who asked
 * for it may be an earlier leader, because of a node that leaves, or such a node alone: ranks that have finished tell.
 */
export function awaitsFinalSave(job: JobState, sightings: readonly RankSighting[]): boolean {
  const { stepsTotal } = jobTraits(job.record.job);
  const isDone = stepsTotal !== null && job.generation!.step >= stepsTotal;
  const isEnding = mustStop(job) || isDone || sightings.some(({ page }) => page?.phase === "finished");
  return isEnding && sightings.every(({ page }) => page === null || SAVING.has(page.phase));
}
const SAVING: ReadonlySet<string> = new Set(["snapshot", "finished"]);

/**
 * While agents make the last state durable, nobody misses a lost node in a collective, and the commit waits for what that
 * node was writing. It may be writing still: it is given the grace for lost nodes. Agents that can be seen may take long.
 * @param limitMs how long a running generation may show no change
 */
export function checkFinalSave(turn: Turn, job: JobState, limitMs: number): void {
  const generation = job.generation!;
  const { nowMs, state } = turn;
  const graceMs = Math.max(1000 * job.record.job.recovery.node_grace_seconds, limitMs);
  const lostAtMs = new Map<string, number>();
  for (const nodeId of [...generation.nodeRanks.keys()].sort()) {
    if (isInSight(turn, nodeId)) continue;
    lostAtMs.set(nodeId, heardMs(turn, nodeId) + graceMs);
  }
  const lost = [...lostAtMs].flatMap(([nodeId, atMs]) => (nowMs >= atMs ? [nodeId] : []));
  if (lost.length > 0) {
    const text = `was not heard for ${graceMs / 1000} s while the last state was made durable`;
    reportFaults(
      turn,
      job,
      lostFaults(nowMs, lost, (nodeId) => `${nodeId} ${text}`),
    );
    return;
  }
  const { finalSaveMs } = state.config.limits;
  if (lostAtMs.size > 0 || nowMs < generation.changedLastMs + finalSaveMs) {
    arm(turn, jobTimers.stall(job), Math.min(nowMs + silenceMs(turn), ...lostAtMs.values()));
    return;
  }
  const text = `the last state was not made durable in ${finalSaveMs / 1000} s`;
  const fault = { atMs: nowMs, source: "stall", code: "RANK_STALLED", remedy: "ask", text } as const;
  reportFaults(turn, job, [faultOf(fault)]);
}
