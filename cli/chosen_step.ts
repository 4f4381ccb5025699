import { splitCheckpointUri } from "../checkpoint/load.js";
import { GokuError } from "../job/errors.js";
import { wholeNumber } from "./read_options.js";

/** Help of `--step`. */
export const STEP = "that step instead of the newest";

export interface StepOption {
  step?: string;
}

/**
 * The step that `--step` names; null: the newest, or that of the folder. Throws ARGUMENT_INVALID where it is no step, or the
 * folder is one checkpoint of another.
 */
export function chosenStep(dir: string, options: StepOption): number | null {
  if (options.step === undefined) return null;
  const step = wholeNumber("--step", options.step);
  const folder = splitCheckpointUri(dir).step;
  if (folder === null || folder === step) return step;
  throw new GokuError(
    "ARGUMENT_INVALID",
    `Cannot read --step: found ${step}, but ${dir} is the checkpoint of step ${folder}, want the folder of the run`,
  );
}
