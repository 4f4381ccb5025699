import { GokuError } from "../../job/errors.js";
import { EXCLUSIONS_MAX, type Exclusion } from "../../job/exclusion.js";

/**
 * The samples that a run leaves out for good, each with the first step without it. Part of the training state: equal on all
 * ranks, since only votes add to it.
 */
export class Exclusions {
  private steps = new Map<number, number>(); // by entry of the data index

  /** Takes over the record of a state. True: a sample that was left out takes part again. */
  replace(record: readonly Exclusion[]): boolean {
    const before = this.steps;
    this.steps = new Map(record.map(({ sample, step }) => [sample, step]));
    return [...before.keys()].some((sample) => !this.steps.has(sample));
  }

  /** True when it is new. @throws GokuError DATA_UNREADABLE when there is no room for one more */
  add({ sample, step }: Exclusion): boolean {
    if (this.steps.has(sample)) return false;
    if (this.steps.size === EXCLUSIONS_MAX) {
      throw new GokuError(
        "DATA_UNREADABLE",
        `Cannot leave out more samples in step ${step}: ${EXCLUSIONS_MAX} cannot be read, repair the data set and resume from the last checkpoint`,
      );
    }
    this.steps.set(sample, step);
    return true;
  }

  has(sample: number): boolean {
    return this.steps.has(sample);
  }

  list(): Exclusion[] {
    return [...this.steps].map(([sample, step]) => ({ sample, step }));
  }
}
