import assert from "node:assert/strict";
import { test } from "node:test";
import { Layout } from "../../../job/layout.js";
import type { StepInput } from "../../../worker/parallel/step_types.js";
import type { VoteResult } from "../../../worker/parallel/vote.js";
import type { BadNumbers } from "../../../worker/rank/judge_numbers.js";
import { retryStep } from "../../../worker/rank/retry_step.js";

const INPUT = { step: 7, moved: 0 } as StepInput;

/** Two data ranks and two packs; each try gives the next of these losses, `differs` the ranks that were not the same. */
async function tries(
  losses: number[][],
  differs: number[] = [],
  layout = "1x2x1",
  excluded: number[][] = [[], [], []],
  judge: (vote: VoteResult) => BadNumbers | null = notFinite,
) {
  const asked: [moved: number, again: boolean][] = [];
  const attempt = ({ moved }: StepInput, again: boolean) => {
    const packLosses = losses[asked.length]!;
    const unreadable = excluded[asked.length]!;
    asked.push([moved, again]);
    const loss = packLosses.reduce((a, b) => a + b, 0);
    const differences = again
      ? [0, 1].map((rank) => ({ losses: differs.includes(rank), norm: false }))
      : null;
    const numbersFinite = Number.isFinite(loss);
    return {
      packLosses,
      loss,
      gradNorm: loss,
      numbersFinite,
      finite: numbersFinite,
      differences,
      excluded: unreadable,
    } as VoteResult;
  };
  const movedOn = async (input: StepInput) => ({ ...input, moved: 1 });
  const { vote, replay } = await retryStep(INPUT, { layout: Layout.parse(layout), attempt, movedOn, judge });
  return { asked, finite: vote.finite, loss: vote.loss, excluded: vote.excluded, replay };
}
const notFinite = ({ numbersFinite }: VoteResult): BadNumbers | null =>
  numbersFinite ? null : { why: "not_finite", isTaken: false };
/** Losses above 100 are spikes. */
const spike = (isTaken: boolean) => (vote: VoteResult) =>
  vote.loss > 100 ? { why: "spike" as const, isTaken } : null;
const BAD = Number.NaN;

test("an ordinary step is computed once", async () => {
  const { asked, finite, replay } = await tries([[1, 2]]);
  assert.deepEqual([asked, finite, replay], [[[0, false]], true, null]);
});

test("what is finite the second time counts, with the rank that was wrong", async () => {
  const { asked, finite, loss, replay } = await tries(
    [
      [1, BAD],
      [1, 2],
    ],
    [1],
  );
  assert.deepEqual(asked, [
    [0, false],
    [0, true],
  ]);
  assert.deepEqual([finite, loss], [true, 3]);
  assert.deepEqual(replay, { packs: [1], lossRanks: [1], normRanks: [], homeRanks: [] });
});

test("what is the same again is tried by the other ranks, and not applied even where they find it finite", async () => {
  const wrong = await tries([
    [1, BAD],
    [1, BAD],
    [1, 2],
  ]);
  assert.deepEqual(wrong.asked, [
    [0, false],
    [0, true],
    [1, false],
  ]);
  assert.deepEqual([wrong.finite, wrong.loss], [false, BAD], "told as it was at home");
  assert.deepEqual(wrong.replay!.homeRanks, [1]);
  const data = await tries([
    [1, BAD],
    [1, BAD],
    [1, BAD],
  ]);
  assert.deepEqual([data.finite, data.replay!.homeRanks], [false, []]);
});

test("with one data rank, or where the second try already differs, nobody else tries", async () => {
  assert.equal((await tries([[BAD], [BAD]], [], "1x1x2")).asked.length, 2);
  assert.equal(
    (
      await tries(
        [
          [1, BAD],
          [BAD, 1],
        ],
        [0, 1],
      )
    ).asked.length,
    2,
  );
});

test("a sample that only the rank could not read whose pack it is in is left out, though others could", async () => {
  const same = [1, BAD];
  const { asked, excluded } = await tries([same, same, same], [], "1x2x1", [[4], [4], [9]]);
  assert.equal(asked.length, 3);
  assert.deepEqual(excluded, [4]);
});

test("a spike that is gone the second time counts as it is then; one that stays goes to the other ranks, unless it is applied all the same", async () => {
  const large = [
    [1, 900],
    [1, 900],
    [1, 2],
  ];
  const once = await tries([large[0]!, large[2]!], [1], "1x2x1", undefined, spike(false));
  assert.deepEqual([once.asked.length, once.loss, once.replay!.lossRanks], [2, 3, [1]]);
  const always = await tries(large, [], "1x2x1", undefined, spike(false));
  assert.deepEqual([always.asked.length, always.finite, always.loss], [3, false, 901]);
  assert.deepEqual(always.replay!.homeRanks, [1]);
  const taken = await tries(large, [], "1x2x1", undefined, spike(true));
  assert.deepEqual([taken.asked.length, taken.finite, taken.loss], [2, true, 901]);
});
