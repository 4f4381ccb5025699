import { GokuError } from "../../job/errors.js";
import type { Job } from "../../job/job.js";
import type { LeftOutReason } from "../../job/left_out.js";

/** The run ends since its numbers are bad as often as the job allows; the state of the last step is durable. Pure. */
export function gaveUp(options: {
  job: Pick<Job, "recovery">;
  step: number;
  why: LeftOutReason;
  /** Bad steps in a row, that one the last. */
  count: number;
}): GokuError {
  const { job, step, why, count } = options;
  const { recovery } = job;
  const isSpike = why === "spike";
  const which = count === 1 ? `step ${step} are` : `steps ${step - count + 1} to ${step} are`;
  const found = isSpike ? "far above those before" : "not finite";
  const policy = isSpike ? recovery.spike : recovery.bad_step;
  const allowed =
    policy === "roll_back" && count < recovery.max_bad_steps
      ? `the run was rolled back ${recovery.max_roll_backs} times right before`
      : `${policy === "stop" ? 1 : recovery.max_bad_steps} in a row may be`;
  return new GokuError(
    isSpike ? "NUMBERS_SPIKED" : "NOT_FINITE",
    `Cannot go on training: losses or gradients of ${which} ${found}, also when computed again, and ${allowed}; the state of step ${step} is saved with the weights from before: resume with other settings, for example a lower optimizer.lr`,
  );
}
