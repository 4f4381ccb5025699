import assert from "node:assert/strict";
import { test } from "node:test";
import { type Incident, IncidentOutcome } from "../../../gen/goku/v1/controller.pb.js";
import type { CellExpectation, CellFacts } from "./cell.js";
import { judgeCell } from "./judge_cell.js";

const STEPS = 20;
const UNDISTURBED = new Map(Array.from({ length: STEPS }, (_, i) => [i + 1, 1 / (i + 1)]));

function incident(values: Partial<Incident>): Incident {
  return {
    id: 1n,
    job: "faults",
    detectedAt: new Date(0),
    what: "rank 3 on node-b ended by SIGKILL",
    code: "RANK_DIED",
    rank: 3,
    nodeId: "node-b",
    evidence: [],
    decision: "",
    generationBefore: 1n,
    generationAfter: 2n,
    milestones: [],
    stepsLost: 0n,
    outcome: IncidentOutcome.RECOVERED,
    lastLines: [],
    stacks: [],
    stepBefore: 13n,
    ...values,
  };
}

/** A rank died in step 14, and training went on from step 13, which was left in memory. */
function facts(values: Partial<CellFacts> = {}): CellFacts {
  return {
    phase: "COMPLETED",
    reason: "all steps are done",
    stepsTotal: STEPS,
    losses: UNDISTURBED,
    generations: [
      { number: 1, first: 1, last: 13 },
      { number: 2, first: 14, last: STEPS },
    ],
    incidents: [incident({})],
    generationStruck: 1,
    copyLeft: { step: 13, where: "memory" },
    nodesBefore: ["node-a", "node-a", "node-b", "node-b"],
    seen: [
      { number: 1, nodes: ["node-a", "node-b"], step: 13 },
      { number: 2, nodes: ["node-a", "node-b"], step: STEPS },
    ],
    shunned: [],
    named: { ranks: [3], nodes: ["node-b"], controller: false, etcd: [] },
    ...values,
  };
}

function expectation(values: Partial<CellExpectation> = {}): CellExpectation {
  return {
    losses: UNDISTURBED,
    tolerance: 0,
    untoldMax: 0,
    quiet: false,
    culprit: { kind: "rank", rank: 3, node: "node-b" },
    code: null,
    harmed: ["node-b"],
    replacedMax: 1,
    ...values,
  };
}

test("judgeCell() finds nothing wrong with a run that went on from the newest copy left", () => {
  assert.deepEqual(judgeCell(facts(), expectation()), []);
});

test("judgeCell() refuses a job that did not complete, and says why it did not", () => {
  const [failure] = judgeCell(
    facts({ phase: "FAILED", reason: "Cannot recover: 5 of 5 attempts" }),
    expectation(),
  );
  assert.equal(failure, "the job ended FAILED: Cannot recover: 5 of 5 attempts");
});

test("judgeCell() refuses one loss that is off by a bit, and one that is not a number", () => {
  for (const loss of [1 / 14 + Number.EPSILON, Number.NaN]) {
    const losses = new Map(UNDISTURBED).set(14, loss);
    assert.match(judgeCell(facts({ losses }), expectation())[0]!, /^step 14: loss .*, undisturbed 0\.0714/);
  }
});

test("judgeCell() allows what another layout may differ by, and not more", () => {
  const off = (relative: number) => facts({ losses: new Map(UNDISTURBED).set(14, (1 + relative) / 14) });
  assert.deepEqual(judgeCell(off(9e-6), expectation({ tolerance: 1e-5 })), []);
  assert.equal(judgeCell(off(2e-5), expectation({ tolerance: 1e-5 })).length, 1);
});

test("judgeCell() refuses steps that were never told, beyond those that went with a process", () => {
  const losses = new Map(UNDISTURBED);
  losses.delete(13);
  assert.deepEqual(judgeCell(facts({ losses }), expectation()), ["1 of 20 steps were never told"]);
  assert.deepEqual(judgeCell(facts({ losses }), expectation({ untoldMax: 1 })), []);
});

