import assert from "node:assert/strict";
import { test } from "node:test";
import { TrainingHistory } from "../../../controller/shell/training_history.js";
import { StepCompleted } from "../../../gen/goku/v1/agent.pb.js";

const step = (number: number, loss: number) =>
  StepCompleted.fromPartial({ step: BigInt(number), loss, tokens: 100n, stepSeconds: 0.5, applied: true });

test("TrainingHistory: pace and totals of steady steps", () => {
  const history = new TrainingHistory();
  assert.equal(history.pace(), null);
  for (let i = 1; i <= 30; i++) history.add(step(i, 1 / i), i * 500);
  assert.deepEqual(history.pace(), { tokensPerSecond: 200, secondsPerStep: 0.5 });
  assert.equal(history.tokensTotal, 3000);
});

test("TrainingHistory: a step computed again replaces its loss and counts its tokens once", () => {
  const history = new TrainingHistory();
  for (const number of [1, 2, 3, 2, 3, 4]) history.add(step(number, number / 10), number * 500);
  assert.equal(history.tokensTotal, 400);
  assert.deepEqual(
    history.points().map((p) => p.step),
    [1, 2, 3, 4],
  );
});

test("TrainingHistory: the pause of a recovery is no pace", () => {
  const history = new TrainingHistory();
  for (let i = 1; i <= 5; i++) history.add(step(i, 1), i * 500);
  history.add(step(6, 1), 60_000);
  assert.equal(history.pace(), null);
  history.add(step(7, 1), 60_500);
  assert.equal(history.pace()?.secondsPerStep, 0.5);
});

test("TrainingHistory: a long run keeps at most a thousand points, first and last among them", () => {
  const history = new TrainingHistory();
  for (let i = 1; i <= 25_000; i++) history.add(step(i, i), i * 10);
  const points = history.points();
  assert.ok(points.length <= 1001, `${points.length} points`);
  assert.ok(points.length > 400, `${points.length} points`);
  assert.equal(points[0]?.step, 1);
  assert.equal(points.at(-1)?.step, 25_000);
});
