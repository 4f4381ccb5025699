import assert from "node:assert/strict";
import { test } from "node:test";
import {
  isLeftOut,
  LEFT_OUT_MAX,
  type LeftOut,
  type LeftOutReason,
  rollBackOf,
  rollBacksInARow,
  stepBack,
  withLeftOut,
} from "../../job/left_out.js";

const entry = (first: number, last = first, why: LeftOutReason = "spike"): LeftOut => ({ first, last, why });
const recordOf = (...entries: LeftOut[]) => entries.reduce<LeftOut[]>(withLeftOut, []);

test("withLeftOut() joins what follows at once for the same reason, keeps roll-backs apart, and adds nothing twice", () => {
  assert.deepEqual(recordOf(entry(3), entry(4), entry(5)), [entry(3, 5)]);
  assert.deepEqual(recordOf(entry(3), entry(4, 4, "not_finite")), [entry(3), entry(4, 4, "not_finite")]);
  const back = [entry(3, 6, "roll_back"), entry(2, 7, "roll_back")];
  assert.deepEqual(recordOf(...back), back);
  assert.deepEqual(recordOf(entry(3), entry(4), entry(4), entry(3), ...back, ...back), [
    entry(3, 4),
    ...back,
  ]);
});

test("withLeftOut() keeps its promise of fitting a header: it refuses one more than there may be", () => {
  const full = Array.from({ length: LEFT_OUT_MAX }, (_, i) => entry(2 * i + 1));
  assert.equal(recordOf(...full).length, LEFT_OUT_MAX);
  assert.equal(
    withLeftOut(full, entry(2 * LEFT_OUT_MAX)).length,
    LEFT_OUT_MAX,
    "the last entry is lengthened",
  );
  assert.throws(() => withLeftOut(full, entry(2 * LEFT_OUT_MAX + 5)), { code: "NOT_FINITE" });
});

test("stepBack() counts steps that changed weights, and the bad one", () => {
  assert.equal(stepBack([], { step: 50, count: 1 }), 49);
  assert.equal(stepBack([], { step: 50, count: 100 }), 0);
  const record = [entry(45, 49, "roll_back"), entry(40)];
  assert.equal(stepBack(record, { step: 50, count: 2 }), 43);
  assert.equal(stepBack(record, { step: 50, count: 6 }), 38);
});

test("rollBacksInARow() counts those that follow one another within the window of the limits", () => {
  const back = (last: number) => entry(last - 3, last, "roll_back");
  assert.equal(rollBacksInARow([], 100), 0);
  assert.equal(rollBacksInARow([back(20), back(60), back(100)], 150), 3);
  assert.equal(rollBacksInARow([back(20), back(60), back(100)], 165), 0);
  assert.equal(rollBacksInARow([back(20), back(90), entry(95)], 150), 1);
  assert.equal(rollBacksInARow([back(200)], 150), 0, "one that is still to come");
});

test("rollBackOf() is what is not computed, isLeftOut() all that changed no weight", () => {
  const record = [entry(3), entry(5, 8, "roll_back")];
  assert.deepEqual(
    [3, 4, 5, 8, 9].map((step) => rollBackOf(record, step) !== null),
    [false, false, true, true, false],
  );
  assert.deepEqual(
    [3, 4, 5, 8, 9].map((step) => isLeftOut(record, step)),
    [true, false, true, true, false],
  );
});
