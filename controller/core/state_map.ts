import type { StateName } from "./contract.js";

/** A map by state name. No text is made to look one up: there is a lookup for every snapshot of a large cluster. */
export class StateMap<T> {
  readonly #generations = new Map<number, Map<number, T>>();
  readonly #values: T[] = [];

  /** In the order in which they were made. */
  values(): readonly T[] {
    return this.#values;
  }

  /** What is there for that state; made now if nothing is. */
  of({ generation, step }: StateName, make: () => T): T {
    let steps = this.#generations.get(generation);
    if (steps === undefined) {
      steps = new Map();
      this.#generations.set(generation, steps);
    }
    let value = steps.get(step);
    if (value === undefined) {
      value = make();
      steps.set(step, value);
      this.#values.push(value);
    }
    return value;
  }
}
