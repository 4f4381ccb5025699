import { mustStop, requestStop, sendPhase } from "./form.js";
import { faultOf, lostFaults } from "./judge_fault.js";
import { pressToSave } from "./leave.js";
import { lostRanks } from "./nodes.js";
import { reportFaults } from "./recover.js";
import { onPages, startRunning } from "./run.js";
import type { JobState, NodeState } from "./state.js";
import { arm, isReachable, jobTimers, silenceMs, type Turn } from "./turn.js";
import type { NodeHello, RankPage } from "./wire.js";

/** Phases of the page that only a generation told to run can show. */
const TRAINING = new Set([
  "data",
  "forward",
  "backward",
  "reduce",
  "vote",
  "optimizer",
  "snapshot",
  "finished",
  "program",
]);

/**
 * A new leader and a generation that it did not form. Nobody is disturbed: the record says that it ran, or one rank
 * seen training proves that all had restored the same state, so the generation runs, and those who have not re-homed
 * yet are its members. Only what the agents themselves report missing, or a generation found half formed, is recovered.
 */
export function adoptMember(turn: Turn, job: JobState, node: NodeState, hello: NodeHello): void {
  const generation = job.generation!;
  const gone = lostRanks(turn, job, generation, node, hello);
  if (gone.length > 0) {
    reportFaults(turn, job, gone);
    return;
  }
  generation.incarnations.set(node.nodeId, node.incarnation);
  if (job.stage === "running" || hello.pages.some((page) => isTraining(page, generation.number))) {
    adoptRunning(turn, job);
    return;
  }
  // All are here and none trains: unless their next pages say otherwise, it was never told to.
  const soonMs = turn.nowMs + 2 * turn.state.config.limits.heartbeatMs;
  if (generation.incarnations.size === generation.nodeRanks.size) arm(turn, jobTimers.stage(job), soonMs);
}

/** Its members train: it is ours as it is. Run is repeated, for a member that the old leader did not reach. */
export function adoptRunning(turn: Turn, job: JobState): void {
  const generation = job.generation!;
  startRunning(turn, job);
  for (const nodeId of generation.incarnations.keys()) {
    const node = turn.state.nodes.get(nodeId);
    if (node !== undefined) onPages(turn, job, node, node.pages);
    sendPhase(turn, job, node);
  }
  if (mustStop(job)) requestStop(turn, generation);
  pressToSave(turn, job);
}

/** Time to re-home is over and nobody was seen training. */
export function checkAdoption(turn: Turn, job: JobState): void {
  const generation = job.generation!;
  const graceMs = 1000 * job.record.job.recovery.node_grace_seconds;
  const silent = [...generation.nodeRanks.keys()].filter(
    (id) => !isReachable(turn, turn.state.nodes.get(id)),
  );
  const nobody = silent.length === generation.nodeRanks.size;
  const electedMs = turn.state.leader!.electedMs;
  if (nobody && turn.nowMs < electedMs + graceMs) {
    arm(turn, jobTimers.stage(job), Math.min(electedMs + graceMs, turn.nowMs + silenceMs(turn)));
    return;
  }
  abandon(turn, job, silent);
}

function abandon(turn: Turn, job: JobState, silent: readonly string[]): void {
  const { number } = job.generation!;
  const faults = lostFaults(turn.nowMs, silent, (nodeId) => `${nodeId} did not come back to the new leader`);
  const text = `the new leader found generation ${number} half formed`;
  const half = { atMs: turn.nowMs, source: "deadline", code: "COMM_ABORTED", text } as const;
  reportFaults(turn, job, faults.length > 0 ? faults : [faultOf(half)]);
}

/** A rank that is still leaving older work shows that work's page: it proves nothing about this generation. */
export function isTraining(page: RankPage, generation: number): boolean {
  return page.generation === generation && TRAINING.has(page.phase);
}

/** A later heartbeat shows what Hello did not. */
export function onAdoptedPages(turn: Turn, job: JobState, pages: readonly RankPage[]): void {
  const generation = job.generation!;
  if (generation.stage !== "adopt" || (job.stage !== "forming" && job.stage !== "running")) return;
  if (pages.some((page) => isTraining(page, generation.number))) adoptRunning(turn, job);
}
