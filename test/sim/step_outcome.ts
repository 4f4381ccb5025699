import type { Job } from "../../job/job.js";
import { type LeftOut, ROLL_BACK, rollBackOf, withLeftOut } from "../../job/left_out.js";
import type { NumbersSeen } from "../../job/spikes.js";
import { decideFate, type StepFate } from "../../worker/rank/decide_fate.js";
import { type NumbersNews, noteNumbers } from "../../worker/rank/judge_numbers.js";
import type { TriedStep } from "../../worker/rank/retry_step.js";
import { replayOf } from "../../worker/rank/step_metrics.js";

/** What has become of a step, alike on all ranks. */
export interface StepOutcome {
  step: number;
  tried: TriedStep;
  replay: ReturnType<typeof replayOf>;
  fate: StepFate;
  /** After the step. */
  leftOut: readonly LeftOut[];
  seen: Readonly<NumbersSeen>;
  news: NumbersNews;
}

/** What the loop of a rank makes of the last try at a step, in the order in which it does. */
export function stepOutcome(
  tried: TriedStep,
  before: {
    step: number;
    recovery: Job["recovery"];
    leftOut: readonly LeftOut[];
    seen: Readonly<NumbersSeen>;
    /** Bad steps of this generation right before this one. */
    badSteps: number;
  },
): StepOutcome {
  const { step, recovery, leftOut, badSteps } = before;
  const { vote, bad } = tried;
  const replay = replayOf(tried, before.seen);
  if (rollBackOf(leftOut, step) !== null) {
    const fate = { kind: "skip", why: ROLL_BACK } as const;
    return { step, tried, replay, fate, leftOut, seen: before.seen, news: { loss: null, gradient: null } };
  }
  const fate = decideFate({ step, vote, bad, replay, recovery, leftOut, badSteps });
  const seen = copied(before.seen);
  const news = noteNumbers(seen, vote, fate);
  const after = "why" in fate ? withLeftOut(leftOut, { first: step, last: step, why: fate.why }) : leftOut;
  return { step, tried, replay, fate, leftOut: after, seen, news };
}

function copied({ loss, gradient }: Readonly<NumbersSeen>): NumbersSeen {
  const copy = ({ values, spikes }: NumbersSeen["loss"]) => ({ values: [...values], spikes });
  return { loss: copy(loss), gradient: copy(gradient) };
}
