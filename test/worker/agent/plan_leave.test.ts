import assert from "node:assert/strict";
import { test } from "node:test";
import { type LeaveView, planLeave } from "../../../worker/agent/plan_leave.js";

/** Two ranks that train, a controller there, a second of ten gone. */
const TRAINS: LeaveView = {
  passedMs: 1_000,
  graceMs: 10_000,
  linked: true,
  holds: true,
  stages: ["running", "running"],
  stopAsked: false,
  finalBegun: false,
  heldBegun: false,
  idle: true,
  saveMs: null,
};

const CASES: [when: string, view: Partial<LeaveView>, wanted: ReturnType<typeof planLeave>["kind"]][] = [
  ["nothing of a job is here", { holds: false, stages: [] }, "end"],
  ["the controller has a quarter of the grace to answer", {}, "wait"],
  ["the controller did not answer in time", { passedMs: 2_500 }, "askStop"],
  ["no controller is there", { linked: false }, "askStop"],
  ["no controller is there and the ranks were asked", { linked: false, stopAsked: true }, "wait"],
  ["the ranks were asked and vote late", { passedMs: 7_400, stopAsked: true }, "wait"],
  ["no vote came", { passedMs: 7_500, stopAsked: true }, "saveHeld"],
  ["no vote came, and no controller", { passedMs: 5_000, stopAsked: true, linked: false }, "saveHeld"],
  ["the ranks left their work and a controller may say more", { stages: ["left", "left"] }, "wait"],
  ["the ranks left their work and nobody can say more", { stages: ["left"], linked: false }, "saveHeld"],
  ["one rank is new, nobody can say more", { stages: ["running", "preparing"], linked: false }, "askStop"],
  ["the last save is being written", { passedMs: 8_000, finalBegun: true, idle: false }, "wait"],
  [
    "one rank has ended, the other saves",
    { stages: ["finished", "running"], finalBegun: true, idle: false },
    "wait",
  ],
  [
    "all ranks have ended, a write goes on",
    { stages: ["finished", "finished"], finalBegun: true, idle: false },
    "wait",
  ],
  ["all ranks have ended", { stages: ["finished", "finished"], finalBegun: true }, "end"],
  ["memory is being written", { passedMs: 9_000, heldBegun: true, idle: false }, "wait"],
  ["memory is durable", { passedMs: 9_000, heldBegun: true }, "end"],
  ["the grace is over in the middle of a save", { passedMs: 10_000, finalBegun: true, idle: false }, "end"],
  ["a vote may come late, since saves are short", { passedMs: 8_900, stopAsked: true, saveMs: 100 }, "wait"],
  [
    "no vote came before a short save must begin",
    { passedMs: 9_000, stopAsked: true, saveMs: 100 },
    "saveHeld",
  ],
  [
    "saves take a third of the grace: no vote is waited for beyond the first third",
    { passedMs: 3_400, stopAsked: true, linked: false, saveMs: 3_300 },
    "saveHeld",
  ],
  ["and until then one is", { passedMs: 3_300, stopAsked: true, linked: false, saveMs: 3_300 }, "wait"],
  [
    "saves take longer than the grace, and no controller is there",
    { passedMs: 0, stopAsked: true, linked: false, saveMs: 20_000 },
    "saveHeld",
  ],
  [
    "saves take longer than the grace: the controller, which decides alike, is given time to answer",
    { passedMs: 2_400, stopAsked: true, saveMs: 20_000 },
    "wait",
  ],
  ["it has not", { passedMs: 2_500, stopAsked: true, saveMs: 20_000 }, "saveHeld"],
  ["there is no grace at all", { passedMs: 0, graceMs: 0 }, "end"],
];
for (const [when, view, wanted] of CASES) {
  test(`planLeave() when ${when}: ${wanted}`, () => {
    const step = planLeave({ ...TRAINS, ...view });
    assert.equal(step.kind, wanted, step.reason);
    assert.notEqual(step.reason, "");
  });
}
