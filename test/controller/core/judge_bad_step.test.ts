import assert from "node:assert/strict";
import { test } from "node:test";
import { type BadStepVerdict, judgeBadStep } from "../../../controller/core/judge_bad_step.js";
import { StepCompleted, type StepReplay } from "../../../gen/goku/v1/agent.pb.js";
import { Layout } from "../../../job/layout.js";

const NODES = ["a", "a", "b", "b"];
const TWO = new Layout({ dp_replicate: 1, dp_shard: 2, sp: 2 });
type Replay = Partial<StepReplay>;
const SPIKE = { value: 9, limit: 3, median: 1 };
const step = (applied: boolean, replay?: Replay) =>
  StepCompleted.fromPartial({ step: 12n, applied, ...(replay && { replay }) });

const CASES: {
  name: string;
  step: StepCompleted;
  layout?: Layout;
  want: Pick<BadStepVerdict, "cause" | "rank" | "nodeId"> | null;
  text?: RegExp;
}[] = [
  { name: "an ordinary step", step: step(true), want: null },
  { name: "one that is not computed", step: StepCompleted.fromPartial({ leftOut: "roll_back" }), want: null },
  {
    name: "a spike that is the same again",
    step: step(true, { loss: SPIKE, gradient: { ...SPIKE, value: 40 } }),
    want: { cause: "data", rank: null, nodeId: null },
    text: /^step 12 had a loss of 9.000: a spike, above 3.000, .* and a gradient norm of 40.00: a spike, .* applied all the same$/,
  },
  {
    name: "a spike of one rank, once",
    step: step(true, { lossRanks: [2], loss: SPIKE }),
    want: { cause: "hardware", rank: 2, nodeId: "b" },
    text: /^step 12 had a loss of 9.000.* other losses of rank 2 .*a device of b; applied with the second numbers$/,
  },
  {
    name: "a spike of one sequence group, always",
    step: step(false, { homeRanks: [2, 3], loss: SPIKE }),
    want: { cause: "hardware", rank: null, nodeId: "b" },
    text: /on ranks 2, 3 only: others find smaller losses: hardware is wrong/,
  },
  {
    name: "voted down without a second try: samples",
    step: step(false),
    want: { cause: "unread", rank: null, nodeId: null },
    text: /^step 12 is voted down, .*could not read the same samples/,
  },
  {
    name: "the same again: data or weights",
    step: step(false, { packs: [1, 2], lossRanks: [], normRanks: [] }),
    want: { cause: "data", rank: null, nodeId: null },
    text: /^step 12 was not finite \(packs 1, 2\), and the same again .* voted down, no weight changed$/,
  },
  {
    name: "other losses of one rank: it is named, whatever its gradients have reached",
    step: step(true, { packs: [1], lossRanks: [2], normRanks: [0, 1, 2, 3] }),
    want: { cause: "hardware", rank: 2, nodeId: "b" },
    text: /^step 12 was not finite \(pack 1\), and other losses of rank 2 .*a device of b; applied with the second numbers$/,
  },
  {
    name: "other losses of a sequence group: its node is named",
    step: step(true, { packs: [1], lossRanks: [2, 3], normRanks: [] }),
    want: { cause: "hardware", rank: null, nodeId: "b" },
  },
  {
    name: "other losses on two nodes: nobody is named",
    step: step(true, { packs: [1], lossRanks: [1, 2], normRanks: [] }),
    want: { cause: "hardware", rank: null, nodeId: null },
    text: /it does not tell which device/,
  },
  {
    name: "other gradients only, be it of one shard: nobody is named, since any rank adds to it",
    step: step(true, { packs: [], lossRanks: [], normRanks: [3] }),
    want: { cause: "hardware", rank: null, nodeId: null },
    text: /\(gradients\), and other gradients of rank 3/,
  },
  {
    name: "the same again, and finite on other ranks: the ranks that always find it so are named",
    step: step(false, { packs: [1], lossRanks: [], normRanks: [], homeRanks: [2, 3] }),
    want: { cause: "hardware", rank: null, nodeId: "b" },
    text: /^step 12 was not finite \(pack 1\), and on ranks 2, 3 only: others find their packs finite: hardware is wrong/,
  },
  {
    name: "not finite again, but otherwise: hardware all the same",
    step: step(false, { packs: [1], lossRanks: [0], normRanks: [] }),
    want: { cause: "hardware", rank: 0, nodeId: "a" },
    text: /hardware was wrong, a device of a; voted down/,
  },
  {
    name: "the same again, where all ranks share one sequence: it is not told",
    step: step(false, { packs: [1], lossRanks: [], normRanks: [] }),
    layout: new Layout({ dp_replicate: 1, dp_shard: 1, sp: 4 }),
    want: { cause: "untold", rank: null, nodeId: null },
    text: /data or weights make it so, or a device that is always wrong, since no other ranks could compute it; voted down/,
  },
];
for (const { name, step: told, layout = TWO, want, text } of CASES) {
  test(`judgeBadStep(): ${name}`, () => {
    const verdict = judgeBadStep(told, { rankNodes: NODES, layout });
    const { cause, rank, nodeId } = verdict ?? {};
    assert.deepEqual(verdict && { cause, rank, nodeId }, want);
    if (text) assert.match(verdict!.text, text);
  });
}
