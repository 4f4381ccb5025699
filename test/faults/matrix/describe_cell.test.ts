import assert from "node:assert/strict";
import { test } from "node:test";
import type { Incident } from "../../../gen/goku/v1/controller.pb.js";
import type { CellExpectation, CellFacts } from "./cell.js";
import { describeCell, namedIn, type Told } from "./describe_cell.js";

const STRUCK_MS = 10_000;
const EXPECTED: CellExpectation = {
  losses: new Map(),
  tolerance: 0,
  untoldMax: 0,
  quiet: false,
  culprit: { kind: "nothing" },
  code: null,
  harmed: [],
  replacedMax: 1,
};

/** Of rank 0, three seconds before the fault that the cell is about. */
const EARLIER = {
  detectedAt: new Date(STRUCK_MS - 3_000),
  what: "rank 0 on node-a ended by SIGKILL",
  code: "RANK_DIED",
  rank: 0,
  nodeId: "node-a",
  generationBefore: 1n,
  decision: "form generation 2 as 1x2x2: all 2 nodes answer",
} as Incident;

function facts(values: Partial<CellFacts> = {}): CellFacts {
  return {
    phase: "COMPLETED",
    reason: "",
    stepsTotal: 20,
    losses: new Map(),
    generations: [{ number: 1, first: 1, last: 20 }],
    seen: [],
    incidents: [EARLIER],
    generationStruck: 2,
    copyLeft: { step: 0, where: "initial values" },
    nodesBefore: ["node-a", "node-a", "node-b", "node-b"],
    shunned: [],
    named: { ranks: [], nodes: [], controller: false, etcd: [] },
    ...values,
  };
}

function told(...messages: string[]): Told {
  return {
    events: messages.map((message, i) => ({ kind: "phase", message, timeMs: STRUCK_MS + 100 * (i + 1) })),
    steps: [],
    struckAtMs: STRUCK_MS,
    training: { steps: 0, pauseSeconds: 0 },
    control: null,
  };
}

test("describeCell() takes neither the end of an earlier fault nor of the job for the detection of one", () => {
  const cell = describeCell(
    facts(),
    EXPECTED,
    told("recovered in 4.0 s, 0 steps lost: rank 0 on node-a ended by SIGKILL", "node-c is free again"),
  );
  assert.deepEqual(cell.detected, { by: "", seconds: null });
  assert.equal(cell.localised, "nobody");
});

test("describeCell() takes what was told first after the fault, where an earlier one's incident is open", () => {
  const cell = describeCell(facts(), EXPECTED, told("rank 3 on node-b ended by SIGSEGV", "rank 1 on node-a"));
  assert.deepEqual(cell.detected, { by: "rank 3 on node-b ended by SIGSEGV", seconds: 0.1 });
});

test("namedIn() does not name what an earlier fault was in", () => {
  const nobody = { ranks: [], nodes: [], controller: false, etcd: [] };
  assert.deepEqual(namedIn({ incidents: [EARLIER] }, told(), []), nobody);
  const news = told("rank 3 on node-b ended by SIGSEGV");
  assert.deepEqual(namedIn({ incidents: [EARLIER] }, news, []), { ...nobody, ranks: [3], nodes: ["node-b"] });
});

test("namedIn() names all that incidents since the fault name, so that a wrong one is not outvoted by a right one", () => {
  const later = [
    { ...EARLIER, detectedAt: new Date(STRUCK_MS + 10), rank: 3, nodeId: "node-b" },
    { ...EARLIER, detectedAt: new Date(STRUCK_MS + 900), rank: 1, nodeId: "node-a" },
  ];
  assert.deepEqual(namedIn({ incidents: later }, told(), []).ranks, [3, 1]);
});

test("describeCell() counts as lost what was told or seen complete and is computed again, whatever incidents say", () => {
  const generations = [
    { number: 1, first: 1, last: 12 },
    { number: 2, first: 11, last: 20 },
  ];
  const lost = (step: number) =>
    describeCell(
      facts({ generations, seen: [{ number: 1, nodes: [], step }], incidents: [] }),
      EXPECTED,
      told(),
    ).stepsLost;
  assert.equal(lost(9), 2);
  assert.equal(lost(13), 3);
});
