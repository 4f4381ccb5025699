import type { StepCompleted, SpikeNews as WireNews } from "../../gen/goku/v1/agent.pb.js";
import { isCommandJob } from "../../job/command_job.js";
import { ROLL_BACK } from "../../job/left_out.js";
import {
  GRADIENT_FACTOR,
  LOSS_FACTOR,
  type NumbersSeen,
  nothingSeen,
  type SpikeNews,
  watchSpikes,
} from "../../job/spikes.js";
import { avoid } from "./avoid.js";
import { doubt } from "./doubt.js";
import { type BadStepVerdict, judgeBadStep, spikeText } from "./judge_bad_step.js";
import { onFiniteAgain } from "./not_finite.js";
import { replaceFirst } from "./replace_node.js";
import type { GenerationPlaces, JobState } from "./state.js";
import { log, observe, type Turn } from "./turn.js";

/** What a job's steps told of their numbers so far. */
export interface NumbersWatch {
  /** Last step looked at: one that is computed again after a failure tells nothing new. */
  stepLast: number;
  /** Of a program of its own; ranks that train our model look at theirs before they apply them. */
  seen: NumbersSeen;
  /** Of the bad steps in a row that the present generation did last, newest last. */
  bad: BadStepVerdict[];
  /** What the present generation has ended for; null: nothing of that kind. */
  rollBack: { first: number; last: number } | null;
  /** Where a job whose packs no other rank can compute was not finite already. */
  notFiniteOn: string[];
}

export function createNumbers(): NumbersWatch {
  return { stepLast: 0, seen: nothingSeen(), bad: [], rollBack: null, notFiniteOn: [] };
}

/**
 * Looks at the numbers of a completed step: people hear of one that was bad, with what computing it again has shown, and what
 * becomes of it. A node whose hardware was wrong is replaced where one is free, and examined before anybody else gets it.
 * @param places of the step's generation, which may be over
 */
export function onNumbers(turn: Turn, job: JobState, step: StepCompleted, places: GenerationPlaces): void {
  const { numbers } = job;
  const number = Number(step.step);
  const { rollBack } = step;
  if (rollBack !== undefined && places.number === job.generation!.number)
    numbers.rollBack = { first: Number(rollBack.first), last: Number(rollBack.last) };
  if (number <= numbers.stepLast) {
    if (rollBack !== undefined) noteBad(job, step, places); // its end is told anew
    return;
  }
  numbers.stepLast = number;
  onBadStep(turn, job, step, places);
  if (step.leftOut !== "" && step.leftOut !== ROLL_BACK)
    observe(turn, "goku_steps_left_out_total", 1, { job: job.record.job.name, reason: step.leftOut });
  const news = isCommandJob(job.record.job) ? programNews(numbers.seen, step) : rankNews(step);
  tellSpike(turn, job, `loss of step ${number}`, "loss_spike", news.loss);
  tellSpike(turn, job, `gradient norm of step ${number}`, "gradient_spike", news.gradient);
  if (step.applied) onFiniteAgain(turn, job);
}

interface News {
  loss: SpikeNews | null;
  gradient: SpikeNews | null;
}

function programNews(seen: NumbersSeen, { loss, gradNorm }: StepCompleted): News {
  return {
    loss: loss === undefined ? null : watchSpikes(seen.loss, loss, LOSS_FACTOR),
    gradient: gradNorm === undefined ? null : watchSpikes(seen.gradient, gradNorm, GRADIENT_FACTOR),
  };
}

/** That one begins is told with what computing the step again has shown. */
function rankNews({ loss, gradNorm, lossSpike, gradientSpike }: StepCompleted): News {
  return { loss: readNews(lossSpike, loss), gradient: readNews(gradientSpike, gradNorm) };
}

function readNews(news: WireNews | undefined, value = Number.NaN): SpikeNews | null {
  const kind = news?.kind;
  return kind === undefined || kind.$case === "begins"
    ? null
    : { kind: kind.$case, value, steps: kind.value };
}

function noteBad(job: JobState, step: StepCompleted, places: GenerationPlaces): BadStepVerdict | null {
  const verdict = judgeBadStep(step, places);
  if (verdict !== null && places.number === job.generation!.number) job.numbers.bad.push(verdict);
  return verdict;
}

function onBadStep(turn: Turn, job: JobState, step: StepCompleted, places: GenerationPlaces): void {
  const verdict = noteBad(job, step, places);
  if (verdict === null) return;
  const { cause, rank, nodeId, text } = verdict;
  const { jobId, job: spec } = job.record;
  const level = cause === "hardware" ? "alarm" : "warning";
  log(turn, { level, type: "numbers", jobId, nodeId, text });
  for (const kind of verdict.kinds) observe(turn, "goku_bad_steps_total", 1, { job: spec.name, kind });
  if (nodeId === null) return;
  const who = rank === null ? nodeId : `rank ${rank} on ${nodeId}`;
  const what = `${who} computed step ${step.step} wrong`;
  doubt(turn, nodeId, what);
  if (replaceFirst(turn, job, [{ nodeId, rank, code: "RANK_CORRUPT", what, evidence: text }])) return;
  avoid(turn, job, nodeId, what);
  const later = `no free node can take the ranks of ${nodeId} at present: it is avoided from the next generation on`;
  log(turn, { level: "warning", type: "numbers", jobId, nodeId, text: later });
}

function tellSpike(turn: Turn, job: JobState, what: string, kind: string, news: SpikeNews | null): void {
  if (news === null) return;
  const { jobId, job: spec } = job.record;
  if (news.kind === "begins") observe(turn, "goku_bad_steps_total", 1, { job: spec.name, kind });
  const level = news.kind === "ends" ? "info" : "warning";
  log(turn, { level, type: "numbers", jobId, text: `${what} ${newsText(news)}` });
}

function newsText(news: SpikeNews): string {
  switch (news.kind) {
    case "begins":
      return `is ${spikeText(news)}`;
    case "ends":
      return `is ${news.value.toPrecision(4)}: back after ${news.steps} ${news.steps === 1 ? "step" : "steps"}`;
    case "stays":
      return `is as high as for ${news.steps} steps now: taken as the new level`;
  }
}