test("judgeCell() refuses a run that goes on from before the newest copy left, by a single step", () => {
  const generations = [
    { number: 1, first: 1, last: 13 },
    { number: 2, first: 13, last: STEPS },
  ];
  assert.deepEqual(judgeCell(facts({ generations }), expectation()), [
    "training went on from step 12, the newest copy left is of step 13 (memory)",
  ]);
  const copyLeft = { step: 10, where: "checkpoint" } as const;
  assert.deepEqual(judgeCell(facts({ generations, copyLeft }), expectation()), []);
});

test("judgeCell() refuses that a later generation goes back behind the newest copy left, though the next did not", () => {
  const generations = [
    { number: 1, first: 1, last: 13 },
    { number: 2, first: 14, last: 15 },
    { number: 3, first: 11, last: STEPS },
  ];
  const seen = [...facts().seen, { number: 3, nodes: ["node-a", "node-b"], step: STEPS }];
  assert.deepEqual(judgeCell(facts({ generations, seen }), expectation()), [
    "training went on from step 10, the newest copy left is of step 13 (memory)",
  ]);
});

/** The second generation as its ranks' pages show it. */
const secondOn = (...nodes: string[]) => [facts().seen[0]!, { number: 2, nodes, step: STEPS }];

test("judgeCell() refuses that a node loses its ranks, or is shunned, when nothing was wrong with it", () => {
  const innocent = ["node-a lost its ranks, and nothing was wrong with it"];
  assert.deepEqual(judgeCell(facts({ seen: secondOn("node-b", "node-c") }), expectation()), innocent);
  assert.deepEqual(judgeCell(facts({ shunned: ["node-a"] }), expectation()), innocent);
  assert.deepEqual(judgeCell(facts({ seen: secondOn("node-a", "node-c") }), expectation()), []);
});

test("judgeCell() refuses that an innocent node loses its ranks for one generation and has them back in the end", () => {
  const generations = [...facts().generations, { number: 3, first: STEPS, last: STEPS }];
  const seen = [...secondOn("node-b", "node-c"), { number: 3, nodes: ["node-a", "node-b"], step: STEPS }];
  assert.deepEqual(judgeCell(facts({ generations, seen }), expectation()), [
    "node-a lost its ranks, and nothing was wrong with it",
  ]);
});

test("judgeCell() refuses a run in the end of which nobody saw which nodes had ranks", () => {
  const [failure] = judgeCell(facts({ seen: facts().seen.slice(0, 1) }), expectation());
  assert.match(failure!, /^no pages of generation 2 were seen/);
});

test("judgeCell() refuses that both nodes go where the loss of one ends the fault", () => {
  const seen = secondOn("node-c", "node-d");
  const harmed = ["node-a", "node-b"];
  assert.equal(judgeCell(facts({ seen }), expectation({ harmed })).length, 1);
  assert.deepEqual(judgeCell(facts({ seen }), expectation({ harmed, replacedMax: 2 })), []);
});

test("judgeCell() refuses a verdict that names another than the fault is in, or nobody", () => {
  const named = (values: Partial<CellFacts["named"]>) => facts({ named: { ...facts().named, ...values } });
  const failures = (values: Partial<CellFacts["named"]>) => judgeCell(named(values), expectation());
  assert.deepEqual(failures({ ranks: [2] }), ["named rank 2, node-b, the fault is in rank 3, node-b"]);
  assert.deepEqual(failures({ ranks: [], nodes: [] }), ["named nobody, the fault is in rank 3, node-b"]);
});

test("judgeCell() refuses an interruption by a fault beside training, but not the one that came before", () => {
  assert.match(
    judgeCell(facts(), expectation({ quiet: true }))[0]!,
    /^training was interrupted, .*ended by SIGKILL/,
  );
  assert.deepEqual(judgeCell(facts({ generationStruck: 2 }), expectation({ quiet: true })), []);
  const unseen = facts({ generations: facts().generations.slice(0, 1), incidents: [] });
  assert.match(judgeCell(unseen, expectation({ quiet: true }))[0]!, /interrupted, .*: generation 2$/);
});

test("a cell fails whose incident is called by another name than the fault's own", () => {
  const killed = expectation({ code: "NODE_OUT_OF_MEMORY" });
  assert.deepEqual(judgeCell(facts(), killed), ["incidents are RANK_DIED, want NODE_OUT_OF_MEMORY"]);
  assert.deepEqual(judgeCell(facts({ incidents: [incident({ code: "NODE_OUT_OF_MEMORY" })] }), killed), []);
});
