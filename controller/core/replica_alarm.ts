import type { JobState } from "./state.js";
import { compareStates, sameState, stateText } from "./state_name.js";
import { log, observe, type Turn } from "./turn.js";
import type { Report } from "./wire.js";

/** Training goes on without a newer copy, so a lost node would cost more and more. People hear of each state once. */
export function onReplicaFailed(turn: Turn, job: JobState, report: Report & { kind: "replicaFailed" }): void {
  const { rank, state, keeperNodeId, error } = report;
  if (job.replicaAlarm !== null && sameState(job.replicaAlarm, state)) return;
  job.replicaAlarm = state;
  observe(turn, "goku_replicas_failed_total", 1, { job: job.record.job.name });
  const kept =
    job.replicated === null ? "nothing is replicated yet" : `${stateText(job.replicated)} stays the newest`;
  log(turn, {
    level: "alarm",
    type: "alarm",
    jobId: job.record.jobId,
    nodeId: keeperNodeId,
    text: `copying ${stateText(state)} of rank ${rank} to ${keeperNodeId} failed (${error.code}: ${error.message}); training goes on, ${kept} that survives the loss of a node`,
  });
}

/** Every rank's state of that step of this generation is in two places. */
export function onReplicated(turn: Turn, job: JobState, step: number): void {
  job.replicated = { generation: job.generation!.number, step };
  if (job.replicaAlarm === null || compareStates(job.replicated, job.replicaAlarm) < 0) return;
  job.replicaAlarm = null;
  const text = `copies arrive again: ${stateText(job.replicated)} is replicated`;
  log(turn, { level: "info", type: "alarm", jobId: job.record.jobId, text });
}
