import assert from "node:assert/strict";
import { test } from "node:test";
import {
  chooseSet,
  compareStates,
  distinctHeld,
  findHeld,
  newestHeld,
  type SnapshotSet,
  supersededSets,
} from "../../../worker/agent/snapshot_sets.js";

function set(
  path: string,
  options: {
    rank?: number;
    layout?: string;
    replica?: boolean;
    owner?: number | null;
    states?: [number, number][];
  },
): SnapshotSet {
  const { rank = 0, layout = "1x2x2", replica = false, owner = null, states = [] } = options;
  const held = states.map(([generation, step], i) => {
    const state = { generation: String(generation), step };
    return { path: `${path}/slot-${i}`, bytes: 100, state, rank, layout };
  });
  return { path, rank, layout, replica, owner, held };
}
const wanted = { process: 7, rank: 0, layout: "1x2x2" };

test("chooseSet() prefers the process's own set, then the orphaned one with the newest state", () => {
  const old = set("old", { states: [[1, 50]] });
  const newer = set("newer", { states: [[2, 10]] });
  const own = set("own", { owner: 7 });
  assert.equal(chooseSet({ sets: [old, newer, own], ...wanted })?.path, "own");
  assert.equal(chooseSet({ sets: [old, newer], ...wanted })?.path, "newer");
});

test("newestHeld() is the newest state that every rank of the node holds in the layout, in whichever set", () => {
  const sets = [
    set("a", {
      rank: 0,
      states: [
        [1, 5],
        [1, 6],
      ],
    }),
    set("b", {
      rank: 1,
      states: [
        [1, 5],
        [1, 4],
      ],
    }),
    set("c", { rank: 1, layout: "1x4x1", states: [[1, 6]] }),
  ];
  const newest = (...ranks: number[]) => newestHeld(sets, { ranks, layout: "1x2x2" })?.step ?? null;
  assert.deepEqual([newest(0), newest(1), newest(0, 1), newest(0, 1, 2)], [6, 5, 5, null]);
});

test("chooseSet() never takes a set whose writer lives, nor one of another rank or layout", () => {
  const sets = [
    set("a", { owner: 3, states: [[1, 1]] }),
    set("b", { rank: 1, states: [[1, 1]] }),
    set("c", { layout: "1x4x1", states: [[1, 1]] }),
  ];
  assert.equal(chooseSet({ sets, ...wanted }), null);
});

test("chooseSet() takes over an orphaned set that holds nothing whole, so that its memory is used again", () => {
  assert.equal(chooseSet({ sets: [set("empty", {})], ...wanted })?.path, "empty");
});

test("findHeld() finds a state in the rank's own set first, and never another rank's or layout's", () => {
  const state = { generation: "2", step: 10 };
  const sets = [
    set("elsewhere", { states: [[2, 10]] }),
    set("own", {
      states: [
        [2, 9],
        [2, 10],
      ],
    }),
    set("other", { rank: 1, states: [[2, 11]] }),
  ];
  const wantedState = { state, rank: 0, layout: "1x2x2", ownSet: "own" };
  assert.equal(findHeld(sets, wantedState)?.path, "own/slot-1");
  assert.equal(findHeld(sets.slice(0, 1), wantedState)?.path, "elsewhere/slot-0");
  assert.equal(findHeld(sets, { ...wantedState, rank: 1 }), null);
  assert.equal(findHeld(sets, { ...wantedState, layout: "1x4x1" }), null);
  assert.equal(findHeld(sets, { ...wantedState, state: { generation: "1", step: 10 } }), null);
});

test("distinctHeld() names each state of a rank once, in an order that does not depend on the folders'", () => {
  const a = set("a", {
    states: [
      [1, 2],
      [1, 3],
    ],
  });
  const b = set("b", { states: [[1, 3]] });
  const steps = (sets: SnapshotSet[]) => distinctHeld(sets).map((held) => held.state.step);
  assert.deepEqual(steps([a, b]), [2, 3]);
  assert.deepEqual(steps([b, a]), [2, 3]);
});

test("supersededSets() waits for a completed step and for a whole snapshot in every running set", () => {
  const old = set("old", { states: [[1, 5]] });
  const empty = set("new", { owner: 1 });
  const filled = set("new", { owner: 1, states: [[2, 6]] });
  const stepCompleted = true;
  assert.deepEqual(supersededSets({ sets: [old, empty], running: ["new"], stepCompleted }), []);
  assert.deepEqual(supersededSets({ sets: [old, filled], running: ["new"], stepCompleted: false }), []);
  assert.deepEqual(supersededSets({ sets: [old, filled], running: [], stepCompleted }), []);
  assert.deepEqual(supersededSets({ sets: [old, filled], running: ["new"], stepCompleted }), ["old"]);
});

test("compareStates() orders by generation, then step, and puts no state first", () => {
  const state = (generation: string, step: number) => ({ generation, step });
  assert.ok(compareStates(state("10", 1), state("9", 99)) > 0);
  assert.ok(compareStates(state("9", 1), state("9", 2)) < 0);
  assert.equal(compareStates(state("9", 2), state("9", 2)), 0);
  assert.ok(compareStates(null, state("0", 0)) < 0);
  assert.equal(compareStates(null, null), 0);
});
