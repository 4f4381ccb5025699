import type { StateName } from "./state.js";
import { compareGenerations, sameState } from "./state_json.js";

export interface LineageRecord {
  state: StateName;
  /** What its generation restored before its first step; null: initial values. */
  parent: StateName | null;
}

/** Older first: by generation, then by step. */
export function compareStates(a: StateName, b: StateName): number {
  return compareGenerations(a.generation, b.generation) || a.step - b.step;
}

/**
 * The records that the newest state of the highest generation descends from, itself first. A run that was resumed from
 * an older checkpoint leaves newer ones of its former line behind: they hold higher steps, and must not be taken for the
 * newest state. Pure.
 *
 * Within a generation every state descends from those before it. Its first state descends from `parent`, which may be a
 * snapshot that never became durable, of a generation without any record; the walk then goes on with the newest record
 * that is not above that parent.
 */
export function currentLine<R extends LineageRecord>(records: readonly R[]): R[] {
  const newestFirst = [...records].sort((a, b) => compareStates(b.state, a.state));
  const line: R[] = [];
  let limit: StateName | null = newestFirst[0]?.state ?? null;
  while (limit !== null) {
    const bound: StateName = limit;
    const next = newestFirst.find(({ state }) => isWithin(state, bound));
    if (next === undefined) break;
    const generation = next.state.generation;
    const members = newestFirst.filter(
      ({ state }) => state.generation === generation && isWithin(state, bound),
    );
    line.push(...members);
    const { parent } = members.at(-1)!;
    // A parent of the same or a higher generation is no parent; without this a hostile record could make a circle.
    limit = parent !== null && compareGenerations(parent.generation, generation) < 0 ? parent : null;
  }
  return line;
}

/** Whether a state can lie at or before `bound`: no later generation, no later step. */
function isWithin(state: StateName, bound: StateName): boolean {
  return compareGenerations(state.generation, bound.generation) <= 0 && state.step <= bound.step;
}

export function onLine(line: readonly LineageRecord[], state: StateName): boolean {
  return line.some((record) => sameState(record.state, state));
}
