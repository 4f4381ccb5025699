import type { LeftOutReason } from "../../job/left_out.js";
import { findSpike, type NumbersSeen } from "../../job/spikes.js";
import type { StepPlan } from "../data/pack_batch.js";
import type { ApplyResult, StepFigures } from "../parallel/step_types.js";
import type { VoteResult } from "../parallel/vote.js";
import type { RollBackSteps, StepMetrics } from "../rank_messages.js";
import type { StepDecision } from "./decide_step.js";
import type { NumbersNews } from "./judge_numbers.js";
import type { Replay } from "./judge_replay.js";
import type { TriedStep } from "./retry_step.js";

/** A multiply-add is two operations, and backward has twice as many of them as forward. */
const FLOPS_PER_FORWARD_PRODUCT = 6;

/** A step that is over, one way or another. */
export interface DoneStep {
  step: number;
  plan: StepPlan;
  vote: VoteResult;
  replay: Replay | null;
  news: NumbersNews;
  /** Why its packs are left out; null: they are not, or it is none of the run. */
  leftOut: LeftOutReason | null;
  rollBack: RollBackSteps | null;
  missed: Pick<StepDecision, "snapshotSkipped" | "savePutOff">;
  applied: ApplyResult;
  dataSeconds: number;
  snapshotSeconds: number;
  stepSeconds: number;
}

/** What the agent is told of a step. */
export function stepMetrics(
  done: DoneStep,
  {
    figures,
    pauseSeconds,
    replicatedStep,
  }: { figures: StepFigures; pauseSeconds: number; replicatedStep: number },
): StepMetrics {
  const { plan, vote, applied, leftOut, news } = done;
  const wasComputed = leftOut !== "roll_back";
  return {
    step: done.step,
    loss: wasComputed ? applied.loss : null,
    gradNorm: wasComputed ? applied.gradNorm : null,
    lr: applied.lr,
    applied: applied.applied,
    tokens: plan.tokens,
    images: plan.images,
    videos: plan.videos,
    stepSeconds: done.stepSeconds,
    computeSeconds: figures.computeSeconds,
    commWaitSeconds: figures.commWaitSeconds,
    dataWaitSeconds: done.dataSeconds,
    snapshotSeconds: done.snapshotSeconds,
    optimizerSeconds: figures.optimizerSeconds,
    waits: figures.waits,
    longestPauseSeconds: pauseSeconds,
    modelFlops: FLOPS_PER_FORWARD_PRODUCT * vote.work,
    completedMs: Date.now(),
    memoryPeakBytes: figures.memoryPeakBytes,
    packFill: plan.fill,
    unreadable: vote.excluded.length,
    replicatedStep,
    replay: done.replay,
    lossSpike: news.loss,
    gradientSpike: news.gradient,
    leftOut,
    rollBack: done.rollBack,
    snapshotSkipped: done.missed.snapshotSkipped,
    savePutOff: done.missed.savePutOff,
  };
}

/** What computing a step again has shown, with what called for it. @param seen before the step */
export function replayOf({ replay, first }: TriedStep, seen: NumbersSeen): Replay | null {
  if (replay === null) return null;
  const found = first.numbersFinite ? findSpike(seen, first) : null;
  const { loss, gradNorm } = first;
  return {
    ...replay,
    loss: found?.loss ? { value: loss, ...found.loss } : null,
    gradient: found?.gradient ? { value: gradNorm, ...found.gradient } : null,
  };
}

/** A step that is not computed. */
export function emptyPlan(step: number): StepPlan {
  return { step, packs: [], sampleCount: 0, tokens: 0, images: 0, videos: 0, fill: 0 };
}
