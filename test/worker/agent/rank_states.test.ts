import assert from "node:assert/strict";
import { test } from "node:test";
import type { StateName } from "../../../checkpoint/state.js";
import { RankStates, type RankStatesOptions } from "../../../worker/agent/rank_states.js";
import { state } from "../../checkpoint/fixtures.js";

/** The states of a node, and which of those that it keeps for others is safe, as it was told one after the other. */
function watched() {
  const safe: StateName[] = [];
  const kept = { keepSafe: (one: StateName) => safe.push(one) };
  return { states: new RankStates({ kept } as unknown as RankStatesOptions), safe };
}

test("RankStates knows at once what a vote found in two places, and forgets it with the job", () => {
  const { states, safe } = watched();
  assert.equal(states.kept, null);
  states.confirmed(state(1, 5));
  assert.deepEqual([states.kept, safe], [state(1, 5), [state(1, 5)]]);
  states.forget();
  assert.equal(states.kept, null);
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
