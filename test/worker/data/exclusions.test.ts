import assert from "node:assert/strict";
import { test } from "node:test";
import { EXCLUSIONS_MAX } from "../../../job/exclusion.js";
import { Exclusions } from "../../../worker/data/exclusions.js";

test("Exclusions keeps the first step of each sample", () => {
  const exclusions = new Exclusions();
  assert.equal(exclusions.add({ sample: 7, step: 2 }), true);
  assert.equal(exclusions.add({ sample: 7, step: 9 }), false);
  assert.deepEqual(exclusions.list(), [{ sample: 7, step: 2 }]);
});

test("Exclusions takes over the record of a state, and tells whether a sample takes part again", () => {
  const exclusions = new Exclusions();
  exclusions.add({ sample: 7, step: 2 });
  assert.equal(
    exclusions.replace([
      { sample: 7, step: 2 },
      { sample: 3, step: 4 },
    ]),
    false,
  );
  assert.equal(exclusions.replace([{ sample: 3, step: 4 }]), true);
  assert.deepEqual([exclusions.has(7), exclusions.has(3)], [false, true]);
});

test("Exclusions refuses more than fit a state, and says what to do", () => {
  const exclusions = new Exclusions();
  for (let sample = 0; sample < EXCLUSIONS_MAX; sample++) exclusions.add({ sample, step: 1 });
  exclusions.add({ sample: 0, step: 2 });
  assert.throws(() => exclusions.add({ sample: EXCLUSIONS_MAX, step: 2 }), {
    code: "DATA_UNREADABLE",
    message: /10000 cannot be read, repair the data set/,
  });
});
