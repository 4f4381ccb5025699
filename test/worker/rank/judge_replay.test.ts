import assert from "node:assert/strict";
import { test } from "node:test";
import { Layout } from "../../../job/layout.js";
import type { VoteResult } from "../../../worker/parallel/vote.js";
import { judgeMoved, judgeReplay, mayBeMoved } from "../../../worker/rank/judge_replay.js";

const BAD = Number.NaN;
const vote = (packLosses: number[], differences: VoteResult["differences"] = null) =>
  ({ packLosses, differences }) as VoteResult;
const same = { losses: false, norm: false };

test("judgeReplay() tells the packs of the first try and the ranks whose numbers differed in the second", () => {
  const differences = [same, { losses: true, norm: true }, { losses: false, norm: true }];
  const replay = judgeReplay(vote([1, BAD, 2]), vote([1, 3, 2], differences));
  assert.deepEqual(replay, { packs: [1], lossRanks: [1], normRanks: [1, 2], homeRanks: [] });
});

test("mayBeMoved() where all was the same, and there are other ranks to compute the packs", () => {
  const replay = judgeReplay(vote([BAD]), vote([BAD], [same, same]));
  assert.equal(mayBeMoved(replay, Layout.parse("1x2x1")), true);
  assert.equal(mayBeMoved(replay, Layout.parse("1x1x2")), false);
  assert.equal(mayBeMoved({ ...replay, normRanks: [0] }, Layout.parse("1x2x1")), false);
});

const CASES: { name: string; layout: string; atHome: number[]; moved: number[]; want: number[] }[] = [
  { name: "bad data is bad anywhere", layout: "1x2x2", atHome: [1, BAD, 2], moved: [1, BAD, 2], want: [] },
  {
    name: "the second of two sequence groups is wrong, at home and with what comes to it",
    layout: "1x2x2",
    atHome: [1, BAD, 2],
    moved: [BAD, 1, BAD],
    want: [2, 3],
  },
  {
    name: "the last rank, whose packs go round to the first",
    layout: "1x3x1",
    atHome: [1, 2, BAD],
    moved: [1, BAD, 2],
    want: [2],
  },
  {
    name: "bad data, and a rank that is wrong beside it",
    layout: "1x3x1",
    atHome: [BAD, BAD, 1],
    moved: [BAD, 2, 1],
    want: [1],
  },
  {
    name: "a spike of the data is the same anywhere, to a rounding",
    layout: "1x2x1",
    atHome: [1, 900, 2],
    moved: [1.000001, 900.001, 2],
    want: [],
  },
  {
    name: "the second rank makes all losses large, also those that come to it",
    layout: "1x3x1",
    atHome: [1, 900, 2],
    moved: [1000, 0.9, 2],
    want: [1],
  },
];
for (const { name, layout, atHome, moved, want } of CASES) {
  test(`judgeMoved(): ${name}`, () => {
    assert.deepEqual(judgeMoved(vote(atHome), vote(moved), Layout.parse(layout)), want);
  });
}
