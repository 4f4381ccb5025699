import assert from "node:assert/strict";
import { test } from "node:test";
import { type MembersInput, type MembersPlan, planMembers } from "../../../controller/core/plan_members.js";
import { chooseLayout } from "../../../job/choose_layout.js";
import type { LayoutSize } from "../../../job/layout.js";
import { jobOf } from "./harness.js";

const node = (nodeId: string, slots: number) => ({ nodeId, slots, held: [] });
const fixed: LayoutSize = { dp_replicate: 1, dp_shard: 2, sp: 2 };
const prior = { layout: fixed, rankNodes: ["a", "a", "b", "b"] };

function plan(input: Partial<MembersInput>): MembersPlan {
  return planMembers({
    nowMs: 100_000,
    job: jobOf({ layout: fixed }),
    nodes: [],
    prior: null,
    givenUp: new Map(),
    avoid: new Map(),
    waitSinceMs: 90_000,
    nodesChangedMs: 0,
    busySlots: 0,
    layoutSettleMs: 2_000,
    chooseLayout,
    ...input,
  });
}
const auto = jobOf({ layout: "auto" });

interface Case {
  name: string;
  input: Partial<MembersInput>;
  want: string;
}
const cases: Case[] = [
  {
    name: "forms when the slots suffice",
    input: { nodes: [node("a", 2), node("b", 2)] },
    want: "form 1x2x2 a a b b",
  },
  {
    name: "waits for a fixed layout with too few slots",
    input: { nodes: [node("a", 2)] },
    want: "wait never",
  },
  {
    name: "waits until no node joins any more before an auto layout",
    input: { job: auto, nodes: [node("a", 2)], nodesChangedMs: 99_000 },
    want: "wait 101000",
  },
  {
    name: "takes all free slots for an auto layout",
    input: { job: auto, nodes: [node("a", 2), node("b", 1)] },
    want: "form 1x3x1 a a b",
  },
  { name: "waits with an auto layout while there is no slot", input: { job: auto }, want: "wait never" },
  {
    name: "forms again on the nodes that answer",
    input: { prior, nodes: [node("a", 2), node("b", 2), node("c", 2)] },
    want: "form 1x2x2 a a b b",
  },
  {
    name: "waits for a lost node though a spare is there",
    input: { prior, nodes: [node("a", 2), node("c", 2)] },
    want: "wait 150000",
  },
  {
    name: "takes a spare when the grace is over",
    input: { prior, nodes: [node("a", 2), node("c", 2)], waitSinceMs: 40_000 },
    want: "form 1x2x2 a a c c",
  },
  {
    name: "takes a spare at once for a node that is given up",
    input: { prior, nodes: [node("a", 2), node("c", 2)], givenUp: new Map([["b", "bad"]]) },
    want: "form 1x2x2 a a c c",
  },
  {
    name: "shrinks an auto layout when the grace is over",
    input: { job: auto, prior, nodes: [node("a", 2)], waitSinceMs: 40_000 },
    want: "form 1x2x1 a a",
  },
  {
    name: "is exhausted when a fixed layout has no spare after the grace",
    input: { prior, nodes: [node("a", 2)], waitSinceMs: 40_000 },
    want: "exhausted NODE_LOST",
  },
  {
    name: "waits the grace when a node returns with fewer slots",
    input: { prior, nodes: [node("a", 2), node("b", 1)] },
    want: "wait 150000",
  },
  {
    name: "leaves a node that keeps failing when others suffice",
    input: { prior, nodes: [node("a", 2), node("b", 2), node("c", 2)], avoid: new Map([["b", "3 faults"]]) },
    want: "form 1x2x2 a a c c",
  },
  {
    name: "stays on a node that keeps failing when nothing else is free",
    input: { prior, nodes: [node("a", 2), node("b", 2)], avoid: new Map([["b", "3 faults"]]) },
    want: "form 1x2x2 a a b b",
  },
];

function text(result: MembersPlan): string {
  if (result.kind === "form") return `form ${result.layout} ${result.rankNodes.join(" ")}`;
  return result.kind === "wait" ? `wait ${result.retryAtMs ?? "never"}` : `exhausted ${result.code}`;
}
for (const { name, input, want } of cases) {
  test(`planMembers() ${name}`, () => {
    const result = plan(input);
    assert.equal(text(result), want, result.reason);
  });
}

test("planMembers() prints the arithmetic of a layout that has to wait", () => {
  assert.equal(
    plan({ nodes: [node("a", 2), node("b", 1)], busySlots: 8 }).reason,
    "layout 1x2x2 needs dp_replicate 1 * dp_shard 2 * sp 2 = 4 ranks: 3 slots free on 2 nodes, 8 more serve other jobs",
  );
});

test("planMembers() names what it waits for, and for how long", () => {
  assert.equal(
    plan({ prior, nodes: [node("a", 2)] }).reason,
    "waits for b (ranks 2, 3), at most 60 s: the state in its memory is the newest",
  );
});
