import assert from "node:assert/strict";
import { test } from "node:test";
import { groupPoints } from "../../../controller/web/group_points.js";
import { addPoint, mergePoints, type Point } from "../../../controller/web/merge_curves.js";

const point = (step: number, loss: number, steps = 1): Point => ({
  ...{ step, steps, loss, time: "", grad_norm: null, learning_rate: null, tokens: 10 * steps },
  ...{ step_seconds: steps, compute_seconds: 0, comm_wait_seconds: 0, data_wait_seconds: 0 },
  ...{ snapshot_seconds: 0, pack_fill: 1, voted_down: 0 },
});
const losses = (points: readonly Point[]) => points.map(({ step, loss }) => [step, loss]);

test("mergePoints(): a new controller knows only the steps since it leads; what was on show stays", () => {
  const shown = [point(1, 9), point(2, 8), point(3, 7)];
  assert.deepEqual(losses(mergePoints(shown, [point(3, 6), point(4, 5)])), [
    [1, 9],
    [2, 8],
    [3, 6],
    [4, 5],
  ]);
  assert.deepEqual(losses(mergePoints(shown, [])), losses(shown));
});

test("mergePoints(): steps that came as events while the curves were asked for stay behind them", () => {
  assert.deepEqual(losses(mergePoints([point(5, 1)], [point(4, 2)])), [
    [4, 2],
    [5, 1],
  ]);
});

test("mergePoints(): a run of steps replaces the steps that it covers", () => {
  const shown = [point(1, 9), point(2, 8), point(3, 7), point(4, 6)];
  assert.deepEqual(losses(mergePoints(shown, [point(4, 5, 3)])), [
    [1, 9],
    [4, 5],
  ]);
});

test("addPoint(): a step that is computed again takes the place of its first telling", () => {
  const shown = [point(1, 9), point(2, 8), point(3, 7)];
  assert.deepEqual(losses(addPoint(shown, point(2, 4))), [
    [1, 9],
    [2, 4],
    [3, 7],
  ]);
  assert.deepEqual(losses(addPoint(addPoint([], point(1, 9)), point(2, 8))), losses(shown.slice(0, 2)));
});

test("addPoint(): a page that is open for days keeps a bounded number, the first and the last among them", () => {
  let points: Point[] = [];
  for (let step = 1; step <= 20_000; step++) points = addPoint(points, point(step, step));
  assert.ok(points.length <= 4_000, `${points.length}`);
  assert.deepEqual([points[0]?.step, points.at(-1)?.step], [1, 20_000]);
});

test("groupPoints(): sums stay what they were, in no more groups than asked for", () => {
  const points = Array.from({ length: 1_001 }, (_, i) => point(i + 1, i));
  const groups = groupPoints(points, 100);
  assert.ok(groups.length <= 100, `${groups.length}`);
  assert.equal(
    groups.reduce((sum, { tokens }) => sum + tokens!, 0),
    10_010,
  );
  assert.equal(groups.at(-1)?.step, 1_001);
  assert.deepEqual(groupPoints(points.slice(0, 3), 100), points.slice(0, 3));
});
