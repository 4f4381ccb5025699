import assert from "node:assert/strict";
import { test } from "node:test";
import type { StateName } from "../../../checkpoint/state.js";
import { RankStates, type RankStatesOptions } from "../../../worker/agent/rank_states.js";
import { state } from "../../checkpoint/fixtures.js";

/** The states of a node; which of those that it keeps for others is safe, and what its record says, as told one after the other. */
function watched() {
  const safe: StateName[] = [];
  const written: StateName[] = [];
  const options = {
    kept: { keepSafe: (one: StateName) => safe.push(one) },
    replicated: () => written.at(-1) ?? null,
    onReplicated: (one: StateName) => written.push(one),
  };
  return { states: new RankStates(options as unknown as RankStatesOptions), safe, written };
}

test("RankStates has what a vote found in two places written down, once whichever ranks tell it", () => {
  const { states, safe, written } = watched();
  assert.equal(states.kept, null);
  for (const step of [5, 5, 6]) states.confirmed(state(1, step));
  assert.deepEqual(states.kept, state(1, 6));
  assert.deepEqual(written, [state(1, 5), state(1, 6)]);
  assert.deepEqual(safe.at(-1), state(1, 6));
});

test("RankStates keeps copies of what is in two places, not of a newer state that is being restored", () => {
  const { states, safe } = watched();
  states.restoring(state(1, 4));
  states.confirmed(state(1, 5));
  states.restoring(state(1, 7));
  states.restoring(state(2, 3));
  assert.deepEqual(safe, [state(1, 4), state(1, 5), state(1, 5), state(1, 5)]);
});

test("RankStates keeps copies of what is restored where the run goes back before what is in two places", () => {
  const { states, safe } = watched();
  states.confirmed(state(2, 5));
  states.restoring(state(1, 7));
  assert.deepEqual(safe.at(-1), state(1, 7));
});
