import assert from "node:assert/strict";
import { test } from "node:test";
import { jobSchema } from "../../../job/job.js";
import { decideFate, type FateInput } from "../../../worker/rank/decide_fate.js";

const { recovery } = jobSchema.parse({
  name: "j",
  data: { media: "m" },
  train: { steps: 1 },
  checkpoint: { uri: "file:///run" },
});
const SAME = { packs: [], lossRanks: [], normRanks: [], homeRanks: [], loss: null, gradient: null };
const calm: FateInput = {
  step: 200,
  vote: { finite: true },
  bad: null,
  replay: null,
  recovery: { ...recovery, max_bad_steps: 3 },
  leftOut: [],
  badSteps: 0,
};
const notFinite = {
  vote: { finite: false },
  bad: { why: "not_finite", isTaken: false },
  replay: SAME,
} as const;
const spike = { bad: { why: "spike", isTaken: false }, replay: SAME } as const;
const fate = (change: Partial<FateInput>, keys: Partial<FateInput["recovery"]> = {}) =>
  decideFate({ ...calm, ...change, recovery: { ...calm.recovery, ...keys } });

test("decideFate() applies what is in order, and votes down what ranks of a sequence have not read alike", () => {
  assert.deepEqual(fate({}), { kind: "apply" });
  assert.deepEqual(fate({ vote: { finite: false } }), { kind: "skip", why: "unread" });
  assert.deepEqual(fate({ bad: { why: "spike", isTaken: true }, replay: SAME }), { kind: "apply" });
});

test("decideFate() skips as many bad steps in a row as may be, spikes and others together; stop is at the first", () => {
  assert.deepEqual(fate(notFinite), { kind: "skip", why: "not_finite" });
  assert.deepEqual(fate({ ...spike, badSteps: 1 }, { spike: "skip" }), { kind: "skip", why: "spike" });
  assert.deepEqual(fate({ ...spike, badSteps: 2 }, { spike: "skip" }), { kind: "giveUp", why: "spike" });
  assert.deepEqual(fate(notFinite, { bad_step: "stop" }), { kind: "giveUp", why: "not_finite" });
  assert.deepEqual(fate(spike, { spike: "stop" }), { kind: "giveUp", why: "spike" });
});

test("decideFate() rolls back as many steps as it should, each kind by its own key", () => {
  assert.deepEqual(fate(spike, { spike: "roll_back" }), { kind: "rollBack", to: 100 });
  assert.deepEqual(fate(notFinite, { bad_step: "roll_back", roll_back_steps: 7 }), {
    kind: "rollBack",
    to: 193,
  });
  assert.deepEqual(fate(notFinite, { spike: "roll_back" }), { kind: "skip", why: "not_finite" });
  assert.deepEqual(fate({ ...spike, step: 30 }, { spike: "roll_back" }), { kind: "rollBack", to: 0 });
});

test("decideFate() goes further back for trouble that comes again, and gives up in the end", () => {
  const first = { first: 191, last: 200, why: "roll_back" } as const;
  const keys = { spike: "roll_back", roll_back_steps: 10, max_roll_backs: 2 } as const;
  const leftOut = [first];
  assert.deepEqual(fate({ ...spike, step: 201, leftOut }, keys), { kind: "rollBack", to: 181 });
  const both = [first, { first: 182, last: 201, why: "roll_back" } as const];
  assert.deepEqual(fate({ ...spike, step: 205, leftOut: both }, keys), { kind: "giveUp", why: "spike" });
  assert.deepEqual(fate({ ...spike, step: 400, leftOut: both }, keys), { kind: "rollBack", to: 390 });
});

test("decideFate() never rolls back for hardware", () => {
  for (const ranks of [{ lossRanks: [1] }, { normRanks: [1] }, { homeRanks: [1] }]) {
    const replay = { ...SAME, ...ranks };
    assert.deepEqual(fate({ ...spike, replay }, { spike: "roll_back" }), { kind: "skip", why: "spike" });
  }
});
