import type { StateName } from "./contract.js";

/** Newer states are greater: first the generation that computed them, then the step. */
export function compareStates(a: StateName, b: StateName): number {
  return a.generation - b.generation || a.step - b.step;
}

export function sameState(a: StateName, b: StateName): boolean {
  return compareStates(a, b) === 0;
}

/** Key for maps. */
export function stateKey(state: StateName): string {
  return `${state.generation}-${state.step}`;
}

/** For people: "step 40 of generation 3". */
export function stateText(state: StateName): string {
  return `step ${state.step} of generation ${state.generation}`;
}
