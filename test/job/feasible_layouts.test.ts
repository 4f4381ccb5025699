import assert from "node:assert/strict";
import { test } from "node:test";
import { feasibleLayouts } from "../../job/feasible_layouts.js";

const names = (options: Parameters<typeof feasibleLayouts>[0]) => feasibleLayouts(options).map(String);

test("feasibleLayouts() has every way to divide the ranks, fewest replicas and shortest sequences first", () => {
  assert.deepEqual(names({ nodes: 1, slots: 4, heads: 4 }), [
    "1x4x1",
    "1x2x2",
    "1x1x4",
    "2x2x1",
    "2x1x2",
    "4x1x1",
  ]);
});

test("feasibleLayouts() keeps sequences inside a node, and a head for every rank", () => {
  assert.deepEqual(names({ nodes: 2, slots: 2, heads: 4 }), ["1x4x1", "1x2x2", "2x2x1", "2x1x2", "4x1x1"]);
  assert.deepEqual(names({ nodes: 1, slots: 3, heads: 2 }), ["1x3x1", "3x1x1"]);
});
