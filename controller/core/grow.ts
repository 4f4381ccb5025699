import { mustStop } from "./form.js";
import { membersInput } from "./members.js";
import { planGrowth } from "./plan_members.js";
import { endedAsAsked, reform } from "./recover.js";
import { countFinished } from "./run.js";
import type { GenerationState, JobState } from "./state.js";
import { stateText } from "./state_name.js";
import { armSooner, disarm, jobTimers, log, RECONSIDER_TIMER, sendAll, type Turn } from "./turn.js";
import type { Report } from "./wire.js";

/** Steps that a generation does at least before it gives way to a larger one: what a change costs is small beside them. */
const GROW_STEPS = 20;

/**
 * A job with `layout: auto` that trains takes in nodes that are free, as one that shrank does when its lost node is back:
 * its ranks yield at one vote, with the state whole in memory, keep their processes, and go on in the larger layout.
 * No step is lost, and no checkpoint is read or written. Nodes that come and go cost at most one change in `growMs`.
 */
export function considerGrowth(turn: Turn, job: JobState): void {
  const { generation } = job;
  if (job.stage !== "running" || generation?.stage !== "run" || !generation.hasStepped) return;
  if (generation.yielding || generation.finished !== null || job.incident !== null || mustStop(job)) return;
  if (job.record.job.layout !== "auto") return;
  const { growMs, layoutSettleMs } = turn.state.config.limits;
  const stepMs = job.stepTimesMs.length === 0 ? 0 : Math.min(...job.stepTimesMs);
  const readyMs = Math.max(
    job.formedMs + Math.max(growMs, GROW_STEPS * stepMs),
    turn.state.nodesChangedMs + layoutSettleMs,
  );
  if (turn.nowMs < readyMs) {
    // Looked at once then, not with each of many nodes that come at the same time.
    armSooner(turn, RECONSIDER_TIMER, readyMs);
    return;
  }
  const growth = planGrowth(membersInput(turn, job));
  if (growth === null) return;
  generation.yielding = true;
  const text = `generation ${generation.number} ends at its next vote, to go on as ${growth.layout} instead of ${generation.layout}: ${growth.reason}`;
  log(turn, { level: "info", type: "phase", jobId: job.record.jobId, text });
  requestYield(turn, generation);
}

/** Every node is told, so that one broken stream does not matter. */
export function requestYield(turn: Turn, generation: GenerationState): void {
  sendAll(turn, generation, { $case: "requestYield", value: { generation: BigInt(generation.number) } });
}

/** With the last rank that yielded the next generation forms. */
export function onYielded(turn: Turn, job: JobState, { rank, state }: Report & { kind: "finished" }): void {
  const generation = job.generation!;
  generation.yielding = true;
  generation.step = Math.max(generation.step, state.step);
  countFinished(generation, rank);
  if (generation.reachedCount < generation.layout.worldSize) return;
  disarm(turn, jobTimers.stall(job));
  const { jobId } = job.record;
  const text = `generation ${generation.number} ended with ${stateText(state)} whole in memory, as asked`;
  log(turn, { level: "info", type: "phase", jobId, text });
  endedAsAsked(turn, job);
  reform(turn, job);
}
