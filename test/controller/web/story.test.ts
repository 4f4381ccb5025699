import assert from "node:assert/strict";
import { test } from "node:test";
import type { Checkpoint, Incident, Job } from "../../../controller/web/answers.js";
import type { Point } from "../../../controller/web/merge_curves.js";
import { storyOf } from "../../../controller/web/story.js";

const run = (id: string) => ({ id, name: "shapes" }) as Job;
const point = (step: number, loss: number) => ({ step, loss, steps: 1 }) as Point;
const incident = (step_before: number, what: string) => ({ step_before, what }) as Incident;
const checkpoint = (step: number, generation: number) =>
  ({ step, generation, uri: `file:///run/checkpoint-${step}`, unusable: null }) as Checkpoint;

test("storyOf(): a run that was resumed goes on where the one before was left, and both are told", () => {
  const story = storyOf([run("a"), run("b")], {
    curves: new Map([
      ["a", [point(1, 9), point(2, 8), point(3, 7)]],
      ["b", [point(3, 6), point(4, 5)]],
    ]),
    incidents: new Map([["a", [incident(1, "rank 3 died")]]]),
    checkpoints: new Map([
      ["a", [checkpoint(2, 1)]],
      ["b", [checkpoint(2, 1), checkpoint(4, 2)]],
    ]),
  });
  assert.deepEqual(
    story.points.map(({ step, loss }) => [step, loss]),
    [
      [1, 9],
      [2, 8],
      [3, 6],
      [4, 5],
    ],
  );
  assert.deepEqual(
    story.marks.map(({ step, kind, text }) => [step, kind, text]),
    [
      [1, "incident", "rank 3 died"],
      [3, "resume", "run 2 goes on from step 2"],
    ],
  );
  assert.deepEqual(
    story.checkpoints.map(({ step }) => step),
    [4, 2],
    "each once, newest first",
  );
});

test("storyOf(): a run that begins anew has the curves for itself", () => {
  const story = storyOf([run("a"), run("b")], {
    curves: new Map([
      ["a", [point(1, 9), point(2, 8)]],
      ["b", [point(1, 4)]],
    ]),
    incidents: new Map(),
    checkpoints: new Map(),
  });
  assert.deepEqual([story.points.length, story.marks.length], [1, 0]);
});
