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

test("TrainingHistory: runs of steps add up to what the steps told, however often they were joined", () => {
  const history = new TrainingHistory();
  for (let i = 1; i <= 5_000; i++)
    history.add({ ...step(i, i), computeSeconds: 0.25, applied: i % 5 > 0 }, i);
  const curves = history.curves();
  const sum = (name: "steps" | "tokens" | "stepSeconds" | "computeSeconds" | "votedDown") =>
    curves.reduce((total, point) => total + point[name], 0);
  assert.deepEqual(
    [sum("steps"), sum("tokens"), sum("stepSeconds"), sum("computeSeconds"), sum("votedDown")],
    [5_000, 500_000, 2_500, 1_250, 1_000],
  );
  assert.deepEqual(curves[0]?.step, 1);
  assert.ok(curves.every((point, i) => i === 0 || point.step > curves[i - 1]!.step));
});

test("TrainingHistory: a step whose loss was not told is no point of the curve", () => {
  const history = new TrainingHistory();
  history.add(step(1, 0.5), 500);
  history.add(StepCompleted.fromPartial({ step: 2n, stepSeconds: 0.5 }), 1_000);
  assert.deepEqual(history.points(), [{ step: 1, loss: 0.5 }]);
});

test("TrainingHistory: the last steps are kept for whoever takes over the record of the run, each as told last", () => {
  const history = new TrainingHistory();
  for (let i = 1; i <= 400; i++) history.add(step(i, 1), i * 10);
  for (let i = 390; i <= 395; i++) history.add(step(i, 2), 5_000 + i);
  const recent = history.recentSteps();
  assert.deepEqual(
    recent.map((each) => Number(each.step)),
    Array.from({ length: 256 }, (_, i) => 145 + i),
  );
  assert.deepEqual(
    recent.filter(({ loss }) => loss === 2).map((each) => Number(each.step)),
    [390, 391, 392, 393, 394, 395],
  );
});

test("TrainingHistory: a job that went far back tells its newest steps, not those with the highest numbers", () => {
  const history = new TrainingHistory();
  for (let i = 1_000; i < 1_300; i++) history.add(step(i, 1), i * 10);
  for (let i = 1; i <= 100; i++) history.add(step(i, 2), 20_000 + i * 10);
  const recent = history.recentSteps().map((each) => Number(each.step));
  assert.equal(recent.length, 256);
  assert.deepEqual(
    recent.slice(0, 100),
    Array.from({ length: 100 }, (_, i) => i + 1),
  );
  assert.deepEqual([recent[100], recent.at(-1)], [1_144, 1_299], "the oldest of the others went");
});

test("TrainingHistory: a step told again is among the newest", () => {
  const history = new TrainingHistory();
  for (let i = 1; i <= 256; i++) history.add(step(i, 1), i * 10);
  history.add(step(1, 2), 5_000);
  history.add(step(257, 1), 5_010);
  const recent = history.recentSteps();
  assert.deepEqual([Number(recent[0]!.step), recent[0]!.loss, Number(recent[1]!.step)], [1, 2, 3]);
});

test("TrainingHistory: knows a telling again, and no step of a later generation or computed again", () => {
  const history = new TrainingHistory();
  const telling = (generation: number, number: number, stepSeconds = 0.5) =>
    StepCompleted.fromPartial({
      generation: BigInt(generation),
      step: BigInt(number),
      stepSeconds,
      applied: true,
    });
  for (let i = 1; i <= 300; i++) history.add(telling(1, i), i * 500);
  assert.deepEqual(
    [1, 299, 300, 301].map((i) => history.knows(telling(1, i))),
    [true, true, true, false],
  );
  assert.equal(history.knows(telling(1, 300, 0.7)), false, "computed again");
  assert.equal(history.knows(telling(2, 290)), false);
  history.add(telling(2, 290), 200_000);
  assert.deepEqual(
    [telling(1, 290), telling(1, 300), telling(2, 290), telling(2, 291)].map((one) => history.knows(one)),
    [true, true, true, false],
  );
});
