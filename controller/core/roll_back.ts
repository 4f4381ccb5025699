import { jobTraits } from "../../job/command_job.js";
import { ROLL_BACK } from "../../job/left_out.js";
import { checkpointsWrite } from "./checkpoints.js";
import type { RollBackRecord, StateName } from "./contract.js";
import { persist } from "./durable.js";
import { decide } from "./incident.js";
import { jobWrite } from "./jobs.js";
import type { JobState } from "./state.js";
import { observe, type Turn } from "./turn.js";

/**
 * Whether a state belongs to steps that a roll-back has undone: nobody goes on from it, wherever it lies. Those of later
 * generations have left these steps out. Pure.
 */
export function isGivenUp(rollBacks: readonly RollBackRecord[], state: StateName): boolean {
  return rollBacks.some(({ generation, first }) => state.generation <= generation && state.step >= first);
}

/**
 * The ranks have ended their generation at a bad step, to go on from an earlier state. What is undone is durable before the next
 * generation forms, so that every later one, also of another leader, restores an earlier state and leaves out the same steps.
 * Where the step was not told, the ranks come to it again, and to the same end.
 */
export function rollBack(turn: Turn, job: JobState, asked: { first: number; last: number }): void {
  const generation = job.generation!;
  job.numbers.rollBack = null;
  const wanted = asked.first - 1;
  const { last } = asked;
  // A leader that fell before the next generation was durable may have written it.
  const written = job.record.rollBacks.find((each) => each.generation === generation.number);
  const to = written === undefined ? reachable(job, wanted, last) : written.first - 1;
  if (written === undefined) undo(turn, job, { generation: generation.number, first: to + 1, last });
  if (job.replicated !== null && isGivenUp(job.record.rollBacks, job.replicated)) job.replicated = null;
  generation.step = Math.min(generation.step, to);
  job.attempts = 0; // it is the run that was wrong, not an attempt
  const left = to + 1 === last ? `step ${last} is` : `steps ${to + 1} to ${last} are`;
  const less = to === wanted ? "" : `, not to step ${wanted}, since no earlier state is left`;
  decide(turn, job, `go back to step ${to}${less}: ${left} left out`);
}

function undo(turn: Turn, job: JobState, steps: RollBackRecord): void {
  const { first, last } = steps;
  const rollBacks = [...job.record.rollBacks, steps];
  job.record = { ...job.record, rollBacks };
  for (const entry of job.checkpoints) {
    if (isGivenUp(rollBacks, entry.state)) entry.unusable ??= `the run went back to step ${first - 1}`;
  }
  persist(turn, [jobWrite(job), checkpointsWrite(job)]);
  const labels = { job: job.record.job.name, reason: ROLL_BACK };
  observe(turn, "goku_steps_left_out_total", last - first + 1, labels);
}

/** The step to go back to, or the first after it, and before the bad one, from which there is still a way. */
function reachable(job: JobState, step: number, bad: number): number {
  const { source, rollBacks, job: spec } = job.record;
  const usable = job.checkpoints.filter(
    ({ unusable, uri }) => unusable === null && !job.excludedCheckpoints.has(uri),
  );
  const steps = [...usable, ...(source === null ? [] : [source])]
    .filter(({ state }) => !isGivenUp(rollBacks, state))
    .map(({ state }) => state.step)
    .filter((each) => each < bad); // an older generation may have come further
  const oldest = Math.min(...steps);
  if (steps.length === 0 || oldest <= step) return step;
  const everySteps = jobTraits(spec).checkpoint?.every_steps ?? 0;
  // Nothing can have been durable so early: initial values lead there.
  return source === null && step < everySteps ? step : oldest;
}
